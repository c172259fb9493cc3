"""A KV cache at fixed addresses: layers with room, and the steps of an answer on them.

After pruning, layers hold different numbers of tokens (trap 3), so each length has a `Room` of its
own: where the next token goes, and the mask that hides what lies behind it. Both are computed on
the device from one counter, so that a recorded step finds new values in them at every replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from seats_cli.engine.cache import cache_of
from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import hooked, use_attention

ONE_QUERY = "seats_one_query"
CHUNK = 256  # tokens; the capacity of a layer is a multiple
_HALF = (torch.float16, torch.bfloat16)


class PreallocatedLayer(CacheLayerMixin):  # type: ignore[misc]
    """Holds what a dynamic layer held, with room behind it, until `give_back`.

    Parameters
    ----------
    dynamic : DynamicLayer
        Filled; it is empty while this layer stands in for it.
    room : Room
        Of the length of that layer.
    """

    is_sliding = False

    def __init__(self, dynamic: DynamicLayer, room: Room) -> None:
        super().__init__()
        self._dynamic = dynamic
        self._room = room
        self.keys = _roomy(dynamic.keys, room.capacity)
        self.values = _roomy(dynamic.values, room.capacity)
        self.device = self.keys.device
        self.is_initialized = True
        dynamic.keys = dynamic.values = None  # so that nothing is held twice

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Done on construction."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token, shape (1, kv_heads, 1, head_dim), at the room's position.

        Returns
        -------
        keys, values : Tensor, shape (1, kv_heads, capacity, head_dim)
            With places that hold no token yet, which the room's mask hides.
        """
        self.keys.index_copy_(2, self._room.position, key_states)
        self.values.index_copy_(2, self._room.position, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens held; one that is being written counts once its step is done."""
        return self._room.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that `update` returns."""
        return self._room.capacity, 0

    def get_max_length(self) -> int:
        """Tokens that there is room for."""
        return self._room.capacity

    def give_back(self) -> DynamicLayer:
        """The dynamic layer with all tokens held by now, as views."""
        dynamic, held = self._dynamic, self._room.length
        dynamic.keys, dynamic.values = self.keys[:, :, :held], self.values[:, :, :held]
        return dynamic


def _roomy(states: Tensor, capacity: int) -> Tensor:
    """States (1, heads, n, d) with zeros behind them."""
    shape = (*states.shape[:2], capacity, states.shape[3])
    # zeros, not empty memory: a weight of 0 for a masked value that is NaN would still give NaN
    roomy = torch.zeros(shape, dtype=states.dtype, device=states.device)
    roomy[:, :, : states.shape[2]] = states
    return roomy


CACHE_NAMES = ("cache", "past_key_values")
TENSORS = ("inputs_embeds", "position_ids")
_FLAGS = (*CACHE_NAMES, "attention_mask", "use_cache", "return_dict")
_LAYERS = (DynamicLayer, PreallocatedLayer)

Form = tuple[tuple[str, torch.Size, torch.dtype, torch.device], ...]


def one_token_form(args: tuple[Any, ...], kwargs: dict[str, Any], layers: int) -> Form | None:
    """Shapes and types of a call for one token; None for every other call.

    Parameters
    ----------
    args, kwargs
        Arguments of the text model's `forward`.
    layers : int
        How many it has.

    Returns
    -------
    tuple or None
        Equal for calls that differ in the values of their tensors only.
    """
    tensors = {name: kwargs.get(name) for name in TENSORS}
    if args or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        return None
    if kwargs["inputs_embeds"].shape[:2] != (1, 1) or not _is_filled(cache_of(kwargs), layers):
        return None
    others = [value for name, value in kwargs.items() if name not in (*TENSORS, *_FLAGS)]
    if not all(value is None or value is False for value in others):
        return None
    # Only a padding mask (batch, tokens) can be checked for hiding nothing (`sees_everything`).
    mask, whole = kwargs.get("attention_mask"), kwargs.get("return_dict", True) is not False
    prepared = mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2)
    if prepared or not whole or not kwargs.get("use_cache"):
        return None
    return tuple(
        (name, tensor.shape, tensor.dtype, tensor.device)
        for name, tensor in tensors.items()
        if tensor is not None
    )


def sees_everything(kwargs: dict[str, Any]) -> bool:
    """Whether a padding mask hides nothing; waits for the device."""
    mask = kwargs.get("attention_mask")
    return mask is None or bool(mask.all())


def _is_filled(cache: Any, layers: int) -> bool:
    """Whether every layer of the decoder has a cache that grows, with something in it."""
    held = getattr(cache, "layers", ())
    return (
        len(held) == layers
        and not getattr(cache, "offloading", False)
        and all(type(layer) in _LAYERS and layer.get_seq_length() > 0 for layer in held)
    )


class Steps:
    """How many steps are done, on the host and, for the step under way, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.done = 0
        self.now = torch.zeros(1, dtype=torch.long, device=device)

    def prepare(self) -> None:
        """Tell the device which step comes next; the same again if a step is repeated."""
        self.now.fill_(self.done)


class Room:
    """The cache layers of one length: position of the next token, and which tokens it sees.

    Parameters
    ----------
    filled : int
        Tokens that the layers hold now.
    tokens : int
        How many can still come.
    steps : Steps
        Shared by all layers of a model.
    """

    def __init__(self, filled: int, tokens: int, steps: Steps) -> None:
        self._filled = filled
        self._steps = steps
        self.capacity = -(-(filled + tokens) // CHUNK) * CHUNK  # rounded up
        self._places = torch.arange(self.capacity, device=steps.now.device)
        self.position = torch.zeros_like(steps.now)  # LongTensor (1,)
        # float32 (1, 1, 1, capacity), added to the scores: 0 where a token lies, else -inf
        self.mask = torch.zeros(1, 1, 1, self.capacity, device=steps.now.device)

    @property
    def length(self) -> int:
        """Tokens that the layers hold."""
        return self._filled + self._steps.done

    def point(self) -> None:
        """Set position and mask for the step under way, on the device: it is recorded, too."""
        torch.add(self._steps.now, self._filled, out=self.position)
        self.mask.zero_().masked_fill_(self._places > self.position, float("-inf"))


class StaticRun:
    """Moves a cache to layers with room and runs steps on them, until `give_back`.

    A step may be repeated until `advance` is called, as a rehearsal is by its recording: it writes
    the same to the same place.

    Parameters
    ----------
    forward : callable
        The text model's own.
    kwargs : dict
        Of a call of the form `form`, the first that will run here.
    form : tuple
        From `one_token_form`.
    tokens : int
        At most this many steps.
    """

    def __init__(
        self,
        adapter: Adapter,
        forward: Callable[..., Any],
        kwargs: dict[str, Any],
        form: Form,
        tokens: int,
    ) -> None:
        self.form = form
        self.cache = cache_of(kwargs)
        self._adapter = adapter
        self._forward = forward
        self._tokens = tokens
        self._steps = Steps(kwargs["inputs_embeds"].device)
        # Every step reads its token from these tensors, whose addresses do not change.
        self._inputs = {
            name: kwargs[name].clone(memory_format=torch.contiguous_format) for name in TENSORS
        }
        self._kwargs = {**kwargs, **self._inputs}
        self._rooms: list[Room] = []  # of each layer; layers of one length share it
        # Moved layer by layer; if memory runs out midway, those already moved go back.
        lengths: dict[int, Room] = {}
        try:
            for number, layer in enumerate(self.cache.layers):
                length = layer.get_seq_length()
                if length not in lengths:
                    lengths[length] = Room(length, tokens, self._steps)
                self.cache.layers[number] = PreallocatedLayer(layer, lengths[length])
                self._rooms.append(lengths[length])
        except BaseException:
            self.give_back()
            raise
        self._distinct = tuple(lengths.values())

    @property
    def left(self) -> int:
        """Steps that there is room for."""
        return self._tokens - self._steps.done

    def prepare(self, kwargs: dict[str, Any]) -> None:
        """Copy a token's arguments to where the step reads them."""
        for name, tensor in self._inputs.items():
            tensor.copy_(kwargs[name])
        self._steps.prepare()

    def step(self) -> Any:
        """The text model's output for the token that was prepared, without waiting for it."""
        for room in self._distinct:
            room.point()
        with use_one_query(self._adapter), self._own_masks():
            # transformers uses a 4-D mask as it is, where it would build one from the length of
            # layer 0's cache
            return self._forward(**{**self._kwargs, "attention_mask": self._rooms[0].mask})

    def advance(self) -> None:
        """Count the token that was written."""
        self._steps.done += 1

    def give_back(self) -> None:
        """Give the cache its growing layers back, with every token written so far in them."""
        for number, layer in enumerate(self.cache.layers):
            if isinstance(layer, PreallocatedLayer):
                self.cache.layers[number] = layer.give_back()

    @contextmanager
    def _own_masks(self) -> Iterator[None]:
        """Give each layer the mask of its own length."""

        def hook_for(room: Room) -> Any:
            def hook(
                _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
            ) -> tuple[tuple[Any, ...], dict[str, Any]]:
                return args, {**kwargs, "attention_mask": room.mask}

            return hook

        # Registered last and so called last: the hooks of a pruned prefill set a mask as well.
        with hooked(
            layer.register_forward_pre_hook(hook_for(room), with_kwargs=True)
            for layer, room in zip(self._adapter.layers, self._rooms, strict=True)
        ):
            yield


# ------------------------------------------------- attention of one query
#
# Attention of one token over a cache with room, without copying its keys and values.
#
# With a mask, PyTorch's fused kernels want the keys repeated for every query head, or leave most of
# a GPU idle, because there is a single query. Here the query heads of a group share one product,
# and the values are summed in chunks that run in parallel (as in flash-decoding).


def one_query_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """A decoder's attention, with the signature of transformers' `AttentionInterface`.

    Parameters
    ----------
    module : nn.Module
        Whose attention it is.
    query : Tensor, shape (1, heads, 1, d)
    key, value : Tensor, shape (1, kv_heads, n, d)
        Contiguous, n a multiple of `CHUNK`.
    attention_mask : Tensor, float32, shape (1, 1, 1, n)
        Added to the scores.

    Returns
    -------
    output : Tensor, shape (1, 1, heads, d)
    """
    # 1. Scores of all heads that share keys, in one product per group.
    heads, size = query.shape[1], query.shape[3]
    groups, length = key.shape[1:3]
    asking = query.reshape(groups, heads // groups, size)
    scores = _product(asking, key[0].transpose(1, 2))
    weights = torch.add(attention_mask[0], scores, alpha=scaling).softmax(-1).to(value.dtype)

    # 2. Weighted sums of the values: one product per chunk, then the sum over chunks.
    chunks = length // CHUNK
    parts = weights.view(groups, -1, chunks, CHUNK).transpose(1, 2).flatten(0, 1)
    sums = _product(parts, value[0].reshape(-1, CHUNK, size))
    output = sums.view(groups, chunks, -1, size).sum(1)
    return output.to(query.dtype).reshape(1, 1, heads, size), None


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Batched matrix product in float32, in which its sums are kept anyway."""
    if one.is_cuda and one.dtype in _HALF:
        return torch.bmm(one, other, out_dtype=torch.float32)
    return torch.bmm(one, other).float()


def use_one_query(adapter: Adapter) -> AbstractContextManager[None]:
    """Let the decoder run this attention inside the block."""
    return use_attention([adapter.language_model], ONE_QUERY, one_query_attention)
