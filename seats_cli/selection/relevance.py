"""Relevance of a token for Stage II: attention from the last text token's query.

Source: arXiv 2605.20035, Stage II.
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
