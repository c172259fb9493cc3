"""Audio tokens merged into anchors, guided by the video (arXiv 2511.14582)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seats_cli.selection.diversity import MAX_MATRIX_ENTRIES
from seats_cli.selection.topk import keep_highest

ANCHOR_SHARE = 0.05
MERGED_PER_ANCHOR = 3


def largest_similarity(tokens: Tensor, others: Tensor) -> Tensor:
    """Largest cosine similarity of each of `tokens` (n, D) to any of `others` (m, D): (n,)."""
    unit, columns = normalize(tokens.float(), dim=-1), normalize(others.float(), dim=-1).T
    at_once = max(1, MAX_MATRIX_ENTRIES // max(1, len(others)))
    starts = range(0, len(unit), at_once)
    return torch.cat([(unit[start : start + at_once] @ columns).amax(-1) for start in starts])


def _evenly_spaced(size: int, count: int, device: torch.device) -> Tensor:
    """`count` of `size` positions, in the middle of equal parts."""
    steps = torch.arange(count, device=device)
    return (2 * steps + 1) * size // (2 * count)


def anchors_among(size: int, count: int) -> int:
    """How many of the `count` tokens that stay of `size` are anchors: 5 % of all, at most half."""
    return min(round(ANCHOR_SHARE * size), count // 2)


@torch.no_grad()
def merge_into_anchors(
    audio: Tensor, importance: Tensor, video: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """Keep attended audio tokens and a few anchors into which others are merged.

    Parameters
    ----------
    audio : Tensor, shape (n, D)
        Projected audio tokens, in order.
    importance : Tensor, shape (n,)
        Attention received in the audio encoder.
    video : Tensor, shape (m, D), or None
        Projected video tokens; without them the similarity to the anchor takes the place of
        the largest similarity to a video token.
    count : int
        Tokens that stay, anchors included, 1 to n. Anchors are 5 % of all audio tokens, at
        most half of those that stay.

    Returns
    -------
    keep : BoolTensor, shape (n,)
    merged : float32 Tensor, shape (n, D)
        `(anchor + sum w_i x_i) / 2` in place of each anchor: x the up to three tokens assigned
        to it by cosine similarity that are most similar to the video, w the softmax of those
        similarities.
    """
    number = anchors_among(len(audio), count)
    keep = keep_highest(importance, count - number)
    merged = audio.float().clone()
    rest = (~keep).nonzero()[:, 0]
    if not number:
        return keep, merged
    at = _evenly_spaced(len(rest), number, rest.device)
    is_other = torch.ones_like(rest, dtype=torch.bool)
    is_other[at] = False
    anchors, others = rest[at], rest[is_other]
    keep[anchors] = True
    if not len(others):
        return keep, merged
    values = merged[others]
    likeness = normalize(values, dim=-1) @ normalize(merged[anchors], dim=-1).T
    nearest, assigned = likeness.max(-1)
    relevance = nearest if video is None else largest_similarity(values, video)
    merged[anchors] = _merge(merged[anchors], values, assigned, relevance)
    return keep, merged


def _merge(anchors: Tensor, values: Tensor, assigned: Tensor, relevance: Tensor) -> Tensor:
    """Anchors (k, D) with the most relevant of the values (r, D) assigned to each."""
    scores = torch.full((len(anchors), len(values)), -torch.inf, device=values.device)
    scores[assigned, torch.arange(len(values), device=values.device)] = relevance
    best = scores.topk(min(MERGED_PER_ANCHOR, len(values)), dim=1)
    weights = best.values.softmax(1).nan_to_num(nan=0.0)  # an anchor without any: none
    added = (weights.unsqueeze(-1) * values[best.indices]).sum(1)
    lonely = best.values[:, :1].isneginf()
    return torch.where(lonely, anchors, (anchors + added) / 2)
