"""Calling the kernels on tensors; this module, too, needs Triton."""

from __future__ import annotations

from math import e, log2

import torch
import triton
from torch import Tensor

from seats_cli.selection.fused import kernels

# Positions of a window that a program takes at a time, as queries and as keys.
_ROWS, _COLUMNS = 64, 64
_LEAST_WIDTH = 16  # of a matrix product


def greedy_max_min(distance: Tensor, keep: int) -> Tensor:
    """The greedy choice of all windows in one launch.

    Parameters
    ----------
    distance : float32 Tensor, shape (B, N, N)
        Weighted distances, contiguous, without NaN.
    keep : int
        Below N.

    Returns
    -------
    LongTensor, shape (B, keep)
        Indices in order of selection.
    """
    batch, size, _ = distance.shape
    chosen = torch.empty(batch, keep, dtype=torch.long, device=distance.device)
    columns = triton.next_power_of_2(size)
    kernels.greedy_max_min_kernel[(batch,)](
        distance, chosen, size, keep, COLUMNS=columns, ROWS=8, num_warps=4 if columns <= 1024 else 8
    )
    return chosen


def received_in_windows(query: Tensor, key: Tensor, starts: Tensor, size: int) -> Tensor:
    """Attention received in equal windows, without holding any of it.

    Parameters
    ----------
    query, key : Tensor, shape (N, H, d)
        Of the same floating dtype; float32 is multiplied as such, not as tf32.
    starts : LongTensor, shape (W,)
        First position of each window.
    size : int
        Positions of each.

    Returns
    -------
    float32 Tensor, shape (W, size)
        Sum over queries of the attention weights, averaged over heads.
    """
    windows, (_, heads, width) = len(starts), query.shape
    log_sums = torch.empty(windows, heads, size, dtype=torch.float32, device=query.device)
    received = torch.empty_like(log_sums)
    shape = {
        "WIDTH": width,
        "PADDED": max(triton.next_power_of_2(width), _LEAST_WIDTH),
        "ROWS": _ROWS,
        "COLUMNS": _COLUMNS,
        "PRECISION": "ieee",
        "num_warps": 4,
    }
    numbers = (size, heads, width**-0.5 * log2(e), *query.stride(), *key.stride())
    pairs = windows * heads
    kernels.log_sums_kernel[(triton.cdiv(size, _ROWS), pairs)](
        query, key, starts, log_sums, *numbers, **shape
    )
    kernels.received_kernel[(triton.cdiv(size, _COLUMNS), pairs)](
        query, key, starts, log_sums, received, *numbers, **shape
    )
    return received.sum(1).div_(heads)
