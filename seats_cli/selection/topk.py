"""Choosing a number of tokens: the highest scores, overall or in each run, or at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def keep_highest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` highest scores; ties go to the lower index.

    Parameters
    ----------
    scores : Tensor, shape (n,)
    count : int
        At most n are marked.

    Returns
    -------
    BoolTensor, shape (n,)
    """
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

    Returns
    -------
    BoolTensor, shape (n,)
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[run_of[order].argsort(stable=True)]
    # Sorted by run, position i holds a token of run `run_of[i]`, as before the sort.
    limits = torch.tensor([0, *sizes], device=scores.device).cumsum(0)[:-1]
    limits = limits + torch.tensor(list(budgets), device=scores.device)
    kept = torch.empty_like(run_of, dtype=torch.bool)
    kept[order] = torch.arange(len(run_of), device=scores.device) < limits[run_of]
    return kept


def keep_at_random(
    size: int, count: int, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Mark `count` of `size` tokens, uniformly without replacement.

    Parameters
    ----------
    size, count : int
    generator : torch.Generator
        On the CPU, so that a seed gives the same tokens on every device.
    device : torch.device
        Of the result.

    Returns
    -------
    BoolTensor, shape (size,)
    """
    kept = torch.zeros(size, dtype=torch.bool)
    kept[torch.randperm(size, generator=generator)[:count]] = True
    return kept.to(device)
