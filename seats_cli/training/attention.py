"""Encoder attention in a few large calls instead of one per window, for training on a CPU.

Without flash attention, transformers attends window by window in a Python loop. The registered
function here takes the packed path meant for flash kernels and batches windows of equal length.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, Qwen2_5OmniThinkerForConditionalGeneration

# transformers hands over packed sequences only if the name contains "flash".
NAME = "seats_windows_like_flash"


def window_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend inside each window of a packed sequence.

    Parameters
    ----------
    query, key, value : float tensors, shape (1, heads, N, head_dim)
    cu_seq_lens_q : int tensor, shape (windows + 1,)
        Where windows begin and end.

    Returns
    -------
    float tensor, shape (1, N, heads, head_dim), and None
    """
    borders = cu_seq_lens_q.long()
    lengths = borders[1:] - borders[:-1]
    output = torch.empty_like(query.transpose(1, 2))
    for length in torch.unique(lengths).tolist():
        starts = borders[:-1][lengths == length]
        places = (starts[:, None] + torch.arange(length)).flatten()

        def windows(
            states: torch.Tensor, places: torch.Tensor = places, length: int = length
        ) -> torch.Tensor:
            picked = states[0].index_select(1, places)
            return picked.view(states.shape[1], -1, length, states.shape[3]).transpose(0, 1)

        attended = scaled_dot_product_attention(windows(query), windows(key), windows(value))
        flat = attended.transpose(1, 2).reshape(1, len(places), *output.shape[2:])
        output = output.index_copy(1, places, flat)
    return output, None


@contextmanager
def batched_windows(model: Qwen2_5OmniThinkerForConditionalGeneration) -> Iterator[None]:
    """Use `window_attention` in this model's encoders inside the context; others are untouched."""
    AttentionInterface.register(NAME, window_attention)
    configs = [model.model.visual.config, model.model.audio_tower.config]
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
