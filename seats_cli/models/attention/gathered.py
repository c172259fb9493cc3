"""Attention in which a segment's keys may lie anywhere in the sequence.

Where only the changed part of a picture is encoded, its queries attend to the keys of the whole
picture, most of which come from an earlier one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seats_cli.models.attention.segments import segment_attention

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter

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
        Whose attention it is.
    query, key, value : Tensor, shape (1, heads, n, head_dim)
    attention_mask : None
    gathers : mapping of module to pairs of LongTensor, (segments, q) and (segments, k)
        Positions that ask and those that they attend to, in batches that hold each position as
        a query once. A module without an entry attends within its segments.
    scaling, dropout : float

    Returns
    -------
    output : Tensor, shape (1, n, heads, head_dim)
    weights : None
    """
    batches = gathers.get(module)
    if batches is None:
        return segment_attention(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
    output = torch.empty_like(query)
    for asking, seen in batches:
        attended = F.scaled_dot_product_attention(
            query[asking].transpose(1, 2),
            key[seen].transpose(1, 2),
            value[seen].transpose(1, 2),
            dropout_p=dropout,
            scale=scaling,
        )
        output[asking] = attended.transpose(1, 2)
    return output[None], None


@contextmanager
def use_gathered(adapter: Adapter) -> Iterator[None]:
    """Let the vision encoder take its keys by `gathers`; it is then left as it was found."""
    from transformers import AttentionInterface

    AttentionInterface.register(GATHERED, gathered_attention)
    attention: Any = adapter.vision_attention
    config = attention.config
    found = config._attn_implementation
    try:
        config._attn_implementation = GATHERED
        yield
    finally:
        config._attn_implementation = found
