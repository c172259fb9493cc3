"""Stage I as Triton kernels; importing this module needs Triton."""

from __future__ import annotations

from math import e, log2

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["size", "keep"])
def greedy_max_min_kernel(distance, chosen, size, keep, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    """One window a program: its whole greedy choice, with the minimum distances in registers.

    `distance` (B, size, size) float32, `chosen` (B, keep) int64; COLUMNS >= size.
    """
    window = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    inside = columns < size
    matrix = distance + window * size * size + columns
    # The smallest entry of a column is the token's distance to itself: the second one counts.
    least = tl.full([COLUMNS], float("inf"), tl.float32)
    second = tl.full([COLUMNS], float("inf"), tl.float32)
    for first in range(0, size, ROWS):
        for row in tl.static_range(ROWS):  # unrolled, so that the loads do not wait for each other
            there = inside & (first + row < size)
            value = tl.load(matrix + (first + row) * size, mask=there, other=float("inf"))
            second = tl.minimum(second, tl.maximum(least, value))
            least = tl.minimum(least, value)
    latest = tl.argmax(tl.where(inside, second, float("-inf")), 0)
    tl.store(chosen + window * keep, latest.to(tl.int64))
    nearest = tl.where(inside, float("inf"), float("-inf"))
    for step in range(1, keep):
        value = tl.load(matrix + latest * size, mask=inside, other=float("-inf"))
        nearest = tl.minimum(nearest, value)
        nearest = tl.where(columns == latest, float("-inf"), nearest)
        latest = tl.argmax(nearest, 0)
        tl.store(chosen + window * keep + step, latest.to(tl.int64))


@triton.jit
def _scores(
    query, key, rows, columns, size, scale,
    query_row, query_width, key_row, key_width,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scaled products of some queries with some keys; keys behind the window get -inf."""
    width = tl.arange(0, PADDED)
    query_tile = tl.load(
        query + rows[:, None] * query_row + width[None, :] * query_width,
        mask=(rows < size)[:, None] & (width < WIDTH)[None, :],
        other=0.0,
    )
    key_tile = tl.load(
        key + columns[None, :] * key_row + width[:, None] * key_width,
        mask=(columns < size)[None, :] & (width < WIDTH)[:, None],
        other=0.0,
    )
    scores = tl.dot(query_tile, key_tile, input_precision=PRECISION) * scale
    return tl.where((columns < size)[None, :], scores, float("-inf"))


@triton.jit(do_not_specialize=["size"])
def log_sums_kernel(
    query, key, starts, log_sums, size, heads, scale,
    query_row, query_head, query_width, key_row, key_head, key_width,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Of each query, the logarithm (base 2) of what its softmax divides by.

    `query`, `key` (N, heads, WIDTH), `starts` (W,) int64, `log_sums` (W, heads, size) float32;
    `scale` brings products to base 2. A program has ROWS queries of one head in one window.
    """
    pair = tl.program_id(1).to(tl.int64)
    head, start = pair % heads, tl.load(starts + pair // heads)
    query += start * query_row + head * query_head
    key += start * key_row + head * key_head
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for first in range(0, size, COLUMNS):
        scores = _scores(
            query, key, rows, first + tl.arange(0, COLUMNS), size, scale,
            query_row, query_width, key_row, key_width, WIDTH, PADDED, PRECISION,
        )  # fmt: skip
        above = tl.maximum(highest, tl.max(scores, 1))
        total = total * tl.exp2(highest - above) + tl.sum(tl.exp2(scores - above[:, None]), 1)
        highest = above
    tl.store(log_sums + pair * size + rows, highest + tl.log2(total), mask=rows < size)


@triton.jit(do_not_specialize=["size"])
def received_kernel(
    query, key, starts, log_sums, received, size, heads, scale,
    query_row, query_head, query_width, key_row, key_head, key_width,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum over queries of each key's attention weight; `received` (W, heads, size) float32.

    Parameters as for `log_sums_kernel`. A program has COLUMNS keys of one head in one window, and
    every sum one order, so that results do not change from run to run.
    """
    pair = tl.program_id(1).to(tl.int64)
    head, start = pair % heads, tl.load(starts + pair // heads)
    query += start * query_row + head * query_head
    key += start * key_row + head * key_head
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float32)
    for first in range(0, size, ROWS):
        rows = first + tl.arange(0, ROWS)
        scores = _scores(
            query, key, rows, columns, size, scale,
            query_row, query_width, key_row, key_width, WIDTH, PADDED, PRECISION,
        )  # fmt: skip
        log_sum = tl.load(log_sums + pair * size + rows, mask=rows < size, other=float("inf"))
        total += tl.sum(tl.exp2(scores - log_sum[:, None]), 0)
    tl.store(received + pair * size + columns, total, mask=columns < size)


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
    greedy_max_min_kernel[(batch,)](
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
        First position of each window of `size` positions.

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
    log_sums_kernel[(triton.cdiv(size, _ROWS), pairs)](
        query, key, starts, log_sums, *numbers, **shape
    )
    received_kernel[(triton.cdiv(size, _COLUMNS), pairs)](
        query, key, starts, log_sums, received, *numbers, **shape
    )
    return received.sum(1).div_(heads)
