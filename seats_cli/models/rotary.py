"""Rotary position embedding as the models do it."""

from __future__ import annotations

import torch
from torch import Tensor

from seats_cli.models.fused.rotary import rotated


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding over the last dimension, split in halves."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rotate_vision(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated queries and keys (N, heads, d) of the vision encoders; cos and sin (N, d)."""
    both = rotated(query, key, cos, sin)
    return both or (rotate_float32(query, cos, sin), rotate_float32(key, cos, sin))


def rotate_float32(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` in float32 as the vision encoders do it; x (N, heads, d), cos and sin (N, d)."""
    return rotate(x.float(), cos[:, None].float(), sin[:, None].float()).to(x.dtype)
