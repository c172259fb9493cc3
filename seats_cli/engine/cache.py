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
    return 0 if cache is None else int(cache.get_seq_length(layer))


def require_dynamic(cache: Any) -> None:
    """Refuse caches of a fixed length, whose layers cannot differ.

    Raises
    ------
    UsageError
        For static, offloaded-to-fixed or quantised caches.
    """
    # This class exactly: layers with a sliding window and quantised ones derive from it.
    if cache is not None and any(
        type(layer).__name__ != "DynamicLayer" for layer in getattr(cache, "layers", ())
    ):
        raise UsageError("Pruning needs a dynamic KV cache: leave out cache_implementation.")


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
    """What decoding on a pruned cache must know: its length then, and the next position."""

    cached: int
    next_position: Tensor


# The pruned caches there are; each is forgotten with its cache. They outlive the block that filled
# them: a later block of the same model may continue.
_continuations: WeakKeyDictionary[Any, _Continuation] = WeakKeyDictionary()


class _GuardedUpdate:
    """`update` of a pruned cache: refuses to be continued by a model that is not pruned now.

    Such a model sizes one mask for all layers and counts positions from the shortened cache.
    """

    def __init__(self, cache: Any, model: Any) -> None:
        self._cache, self._model = ref(cache), ref(model)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not is_swapped(self._model()):
            raise UsageError(
                "This KV cache was filled inside prune(...) and holds the tokens that were kept: "
                "continue it inside a block of the same model."
            )
        cache: Any = self._cache()
        return type(cache).update(cache, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _GuardedUpdate:
        """Of a copied cache: for the copy, which goes on where the original does."""
        original, model = self._cache(), self._model()
        copied = memo.get(id(original), original)
        _continuations[copied] = _continuations[original]
        return _GuardedUpdate(copied, model)


class Continuations:
    """Where generated tokens go on behind the pruned caches of a model."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    def note(self, cache: Any, next_position: Tensor) -> None:
        """Remember a cache as a prefill left it, and the position of the token to come."""
        _continuations[cache] = _Continuation(cached_tokens(cache), next_position)
        vars(cache)["update"] = _GuardedUpdate(cache, self._adapter.model)

    def arguments(
        self, cache: Any, kwargs: dict[str, Any], positions_given: bool
    ) -> dict[str, Any]:
        """The decoder's arguments: true positions, and no mask of the unpruned length.

        Parameters
        ----------
        cache : transformers Cache
            Not empty.
        kwargs : dict
            What transformers passes.
        positions_given : bool
            Whether its positions come from the caller (`generate` counts the whole sequence).
        """
        # 1. True positions. A generated token has the same one in every row (M-RoPE), so that one
        #    number is enough to continue from.
        known = _continuations.get(cache)
        embeddings: Tensor = kwargs["inputs_embeds"]
        positions = kwargs.get("position_ids")
        if known is not None and (positions is None or not positions_given):
            # Trap 11: transformers would count from the cache, which is shorter than the sequence.
            first = known.next_position + cached_tokens(cache) - known.cached
            positions = self._adapter.positions(None, embeddings) + first.to(embeddings.device)
        elif positions is not None:
            positions = self._adapter.positions(positions, embeddings)
        # 2. Trap 1: the mask fits no layer's cache; `decode_mask` makes one for each where needed.
        return {**kwargs, "position_ids": positions, "attention_mask": None}
