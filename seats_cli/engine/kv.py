"""The KV cache under pruning: layers may hold different lengths (METHOD: two policies).

`layerwise` needs nothing here: each layer caches the tokens it processed. `survivors` also
applies every drop to the layers already passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seats_cli.errors import UsageError

if TYPE_CHECKING:
    from seats_cli.selection.transfer import Places


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
    if cache is not None and any(
        type(layer).__name__ != "DynamicLayer" for layer in getattr(cache, "layers", ())
    ):
        raise UsageError("Pruning needs a dynamic KV cache: leave out cache_implementation.")


def keep_in_layers(cache: Any, layers: int, places: Places) -> None:
    """Apply a drop to the first `layers` layers of the cache (policy `survivors`).

    Parameters
    ----------
    cache : transformers Cache
    layers : int
        How many layers have been passed.
    places : Places
        Which of the tokens held by these layers stay.
    """
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
        return None
    visible = torch.ones(new, cached + new, dtype=torch.bool, device=device).tril(cached)
    if implementation == "sdpa":
        return visible[None, None]
    hidden = torch.zeros(visible.shape, dtype=dtype, device=device)
    return hidden.masked_fill(~visible, torch.finfo(dtype).min)[None, None]
