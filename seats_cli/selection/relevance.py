"""Relevance of a token: attention from the last text token's query, or from a question's.

Sources: arXiv 2605.20035, Stage II; arXiv 2605.14458 for the question.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def last_query_relevance(query: Tensor, key: Tensor) -> Tensor:
    """Attention of one query over the sequence, averaged over heads.

    Parameters
    ----------
    query : Tensor, shape (H, d)
        The last text token's query, after rotary embedding; any floating dtype.
    key : Tensor, shape (Hkv, S, d)
        Keys of the whole sequence; query head h reads key head `h // (H // Hkv)`.

    Returns
    -------
    float32 Tensor, shape (S,)
        `mean over heads of softmax(q K^T / sqrt(d))`; sums to 1.

    Raises
    ------
    ValueError
        If the shapes do not fit or H is no multiple of Hkv.
    """
    if query.ndim != 2 or key.ndim != 3 or query.shape[1] != key.shape[2]:
        raise ValueError(
            f"query must have shape (H, d) and key (Hkv, S, d), got {tuple(query.shape)} "
            f"and {tuple(key.shape)}"
        )
    heads, width = query.shape
    key_heads = key.shape[0]
    if heads % key_heads:
        raise ValueError(f"{heads} query heads are no multiple of {key_heads} key heads")
    grouped = query.float().view(key_heads, heads // key_heads, width) * width**-0.5
    scores = torch.matmul(grouped, key.float().transpose(1, 2))
    return scores.softmax(-1).mean((0, 1))


@torch.no_grad()
def question_relevance(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    """Causal attention of some queries over the sequence, averaged over queries and heads.

    Parameters
    ----------
    query : Tensor, shape (q, H, d)
        Queries of the question's tokens, after rotary embedding.
    key : Tensor, shape (Hkv, S, d)
        Keys of the whole sequence.
    index : LongTensor, shape (q,)
        Position of each query in the sequence: it sees itself and what is before it.

    Returns
    -------
    float32 Tensor, shape (S,)
        Sums to 1.
    """
    (asking, heads, width), (key_heads, length, _) = query.shape, key.shape
    grouped = query.float().view(asking, key_heads, heads // key_heads, width) * width**-0.5
    rows = grouped.permute(1, 2, 0, 3).reshape(key_heads, -1, width)
    scores = torch.matmul(rows, key.float().transpose(1, 2))
    scores = scores.view(key_heads, heads // key_heads, asking, length)
    later = torch.arange(length, device=key.device) > index.unsqueeze(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1).mean((0, 1, 2))
