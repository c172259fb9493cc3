"""Attention of one token over a cache with room, without copying its keys and values.

With a mask, PyTorch's fused kernels want the keys repeated for every query head, or leave most of
a GPU idle, because there is a single query. Here the query heads of a group share one product,
and the values are summed in chunks that run in parallel (as in flash-decoding).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import use_attention

ONE_QUERY = "seats_one_query"
CHUNK = 256  # tokens; the capacity of a layer is a multiple
_HALF = (torch.float16, torch.bfloat16)


def one_query_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    **_kwargs: Any,
) -> tuple[Tensor, None]:
    """A decoder's attention, with the signature of transformers' `AttentionInterface`.

    Parameters
    ----------
    module : nn.Module
        Whose attention it is.
    query : Tensor, shape (1, heads, 1, d)
    key, value : Tensor, shape (1, kv_heads, n, d)
        Contiguous, n a multiple of `CHUNK`.
    attention_mask : Tensor, float32, shape (1, 1, 1, n)
        Added to the scores.

    Returns
    -------
    output : Tensor, shape (1, 1, heads, d)
    """
    # 1. Scores of all heads that share keys, in one product per group.
    heads, size = query.shape[1], query.shape[3]
    groups, length = key.shape[1:3]
    asking = query.reshape(groups, heads // groups, size)
    scores = _product(asking, key[0].transpose(1, 2))
    weights = torch.add(attention_mask[0], scores, alpha=scaling).softmax(-1).to(value.dtype)

    # 2. Weighted sums of the values: one product per chunk, then the sum over chunks.
    chunks = length // CHUNK
    parts = weights.view(groups, -1, chunks, CHUNK).transpose(1, 2).flatten(0, 1)
    sums = _product(parts, value[0].reshape(-1, CHUNK, size))
    output = sums.view(groups, chunks, -1, size).sum(1)
    return output.to(query.dtype).reshape(1, 1, heads, size), None


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Batched matrix product in float32, in which its sums are kept anyway."""
    if one.is_cuda and one.dtype in _HALF:
        return torch.bmm(one, other, out_dtype=torch.float32)
    return torch.bmm(one, other).float()


def use_one_query(adapter: Adapter) -> AbstractContextManager[None]:
    """Let the decoder run this attention inside the block."""
    return use_attention([adapter.language_model], ONE_QUERY, one_query_attention)
