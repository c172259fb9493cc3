"""What transformers passes to a decoder, in the form that pruning needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seats_cli.errors import UsageError


def cache_of(kwargs: dict[str, Any]) -> Any:
    """The KV cache argument under its newer or older name."""
    return kwargs.get("cache", kwargs.get("past_key_values"))


def three_rows(positions: Tensor | None, embeddings: Tensor) -> Tensor:
    """M-RoPE positions (3, B, S) from what transformers passes on.

    The text row that `generate` puts first is left out: after pruning its gaps would be read
    as borders between packed sequences.
    """
    if positions is None:
        steps = torch.arange(embeddings.shape[1], device=embeddings.device)
        return steps.expand(3, len(embeddings), -1)
    if positions.ndim == 2:
        return positions.expand(3, *positions.shape)
    return positions[-3:]


def unpadded(mask: Tensor | None, keep: Tensor) -> Tensor:
    """BoolTensor (S,) of positions that are no padding; padding leaves with Stage I."""
    if mask is None:
        return torch.ones_like(keep)
    if mask.ndim != 2:
        raise UsageError("Pruning needs a padding mask of shape (1, S), not a prepared 4-D mask.")
    return mask[0].to(keep.device).bool()
