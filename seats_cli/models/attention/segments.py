"""Attention over a packed sequence of segments, a batched call for each segment length.

transformers without flash-attn splits an encoder's sequence at `cu_seqlens` and calls the
attention once for every segment: for a clip of a minute more than a thousand calls in every
layer. Segments of equal length make one batch instead, and an encoder has few lengths: whole
windows, those cut by the right or the lower border, and the corner. On a GPU in half precision
PyTorch's own variable-length kernel takes all segments at once.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

_FLASH_CAPABILITY = (8, 0)  # of a GPU that runs PyTorch's variable-length kernel


@dataclass(frozen=True, eq=False)
class SegmentBatches:
    """Segments sorted by length.

    Parameters
    ----------
    order, back : LongTensor, shape (n,), or None
        Positions sorted by the length of their segment, and the way back; None where they are
        sorted already.
    batches : tuple of (int, int)
        Number of segments and their length in positions, from long to short.
    """

    order: Tensor | None
    back: Tensor | None
    batches: tuple[tuple[int, int], ...]


@functools.lru_cache(maxsize=32)
def segment_batches(lengths: tuple[int, ...], device: torch.device) -> SegmentBatches:
    """Sort segments by their length.

    Parameters
    ----------
    lengths : tuple of int
        Positions of each segment, in their order in the sequence; empty ones are left out.
    device : torch.device
        Where the order is needed.

    Returns
    -------
    SegmentBatches
    """
    starts = [0, *itertools.accumulate(lengths)]
    ranked = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: -lengths[i])
    batches = tuple(
        (len(list(group)), length)
        for length, group in itertools.groupby(ranked, key=lambda i: lengths[i])
    )
    if ranked == sorted(ranked):
        return SegmentBatches(None, None, batches)
    order = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in ranked])
    return SegmentBatches(order.to(device), torch.argsort(order).to(device), batches)


def batched_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention within each segment, one call for each segment length.

    Parameters
    ----------
    query, key, value : Tensor, shape (n, heads, head_dim)
        All positions, one segment after the other.
    lengths : tuple of int
        Positions of each segment; their sum is n.
    scale : float or None
        Factor of the scores, `head_dim ** -0.5` by default.
    dropout : float
        Probability, 0 outside of training.

    Returns
    -------
    Tensor, shape (n, heads, head_dim)
    """
    plan = segment_batches(lengths, query.device)
    if plan.order is not None:
        query, key, value = (x.index_select(0, plan.order) for x in (query, key, value))
    done, outputs = 0, []
    for count, length in plan.batches:
        part, shape = slice(done, done + count * length), (count, length, *query.shape[1:])
        done = part.stop
        attended = F.scaled_dot_product_attention(
            query[part].view(shape).transpose(1, 2),
            key[part].view(shape).transpose(1, 2),
            value[part].view(shape).transpose(1, 2),
            dropout_p=dropout,
            scale=scale,
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return output if plan.back is None else output.index_select(0, plan.back)


def segment_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """An encoder's attention, with the signature of transformers' `AttentionInterface`.

    Parameters
    ----------
    query, key, value : Tensor, shape (1, heads, n, head_dim)
    attention_mask : None
        Segments need none.
    scaling : float or None
        As `scale` of `batched_segments`.
    dropout : float
    cu_seq_lens_q : int32 Tensor, shape (segments + 1,)
        Where segments begin, and n; by default all is one segment.
    max_length_q : int or None
        The longest segment.

    Returns
    -------
    output : Tensor, shape (1, n, heads, head_dim)
    weights : None

    Raises
    ------
    ValueError
        For more than one sequence, or a mask.
    """
    if query.shape[0] != 1 or attention_mask is not None:
        raise ValueError("Segments are packed into one sequence and need no mask.")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    kernel = _varlen_kernel(query, scaling, dropout)
    if cu_seq_lens_q is None:
        lengths: tuple[int, ...] = (len(query),)
    elif kernel is not None:
        borders = cu_seq_lens_q.to(torch.int32)
        longest = max_length_q or int(borders.diff().max())
        return kernel(query, key, value, borders, borders, longest, longest)[None], None
    else:
        lengths = tuple(cu_seq_lens_q.diff().tolist())
    output = batched_segments(query, key, value, lengths, scale=scaling, dropout=dropout)
    return output[None], None


def _varlen_kernel(
    query: Tensor, scaling: float | None, dropout: float
) -> Callable[..., Tensor] | None:
    """PyTorch's kernel for segments, where it is there and computes the same."""
    usual = scaling is None or math.isclose(scaling, query.shape[-1] ** -0.5)
    half = query.dtype in (torch.float16, torch.bfloat16)
    if not (query.is_cuda and half and usual and dropout == 0 and _has_flash(query.device)):
        return None
    return varlen_attention()


@functools.cache
def varlen_attention() -> Callable[..., Tensor] | None:
    """`torch.nn.attention.varlen.varlen_attn`, None in a PyTorch before 2.10."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return cast("Callable[..., Tensor]", varlen_attn)


@functools.cache
def _has_flash(device: torch.device) -> bool:
    return torch.version.hip is None and (
        torch.cuda.get_device_capability(device) >= _FLASH_CAPABILITY
    )
