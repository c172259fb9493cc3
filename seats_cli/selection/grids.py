"""Temporal grids of the video tokens, and how much a token resembles an earlier grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from seats_cli.selection.allocation import proportional_budgets
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


def split_grids(lengths: Sequence[int], grids: Sequence[int], device: torch.device) -> Grids:
    """Cut clips into temporal grids.

    Parameters
    ----------
    lengths, grids : sequence of int
        Tokens of each clip, and of one of its grids.
    device : torch.device
        Where the index is wanted.

    Returns
    -------
    Grids
    """
    sizes: list[int] = []
    numbers: list[int] = []
    for length, grid in zip(lengths, grids, strict=True):
        count = length // grid
        sizes += [grid] * count
        numbers += range(count)
    index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Grids(sizes, numbers, index.to(device))


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


def anchor_grids(grids: Grids, group: int) -> list[bool]:
    """Which grids are the first of a group of `group` consecutive grids of their clip."""
    return [number % group == 0 for number in grids.numbers]


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
    anchors = anchor_grids(grids, group)
    others = [0 if first else size for first, size in zip(anchors, grids.sizes, strict=True)]
    left = max(0, count - (sum(grids.sizes) - sum(others)))
    shares = proportional_budgets(others, [float(size) for size in others], left)
    budgets = [
        size if first else share
        for first, size, share in zip(anchors, grids.sizes, shares, strict=True)
    ]
    back = grids.per_token(
        [number % group * size for number, size in zip(grids.numbers, grids.sizes, strict=True)]
    )
    change = -similarity_to_earlier(features, back)
    return keep_highest_in_runs(change, grids.index, grids.sizes, budgets)
