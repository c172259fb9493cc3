"""Teach single attention heads to look where the question points.

To answer "What is heard while the red one is shown?" the word "red" must find the sound tokens
heard while red was on screen, and the end of the question must find that word. These matches are
slow to form from the answers alone: a thousand steps after everything else was learned the family
was still at chance. So the attention of one head for each hop is a loss of its own in training.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import apply_rotary_pos_emb

from seats_cli.world.vocabulary import IGNORE


def attention_loss(
    layer: Any,
    states: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor,
    asking: tuple[torch.Tensor, torch.Tensor],
    right: torch.Tensor,
    head: int,
) -> torch.Tensor:
    """Mean of -log(attention of one of a layer's heads on the right tokens).

    Parameters
    ----------
    states : float tensor, shape (B, N, width)
        Its input.
    rotary : pair of float tensors, shape (B, N, head_dim)
        Cosine and sine of the positions.
    mask : bool tensor, shape (B, 1, N, N)
        Who sees whom.
    asking : pair of int64 tensors, shape (n,)
        Row and place of the tokens whose attention is taught.
    right : bool tensor, shape (n, N)
        What each of them is to look at; a token with nothing to look at is left out.
    head : int
        Index of the query head.

    Returns
    -------
    float tensor, shape ()
    """
    seen = right.any(dim=1)
    if not bool(seen.any()):
        return states.new_zeros(())
    rows, places = asking[0][seen], asking[1][seen]
    attention = layer.self_attn
    normed = layer.input_layernorm(states)
    width = attention.head_dim
    # Only this head's rows of the projections; several query heads share one key head.
    sharing = attention.q_proj.out_features // attention.k_proj.out_features
    of_query = slice(head * width, (head + 1) * width)
    of_key = slice(head // sharing * width, (head // sharing + 1) * width)
    query = linear(normed, attention.q_proj.weight[of_query], attention.q_proj.bias[of_query])
    key = linear(normed, attention.k_proj.weight[of_key], attention.k_proj.bias[of_key])
    query, key = apply_rotary_pos_emb(query[:, None], key[:, None], *rotary)
    scores = torch.einsum("nd,npd->np", query[rows, 0, places], key[rows, 0])
    scores = (scores * attention.scaling).masked_fill(~mask[rows, 0, places], float("-inf"))
    found = scores.masked_fill(~right[seen], float("-inf")).logsumexp(dim=1)
    loss: torch.Tensor = (scores.logsumexp(dim=1) - found).mean()
    return loss


Hop = tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]


def word_to_sound(segment: torch.Tensor, lookup: torch.Tensor) -> Hop:
    """`asking` and `right` of the first hop: from a picture's name to the sound during it.

    Parameters
    ----------
    segment : int64 tensor, shape (B, P)
        Segment on screen at each sound token, `IGNORE` at other tokens.
    lookup : int64 tensor, shape (B, Q)
        Segment that a question token names, `IGNORE` at other tokens.
    """
    rows, places = (lookup != IGNORE).nonzero(as_tuple=True)
    right = segment[rows] == lookup[rows, places][:, None]
    nothing = torch.zeros(len(rows), lookup.shape[1], dtype=torch.bool)
    return (rows, places + segment.shape[1]), torch.cat([right, nothing], dim=1)


def end_to_word(
    prefix_length: int, lookup: torch.Tensor, number: torch.Tensor, target: torch.Tensor
) -> Hop:
    """`asking` and `right` of the second hop: from the end of a question to the picture's name.

    Parameters
    ----------
    lookup, number, target : int64 tensors, shape (B, Q)
        As in `TrainingBatch`.
    """
    rows, places = (lookup != IGNORE).nonzero(as_tuple=True)
    mine = number[rows] == number[rows, places][:, None]
    ends = ((target[rows] != IGNORE) & mine).int().argmax(dim=1)  # the first answer token
    right = torch.zeros(len(rows), prefix_length + lookup.shape[1], dtype=torch.bool)
    right[torch.arange(len(rows)), prefix_length + places] = True
    return (rows, prefix_length + ends), right
