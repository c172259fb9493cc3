"""Stage I: greedy max-min selection of diverse, attended tokens in each window.

Source: arXiv 2605.20035, Stage I (attention-weighted diversity before the LLM).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seats_cli.cost.token_counts import tokens_to_keep
from seats_cli.selection import device
from seats_cli.selection.windows import fixed_windows, window_tokens

# The published implementation scales importance before weighting; kept because it decides
# how near-ties round in float32.
IMPORTANCE_SCALE = 1e6

# Entries of the distance matrices held at once (float32: 64 MiB). A GPU wants all windows of a
# clip in one choice, whose steps come one after the other: 512 MiB.
MAX_MATRIX_ENTRIES = 1 << 24
MAX_MATRIX_ENTRIES_GPU = 1 << 27


def _at_once(tensor: Tensor, entries: int) -> int:
    """How many windows fit into memory, each with so many entries."""
    most = MAX_MATRIX_ENTRIES if tensor.device.type == "cpu" else MAX_MATRIX_ENTRIES_GPU
    return max(1, most // entries)


def weighted_distances(features: Tensor, importance: Tensor | None) -> Tensor:
    """Cosine distances with every column scaled by its token's importance.

    Features and importance as for `select_diverse`; None weighs all tokens alike. float32, shape
    (B, N, N): `(1 - cos(x_i, x_j)) * importance_j`, 0 where undefined (non-finite features).
    """
    unit = normalize(features.float(), dim=-1)
    distance = torch.matmul(unit, unit.transpose(1, 2)).neg_().add_(1.0)
    if importance is not None:
        distance.mul_((importance.float() * IMPORTANCE_SCALE).unsqueeze(1))
    return distance.nan_to_num_(nan=0.0)


def _greedy_max_min(distance: Tensor, keep: int) -> Tensor:
    """Indices (B, keep), in order of selection, from distances (B, N, N) with keep < N."""
    in_one_launch = device.greedy_max_min(distance, keep)
    if in_one_launch is not None:
        return in_one_launch
    batch, size, _ = distance.shape
    rows = torch.arange(batch, device=distance.device)
    # 1. The token that is farthest from its nearest neighbour. The smallest entry of a column is
    #    the token's distance to itself, the second one that to the neighbour.
    spread = distance.topk(2, dim=1, largest=False).values[:, 1]
    latest = spread.argmax(1)
    chosen = [latest]
    # 2. Step by step the token whose nearest chosen one is farthest. One row of distances per
    #    step brings the minimum up to date: O(keep * N) for each window.
    nearest = distance.new_full((batch, size), torch.inf)
    for _ in range(keep - 1):
        torch.minimum(nearest, distance[rows, latest], out=nearest)
        nearest[rows, latest] = -torch.inf  # stays the minimum: never chosen again
        latest = nearest.argmax(1)
        chosen.append(latest)
    return torch.stack(chosen, 1)


def _behind_all(distance: Tensor, spare: Tensor) -> Tensor:
    """Distances (B, N, N), in place, with which spare tokens (B, N) are the last to be chosen."""
    distance.clamp_(min=0.0)  # rounding, scaled by importance, must not fall below what is spare
    distance.masked_fill_(spare.unsqueeze(2), torch.inf)  # nobody's neighbour
    return distance.masked_fill_(spare.unsqueeze(1), -1.0)


def spare_copies(sources: Tensor, tokens: Tensor) -> Tensor:
    """Which tokens of a window are copies that another of its tokens stands for.

    Of the tokens with the same features, one stands for all; which one goes by turns, from place to
    place. If it always were the first, as ties go, nine of ten tokens kept of a still picture would
    be of the first grid of their window, and answers about when something happens would suffer.

    Parameters
    ----------
    sources : LongTensor, shape (N,)
        The token whose features each token has.
    tokens : LongTensor, shape (W, n)
        The tokens of each window.

    Returns
    -------
    BoolTensor, shape (W, n)
    """
    # 1. Copies side by side, in their order.
    source, order = sources[tokens].sort(dim=1, stable=True)
    begins = torch.ones_like(source, dtype=torch.bool)
    begins[:, 1:] = source[:, 1:] != source[:, :-1]
    # 2. How many there are of each, and the number of each among them.
    group = begins.cumsum(1) - 1
    count = torch.zeros_like(group).scatter_add_(1, group, torch.ones_like(group)).gather(1, group)
    place = torch.arange(source.shape[1], device=source.device).expand_as(source)
    number = place - torch.where(begins, place, 0).cummax(1).values
    return torch.empty_like(begins).scatter_(1, order, number != source % count)


@torch.no_grad()
def select_diverse(
    features: Tensor, importance: Tensor | None, keep: int, spare: Tensor | None = None
) -> Tensor:
    """Choose `keep` tokens of each window that are far from each other and well attended.

    The first token is the one whose weighted distance to its nearest neighbour is largest;
    each next one has the largest minimum distance to those already chosen. Ties go to the
    lower index.

    Parameters
    ----------
    features : Tensor, shape (B, N, D)
        Projected embeddings of B windows of N tokens, any floating dtype.
    importance : Tensor, shape (B, N), or None
        Attention received by each token (non-negative).
    keep : int
        Tokens to keep in each window; all N if larger.
    spare : BoolTensor, shape (B, N), optional
        Copies that are chosen only when nothing else is left.

    Returns
    -------
    LongTensor, shape (B, min(keep, N))
        Distinct indices of the kept tokens, ascending.

    Raises
    ------
    ValueError
        If a shape does not fit or `keep` is negative.
    """
    if features.ndim != 3:
        raise ValueError(f"features must have shape (B, N, D), got {tuple(features.shape)}")
    batch, size, _ = features.shape
    if importance is not None and importance.shape != (batch, size):
        raise ValueError(
            f"importance must have shape {(batch, size)}, got {tuple(importance.shape)}"
        )
    if keep < 0:
        raise ValueError(f"keep must not be negative, got {keep}")
    if keep == 0 or keep >= size or batch == 0:
        return torch.arange(min(keep, size), device=features.device).repeat(batch, 1)
    # Windows do not see each other, so that as many are taken at once as memory allows.
    at_once = _at_once(features, size * size)
    parts = torch.split(features, at_once)
    weights = [None] * len(parts) if importance is None else torch.split(importance, at_once)
    copies = [None] * len(parts) if spare is None else torch.split(spare, at_once)
    chosen = []
    for part, weight, copy in zip(parts, weights, copies, strict=True):
        distance = weighted_distances(part, weight)
        chosen.append(
            _greedy_max_min(distance if copy is None else _behind_all(distance, copy), keep)
        )
    return torch.cat(chosen).sort(1).values


@torch.no_grad()
def select_diverse_in_windows(
    features: Tensor,
    importance: Tensor | None,
    window: int | Sequence[int],
    ratio: float,
    lengths: Sequence[int] | None = None,
    sources: Tensor | None = None,
) -> Tensor:
    """Apply `select_diverse` to every window of a modality's token list.

    Parameters
    ----------
    features : Tensor, shape (N, D)
        Projected embeddings of all tokens of one modality, in sequence order.
    importance : Tensor, shape (N,), or None
        Attention received by each token.
    ratio : float
        Fraction of each window that stays, in [0, 1]; at least one token does.
    window, lengths
        Of `fixed_windows`.
    sources : LongTensor, shape (N,), optional
        The token whose features each token has, where the encoder was spared some: of copies in a
        window one is chosen first (`spare_copies`).

    Returns
    -------
    BoolTensor, shape (N,)
        True for tokens that stay.

    Raises
    ------
    ValueError
        If a shape, the ratio, a window or the lengths do not fit.
    """
    if features.ndim != 2:
        raise ValueError(f"features must have shape (N, D), got {tuple(features.shape)}")
    total = features.shape[0]
    if importance is not None and importance.shape != (total,):
        raise ValueError(f"importance must have shape {(total,)}, got {tuple(importance.shape)}")
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio must be within 0 and 1, got {ratio}")
    # Windows of equal size form one batch: usually all, and the shorter last one of each clip.
    kept = torch.zeros(total, dtype=torch.bool, device=features.device)
    for size, starts in fixed_windows(total, window, lengths).items():
        count = tokens_to_keep(size, ratio)
        # Gathered windows are copied: bound the copy as well as the distances.
        at_once = _at_once(features, size * max(size, features.shape[1]))
        for tokens in torch.split(window_tokens(starts, size, features.device), at_once):
            chosen = select_diverse(
                features[tokens],
                None if importance is None else importance[tokens],
                count,
                None if sources is None else spare_copies(sources, tokens),
            )
            kept.index_fill_(0, tokens.gather(1, chosen).flatten(), True)
    return kept
