"""One attention call for all segments of an encoder, instead of one for each (trap 8).

A clip's encoders attend within segments: windows of a grid, whole grids, seconds of sound. Without
flash-attn, transformers calls the attention once for every one of thousands of segments. Most have
the same few lengths in the same order, again and again, so that each place in this pattern is one
batch: a strided view of the packed sequence, without a copy.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import use_attention

_LONGEST_ROW = 128  # windows of a grid; 768 tokens in windows of 16 are under 60
_CPU_VALUES = 1 << 18  # of a batch: a larger one does not stay in a CPU's cache
_FLASH_CAPABILITY = (8, 0)  # of a GPU that runs PyTorch's variable-length kernel


@dataclass(frozen=True)
class Pattern:
    """A row of segments that repeats, one repetition right behind the other."""

    start: int  # position of the first repetition
    count: int  # repetitions
    size: int  # positions of one repetition
    segments: tuple[tuple[int, int], ...]  # where in the row each begins, and its length

    def of(self, packed: Tensor, begin: int, length: int) -> Tensor:
        """One segment of every repetition, a view (count, heads, length, head_dim)."""
        part = packed[self.start : self.start + self.count * self.size]
        shape = (self.count, self.size, *packed.shape[1:])
        return part.view(shape)[:, begin : begin + length].transpose(1, 2)


@functools.lru_cache(maxsize=32)
def patterns(lengths: tuple[int, ...]) -> tuple[Pattern, ...]:
    """Find the repeating rows in a sequence of segments.

    Parameters
    ----------
    lengths : tuple of int
        Positions of each segment, in order; empty ones are left out.

    Returns
    -------
    tuple of Pattern
        All segments, each in one pattern.
    """
    lengths = tuple(length for length in lengths if length)
    found, at, start = [], 0, 0
    while at < len(lengths):
        period, count = _longest_repeat(lengths, at)
        row = lengths[at : at + period]
        begins = [0, *itertools.accumulate(row)]
        size = begins.pop()
        found.append(Pattern(start, count, size, tuple(zip(begins, row, strict=True))))
        at, start = at + period * count, start + size * count
    return tuple(found)


def _longest_repeat(lengths: tuple[int, ...], at: int) -> tuple[int, int]:
    """Segments in the row whose repetitions cover most from there on, and their number."""
    best, covered = (1, 1), 1
    for period in range(1, min(_LONGEST_ROW, (len(lengths) - at) // 2) + 1):
        row, count = lengths[at : at + period], 1
        while lengths[at + count * period : at + (count + 1) * period] == row:
            count += 1
        if count > 1 and count * period > covered:
            best, covered = (period, count), count * period
    return best


def batched_segments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention within each segment, one call for all that match.

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
    output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    for pattern in patterns(lengths):
        for begin, length in pattern.segments:
            q, k, v, target = (pattern.of(x, begin, length) for x in (query, key, value, output))
            # On a CPU in pieces that stay in its cache, on a GPU all at once.
            step = max(1, _CPU_VALUES // q[0].numel()) if q.device.type == "cpu" else pattern.count
            for first in range(0, pattern.count, step):
                now = slice(first, first + step)
                attended = F.scaled_dot_product_attention(
                    q[now], k[now], v[now], dropout_p=dropout, scale=scale
                )
                target[now].copy_(attended)
    return output


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
    cu_seq_lens_q : int32 Tensor, shape (segments + 1,)
        Where segments begin, and n; by default all is one segment.
    max_length_q : int or None
        The longest segment.

    Returns
    -------
    output : Tensor, shape (1, n, heads, head_dim)

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
    """PyTorch's kernel for segments, where there is one that computes the same."""
    usual = scaling is None or math.isclose(scaling, query.shape[-1] ** -0.5)
    half = query.dtype in (torch.float16, torch.bfloat16)
    if not (query.is_cuda and half and usual and dropout == 0 and _has_flash(query.device)):
        return None
    return varlen_attention()


@functools.cache
def varlen_attention() -> Callable[..., Tensor] | None:
    """`torch.nn.attention.varlen.varlen_attn`, None in a PyTorch without it."""
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


# Like `SEGMENTS`: transformers hands a whole sequence to what has "flash" in its name.
GATHERED = "seats_gathered_as_flash"
Gathers = Mapping[nn.Module, "tuple[tuple[Tensor, Tensor], ...]"]


def gathered_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    gathers: Gathers,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An encoder's attention, with the signature of transformers' `AttentionInterface`.

    Parameters
    ----------
    module : nn.Module
        The attention.
    query, key, value : Tensor, shape (1, heads, n, head_dim)
    gathers : mapping of module to pairs of LongTensor, (segments, q) and (segments, k)
        Positions of queries and of the keys that they attend to, in batches that hold each
        position as a query once. A module without an entry attends within its segments.
    scaling, dropout : float

    Returns
    -------
    output : Tensor, shape (1, n, heads, head_dim)
    """
    batches = gathers.get(module)
    if batches is None:
        return segment_attention(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    output = torch.empty_like(query)
    for queries, keys in batches:
        attended = F.scaled_dot_product_attention(
            query[queries].transpose(1, 2),
            key[keys].transpose(1, 2),
            value[keys].transpose(1, 2),
            dropout_p=dropout,
            scale=scaling,
        )
        output[queries] = attended.transpose(1, 2)
    return output[None], None


def use_gathered(adapter: Adapter) -> AbstractContextManager[None]:
    """Let the vision encoder take its keys by `gathers` inside the block."""
    return use_attention([adapter.visual], GATHERED, gathered_attention)
