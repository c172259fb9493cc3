"""Temporal grids of the video tokens, and how much a token resembles an earlier grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from seats_cli.selection.allocation import proportional_budgets
from seats_cli.selection.base import Modality
from seats_cli.selection.topk import keep_highest_in_runs


@dataclass(frozen=True, eq=False)
class Grids:
    """The grids of all clips, in sequence order.

    Parameters
    ----------
    sizes : list of int
        Tokens of each grid.
    numbers : list of int
        Number of each grid within its clip, from 0.
    index : LongTensor, shape (n,)
        Grid that each token belongs to, ascending from 0.
    """

    sizes: list[int]
    numbers: list[int]
    index: Tensor

    def per_token(self, values: Sequence[int]) -> Tensor:
        """One value for each grid, (G,), as one for each of its tokens, (n,)."""
        return torch.tensor(list(values), device=self.index.device)[self.index]


def split_grids(video: Modality) -> Grids:
    """Cut the clips of a prompt into their temporal grids."""
    sizes: list[int] = []
    numbers: list[int] = []
    for length, grid in zip(video.lengths, video.grids, strict=True):
        count = length // grid
        sizes += [grid] * count
        numbers += range(count)
    index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
    return Grids(sizes, numbers, index.to(video.mask.device))


def similarity_to_earlier(features: Tensor, back: Tensor) -> Tensor:
    """Cosine similarity of each token to the one a given number of tokens before it.

    Parameters
    ----------
    features : Tensor, shape (n, D)
    back : LongTensor, shape (n,)
        0 compares a token with itself.

    Returns
    -------
    float32 Tensor, shape (n,)
        0 where a feature has no length.
    """
    features = features.float()
    earlier = features[torch.arange(len(features), device=features.device) - back]
    return cosine_similarity(features, earlier, dim=-1).nan_to_num(nan=0.0)


def anchor_tokens(grids: Grids, group: int) -> int:
    """Tokens of the grids that are the first of `group` consecutive ones of their clip."""
    return sum(
        size for size, number in zip(grids.sizes, grids.numbers, strict=True) if number % group == 0
    )


@torch.no_grad()
def keep_changing(features: Tensor, grids: Grids, group: int, count: int) -> Tensor:
    """Keep the first grid of each group, and of the others what changed most since.

    Parameters
    ----------
    features : Tensor, shape (n, D)
        Projected video tokens.
    grids : Grids
    group : int
        Consecutive grids in a group.
    count : int
        Tokens to keep altogether. The share of the grids that are no anchors is the same for
        all, up to rounding; anchors stay whole even if that exceeds the count.

    Returns
    -------
    BoolTensor, shape (n,)
    """
    since = [number % group for number in grids.numbers]  # 0 for an anchor
    others = [size if steps else 0 for steps, size in zip(since, grids.sizes, strict=True)]
    left = max(0, count - anchor_tokens(grids, group))
    shares = proportional_budgets(others, [float(size) for size in others], left)
    budgets = [
        share if steps else size
        for steps, size, share in zip(since, grids.sizes, shares, strict=True)
    ]
    back = grids.per_token([steps * size for steps, size in zip(since, grids.sizes, strict=True)])
    change = -similarity_to_earlier(features, back)
    return keep_highest_in_runs(change, grids.index, grids.sizes, budgets)
