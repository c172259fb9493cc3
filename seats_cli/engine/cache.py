"""The KV cache under pruning: arguments, lengths, masks, and positions of generated tokens.

The layers of a pruned cache may hold different lengths (trap 3 in docs/architecture.md): under the
policy `layerwise` each layer keeps the tokens that it has processed, under `survivors` every layer
keeps the same few. Neither has the length of the sequence so far, which is what transformers
derives positions and masks from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import is_swapped
from seats_cli.selection.device import TokenIndex


def cache_of(kwargs: dict[str, Any]) -> Any:
    """The KV cache argument under its newer or older name."""
    # Trap 7: transformers 5.24 renamed the argument.
    return kwargs.get("cache", kwargs.get("past_key_values"))


def unpadded(mask: Tensor | None, keep: Tensor) -> Tensor:
    """BoolTensor (S,) of positions that are not padding; padding leaves with Stage I."""
    # Trap 1: the mask has the unpruned length. Once the padding is gone all of it is ones, and the
    # decoder needs none.
    if mask is None:
        return torch.ones_like(keep)
    if mask.ndim != 2:
        raise UsageError("Pruning needs a padding mask of shape (1, S), not a prepared 4-D mask.")
    return mask[0].to(keep.device).bool()


def cached_tokens(cache: Any, layer: int = 0) -> int:
    """Tokens held by a layer (0-based) of a transformers cache; 0 without a cache."""
    # Not its own method, which on a pruned cache counts the unpruned sequence (`_PrunedCache`).
    return 0 if cache is None else int(type(cache).get_seq_length(cache, layer))


def require_dynamic(cache: Any) -> None:
    """Refuse caches of a fixed length, whose layers cannot differ.

    Raises
    ------
    UsageError
        For static, offloaded or quantized caches.
    """
    # This class exactly: layers with a sliding window and quantized ones derive from it.
    fixed = any(type(layer).__name__ != "DynamicLayer" for layer in getattr(cache, "layers", ()))
    if fixed or getattr(cache, "offloading", False):
        raise UsageError(
            "Pruning needs a dynamic KV cache in one place: leave out `cache_implementation`, or "
            "pass a DynamicCache."
        )


def keep_in_layers(cache: Any, layers: int, places: TokenIndex) -> None:
    """Apply a drop to the first `layers` layers of the cache (policy `survivors`).

    Parameters
    ----------
    layers : int
        How many layers have been passed.
    places : TokenIndex
        Which of the tokens held by these layers stay.
    """
    # Under this policy all layers passed hold the same tokens, so that one index serves them all;
    # a layer may lie on a device of its own.
    for layer in cache.layers[:layers]:
        where = places.on(layer.keys.device)
        layer.keys = layer.keys.index_select(2, where)
        layer.values = layer.values.index_select(2, where)


def decode_mask(
    cached: int, new: int, implementation: str, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Causal mask of `new` tokens behind `cached` ones, for one layer.

    Returns
    -------
    None where the attention needs none (one token, or FlashAttention's own causal rule), else
    shape (1, 1, new, cached + new): bool for sdpa (True = visible), additive otherwise.
    """
    if new == 1 or "flash" in implementation:
        return None  # a single token sees everything before it
    # Row i sees all cached tokens and the new ones up to itself.
    visible = torch.ones(new, cached + new, dtype=torch.bool, device=device).tril(cached)
    if implementation == "sdpa":
        return visible[None, None]
    hidden = torch.zeros(visible.shape, dtype=dtype, device=device)
    return hidden.masked_fill(~visible, torch.finfo(dtype).min)[None, None]


@dataclass(eq=False)
class _Continuation:
    """What decoding on a pruned cache must know of the prompt that filled it."""

    cached: int  # tokens that the first layer held then
    next_position: Tensor  # of the token to come
    prompt: Tensor  # LongTensor (S,), on the CPU: ids of the unpruned prompt


# The pruned caches there are; each is forgotten with its cache. They outlive the block that filled
# them: a later block of the same model may continue.
_continuations: WeakKeyDictionary[Any, _Continuation] = WeakKeyDictionary()


class _PrunedCache:
    """What takes the place of two methods of a pruned cache.

    `update` refuses to be continued by a model that is not pruned now: it sizes one mask for all
    layers and counts positions from the shortened cache. `get_seq_length` counts the sequence and
    not what is left of it, because `generate` takes all that is beyond for new.
    """

    def __init__(self, cache: Any, model: Any) -> None:
        self._cache, self._model = ref(cache), ref(model)

    def update(self, *args: Any, **kwargs: Any) -> Any:
        if not is_swapped(self._model()):
            raise UsageError(
                "This KV cache was filled inside prune(...) and holds the tokens that were kept: "
                "continue it inside a block of the same model."
            )
        cache: Any = self._cache()
        return type(cache).update(cache, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        del layer_idx  # the sequence is as long for all of them
        return seen_tokens(self._cache())

    def __deepcopy__(self, memo: dict[int, Any]) -> _PrunedCache:
        """Of a copied cache: for the copy, which goes on where the original does."""
        original, model = self._cache(), self._model()
        copied = memo.get(id(original), original)
        _continuations[copied] = _continuations[original]
        return _PrunedCache(copied, model)


def seen_tokens(cache: Any) -> int:
    """Length of the unpruned sequence that a pruned cache stands for."""
    known = _continuations[cache]
    return len(known.prompt) + cached_tokens(cache) - known.cached


def prompt_of(cache: Any) -> Tensor | None:
    """Ids (S,) of the unpruned prompt that filled a cache inside a block; None for any other."""
    known = None if cache is None else _continuations.get(cache)
    return None if known is None else known.prompt


class Continuations:
    """Where generated tokens go on behind the pruned caches of a model."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def note(self, cache: Any, next_position: Tensor, prompt: Tensor) -> None:
        """Remember a cache as a prefill left it.

        Parameters
        ----------
        next_position : LongTensor, shape ()
            Of the token to come.
        prompt : LongTensor, shape (S,)
            Unpruned, on the CPU.
        """
        _continuations[cache] = _Continuation(cached_tokens(cache), next_position, prompt)
        pruned = _PrunedCache(cache, self._adapter.model)
        vars(cache).update(update=pruned.update, get_seq_length=pruned.get_seq_length)

    def arguments(self, cache: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's arguments: true positions, and no mask of the unpruned length.

        Parameters
        ----------
        cache : transformers Cache
            That a prefill inside a block has filled.
        kwargs : dict
            What transformers passes.
        """
        # 1. A text token has the same position in every row (M-RoPE), so that one number is enough
        #    to continue from. Trap 11: transformers would count from the shortened cache, or in a
        #    later turn by the offset of whatever prompt the model has seen last.
        known = _continuations[cache]
        first = known.next_position + cached_tokens(cache) - known.cached
        embeddings: Tensor = kwargs["inputs_embeds"]
        positions = self._adapter.positions(None, embeddings) + first.to(embeddings.device)
        # 2. Several answers to one prompt continue it, each in a row of its own.
        rows, held = len(embeddings), len(cache.layers[0].keys)
        if held == 1 < rows:
            cache.batch_repeat_interleave(rows)
        elif held != rows:
            raise UsageError(
                f"The KV cache holds {held} sequences and is continued by {rows}: pick one with "
                "`cache.batch_select_indices`."
            )
        # 3. Trap 1: the mask fits no layer's cache; `decode_mask` makes one for each where needed.
        return {**kwargs, "position_ids": positions, "attention_mask": None}
