"""The rotary embedding as a Triton kernel. Importing this module needs Triton."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 4  # positions that a program rotates


def rotate_both(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (N, heads, d) rotated by cos and sin (N, d), in one launch."""
    positions, heads, width = query.shape
    cos, sin = cos.float().contiguous(), sin.float().contiguous()
    shape, kind, device = query.shape, query.dtype, query.device
    outputs = tuple(torch.empty(shape, dtype=kind, device=device) for _ in range(2))
    _rotate_kernel[(triton.cdiv(positions, _ROWS), 2)](
        query,
        key,
        *outputs,
        cos,
        sin,
        positions,
        *query.stride(),
        *key.stride(),
        HEADS=heads,
        HALF=width // 2,
        PADDED=triton.next_power_of_2(width // 2),
        ROWS=_ROWS,
        num_warps=4,
        enable_fp_fusion=False,  # products are rounded before they are added, as in the stock sum
    )
    return outputs[0], outputs[1]


@triton.jit(do_not_specialize=["positions"])
def _rotate_kernel(
    query, key, query_out, key_out, cos, sin, positions,
    query_row, query_head, query_width, key_row, key_head, key_width,
    HEADS: tl.constexpr, HALF: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A program has ROWS positions of the queries, or of the keys, in all heads."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    places = tl.arange(0, PADDED)
    inside = (rows < positions)[:, None] & (places < HALF)[None, :]
    angles = rows[:, None] * (2 * HALF) + places[None, :]
    first_cos = tl.load(cos + angles, mask=inside, other=0.0)
    second_cos = tl.load(cos + angles + HALF, mask=inside, other=0.0)
    first_sin = tl.load(sin + angles, mask=inside, other=0.0)
    second_sin = tl.load(sin + angles + HALF, mask=inside, other=0.0)
    if tl.program_id(1) == 0:
        source, target = query, query_out
        row, head, width = query_row, query_head, query_width
    else:
        source, target = key, key_out
        row, head, width = key_row, key_head, key_width
    source += rows[:, None] * row + places[None, :] * width
    target += rows[:, None] * (HEADS * 2 * HALF) + places[None, :]
    for number in range(HEADS):
        first = tl.load(source + number * head, mask=inside, other=0.0).to(tl.float32)
        second = tl.load(source + number * head + HALF * width, mask=inside, other=0.0)
        second = second.to(tl.float32)
        turned = first * first_cos - second * first_sin
        kind = target.dtype.element_ty
        tl.store(target + number * (2 * HALF), turned.to(kind), mask=inside)
        turned = second * second_cos + first * second_sin
        tl.store(target + number * (2 * HALF) + HALF, turned.to(kind), mask=inside)
