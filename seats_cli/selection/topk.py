"""Choosing a number of tokens: how many of each run, and the highest scores or some at random.

Every `keep_*` returns a BoolTensor with one entry for each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


def keep_highest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` highest of the scores (n,), at most n; ties go to the lower index."""
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[scores.argsort(descending=True, stable=True)[:count]] = True
    return kept


def keep_highest_in_runs(
    scores: Tensor, run_of: Tensor, sizes: Sequence[int], budgets: Sequence[int]
) -> Tensor:
    """Mark the highest scores of each run of consecutive tokens; ties go to the lower index.

    Parameters
    ----------
    scores : Tensor, shape (n,)
    run_of : LongTensor, shape (n,)
        Run of each token, ascending from 0.
    sizes, budgets : sequence of int
        Tokens of each run, and how many of them to mark.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[run_of[order].argsort(stable=True)]
    # Sorted by run, position i holds a token of run `run_of[i]`, as before the sort.
    starts = accumulate(sizes, initial=0)
    ends = [start + budget for start, budget in zip(starts, budgets, strict=False)]
    limits = torch.tensor(ends, dtype=torch.long, device=scores.device)
    kept = torch.empty_like(run_of, dtype=torch.bool)
    kept[order] = torch.arange(len(run_of), device=scores.device) < limits[run_of]
    return kept


def keep_at_random(
    size: int, count: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Mark `count` of `size` tokens, uniformly without replacement.

    The generator is one of the CPU, so that a seed gives the same tokens on every device.
    """
    kept = torch.zeros(size, dtype=torch.bool)
    kept[torch.randperm(size, generator=generator)[:count]] = True
    return kept.to(device)


def proportional_budgets(sizes: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """Share `total` tokens over windows in proportion to weights, within their sizes.

    Every window with tokens first gets one, as far as the total reaches (larger weights
    first); the rest is shared in proportion, what full windows cannot take goes to the
    others, and fractions are settled by largest remainder (ties to the earlier window).

    Parameters
    ----------
    sizes : sequence of int
        Tokens of each window, 0 where the modality is absent.
    weights : sequence of float
        Non-negative weight of each window; only ratios matter.
    total : int
        Tokens to keep, at most `sum(sizes)`.

    Returns
    -------
    list of int
        Budgets with `budget <= size` that sum to `total` exactly.
    """
    # 1. One token for every window that has any, as far as the total reaches.
    present = [w for w, size in enumerate(sizes) if size]
    budgets = [0] * len(sizes)
    for w in sorted(present, key=lambda w: -weights[w])[:total]:
        budgets[w] = 1
    # 2. The rest in proportion. Windows that fill up leave the round, and what they could not take
    #    is shared again among the others: each round closes at least one window.
    open_windows = [w for w in present if 0 < budgets[w] < sizes[w]]
    remaining = total - sum(budgets)
    while remaining > 0 and open_windows:
        mass = sum(weights[w] for w in open_windows)
        shares = {
            w: remaining * (weights[w] / mass if mass > 0 else 1 / len(open_windows))
            for w in open_windows
        }
        full = [w for w in open_windows if shares[w] >= sizes[w] - budgets[w]]
        if not full:
            _largest_remainder(budgets, shares, remaining)
            break
        for w in full:
            remaining -= sizes[w] - budgets[w]
            budgets[w] = sizes[w]
        open_windows = [w for w in open_windows if budgets[w] < sizes[w]]
    return budgets


def _largest_remainder(budgets: list[int], shares: dict[int, float], remaining: int) -> None:
    """Add `shares`, which sum to `remaining`, to the budgets as whole tokens."""
    whole = {w: int(share) for w, share in shares.items()}
    left = remaining - sum(whole.values())
    by_fraction = sorted(shares, key=lambda w: whole[w] - shares[w])
    for order, w in enumerate(by_fraction):
        budgets[w] += whole[w] + (1 if order < left else 0)
