"""Importance of a token for Stage I: the attention it receives in its encoder's last layer.

Source: arXiv 2605.20035, Stage I.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seats_cli.selection import device
from seats_cli.selection.device import on_device
from seats_cli.selection.windows import fixed_windows

# Attention weights held at once, in float32 (twice that while the softmax runs). A GPU wants few
# large calls: 64 MiB. On a CPU what does not stay in its cache costs 2.5 times as long: 4 MiB.
MAX_WEIGHTS = 1 << 24
MAX_WEIGHTS_CPU = 1 << 20


def _max_weights(tensor: Tensor) -> int:
    return MAX_WEIGHTS_CPU if tensor.device.type == "cpu" else MAX_WEIGHTS


def _received(query: Tensor, key: Tensor, positions: Tensor) -> Tensor:
    """Attention received (W, n) at the positions (W, n) of W equal windows, some at a time."""
    size = positions.shape[1]
    at_once = max(1, _max_weights(query) // (query.shape[1] * size * size))
    return torch.cat(
        [_received_in_windows(query[some], key[some]) for some in torch.split(positions, at_once)]
    )


def _received_in_windows(query: Tensor, key: Tensor) -> Tensor:
    """Attention received (W, n) from queries and keys (W, n, H, d) of W equal windows."""
    windows, size, heads, width = query.shape
    # Summed over queries right away: only (W, n) is kept, never all of (W, H, n, n).
    key_columns = key.permute(0, 2, 3, 1).float()
    query_rows = query.permute(0, 2, 1, 3).float().mul(width**-0.5)
    received = query_rows.new_zeros(windows, size)
    # A window of patches can be thousands of positions long: take its queries in blocks.
    block = max(1, _max_weights(query) // (windows * heads * size))
    for start in range(0, size, block):
        scores = torch.matmul(query_rows[:, :, start : start + block], key_columns)
        received += scores.softmax(-1).sum((1, 2))
    return received.div_(heads)


@torch.no_grad()
def received_attention(
    query: Tensor,
    key: Tensor,
    window: int | Sequence[int],
    lengths: Sequence[int] | None = None,
) -> Tensor:
    """Attention each position receives from its window, averaged over heads.

    Within every window of consecutive positions `softmax(Q K^T / sqrt(d))` is averaged over
    heads and summed over queries, so the mean of the result is 1. The encoder's own segment
    borders play no part.

    Parameters
    ----------
    query, key : Tensor, shape (N, H, d)
        Queries and keys of the encoder's last attention, after rotary embedding where the
        encoder has one; any floating dtype. The softmax runs in float32.
    window, lengths
        Of `fixed_windows`, counted in encoder positions.

    Returns
    -------
    float32 Tensor, shape (N,)

    Raises
    ------
    ValueError
        If shapes, windows or lengths do not fit.
    """
    if query.ndim != 3 or query.shape != key.shape:
        raise ValueError(
            f"query and key must have the same shape (N, H, d), got {tuple(query.shape)} "
            f"and {tuple(key.shape)}"
        )
    total = query.shape[0]
    received = torch.empty(total, dtype=torch.float32, device=query.device)
    for size, starts in fixed_windows(total, window, lengths).items():
        # A kernel where there is one; it reads windows in place instead of gathering them.
        offsets = on_device(starts, query.device)
        positions = offsets.unsqueeze(1) + torch.arange(size, device=query.device)
        at_once = device.received_in_windows(query, key, offsets, size)
        received[positions] = _received(query, key, positions) if at_once is None else at_once
    return received


def pool_mean(values: Tensor, size: int) -> Tensor:
    """Average groups of `size` consecutive values, dropping an incomplete last group.

    From one value or vector for each encoder position, shape (N,) or (N, d), to one for each LLM
    token, shape (N // size,) or (N // size, d). Other shapes, and sizes below 1, are a
    `ValueError`.
    """
    if values.ndim not in (1, 2) or size < 1:
        raise ValueError(
            f"values must have one or two dimensions and size must be at least 1, "
            f"got shape {tuple(values.shape)} and size {size}"
        )
    groups = values.shape[0] // size
    return values[: groups * size].view(groups, size, *values.shape[1:]).mean(1)
