"""Density peaks: tokens that are dense themselves and far from denser ones.

Source: density-peaks clustering as arXiv 2511.14582 uses it on the tokens of a grid.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seats_cli.selection.diversity import MAX_MATRIX_ENTRIES, weighted_distances


def _peak_scores(features: Tensor, neighbours: int) -> Tensor:
    """`density_peaks` with all distances held at once."""
    distance = weighted_distances(features, None).clamp_(min=0.0)
    batch, size, _ = distance.shape
    near = min(neighbours, size - 1)
    # The nearest of all is the token itself.
    nearest = distance.topk(near + 1, dim=-1, largest=False).values[..., 1:]
    mean = nearest.mean(-1) if near else distance.new_zeros(batch, size)
    density = torch.exp(-mean)
    order = density.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(size, device=order.device).expand(batch, -1))
    denser = rank.unsqueeze(1) < rank.unsqueeze(2)  # [b, i, j]: j is denser than i
    farthest = distance.amax(-1)
    separation = distance.masked_fill(~denser, torch.inf).amin(-1)
    return density * torch.where(separation.isinf(), farthest, separation)


@torch.no_grad()
def density_peaks(features: Tensor, neighbours: int = 5) -> Tensor:
    """Score of each token as a cluster centre: density times distance to a denser token.

    Parameters
    ----------
    features : Tensor, shape (B, N, D)
        Tokens of B grids.
    neighbours : int
        How many nearest tokens make up the density `exp(-mean cosine distance)`.

    Returns
    -------
    float32 Tensor, shape (B, N)
        The densest token of a grid has the distance to the farthest one; of equally dense
        tokens the earlier counts as denser. A grid of a single token scores 0.
    """
    batch, size, _ = features.shape
    at_once = max(1, MAX_MATRIX_ENTRIES // max(1, size * size))
    return torch.cat(
        [
            _peak_scores(features[start : start + at_once], neighbours)
            for start in range(0, batch, at_once)
        ]
    )
