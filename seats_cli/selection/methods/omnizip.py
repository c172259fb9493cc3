"""OmniZip: audio decides how much video each window keeps (arXiv 2511.14582)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seats_cli.config import WINDOWS
from seats_cli.cost.selection import Product, pairs
from seats_cli.cost.token_counts import MediaSizes, grid_tokens, tokens_to_keep
from seats_cli.families.base import Architecture
from seats_cli.selection.diversity import MAX_MATRIX_ENTRIES, weighted_distances
from seats_cli.selection.method import (
    Entry,
    Method,
    PromptTokens,
    register_method,
    target_tokens,
)
from seats_cli.selection.topk import keep_highest, keep_highest_in_runs, proportional_budgets
from seats_cli.selection.trace import SelectionTrace
from seats_cli.selection.windows import Grids, contiguous_runs, similarity_to_earlier, split_grids

NEIGHBOURS = 5  # that make up a token's density
ANCHOR_SHARE = 0.05
MERGED_PER_ANCHOR = 3
LEAST_DROP, MOST_DROP, DROP_SLOPE = 0.35, 0.75, 0.40


def _peak_scores(features: Tensor) -> Tensor:
    """`density_peaks` with all distances held at once."""
    distance = weighted_distances(features, None).clamp_(min=0.0)
    batch, size, _ = distance.shape
    near = min(NEIGHBOURS, size - 1)
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
def density_peaks(features: Tensor) -> Tensor:
    """Score of each token as a cluster centre: density times distance to a denser token.

    Tokens of B grids, shape (B, N, D), give float32, shape (B, N). The density is
    `exp(-mean cosine distance)` to the nearest tokens. The densest token of a grid has the
    distance to the farthest one; of equally dense tokens the earlier counts as denser. A grid of
    a single token scores 0.
    """
    at_once = max(1, MAX_MATRIX_ENTRIES // max(1, features.shape[1] ** 2))
    return torch.cat([_peak_scores(some) for some in torch.split(features, at_once)])


def largest_similarity(tokens: Tensor, others: Tensor) -> Tensor:
    """Largest cosine similarity of each of `tokens` (n, D) to any of `others` (m, D): (n,)."""
    unit, columns = normalize(tokens.float(), dim=-1), normalize(others.float(), dim=-1).T
    at_once = max(1, MAX_MATRIX_ENTRIES // max(1, len(others)))
    return torch.cat([(some @ columns).amax(-1) for some in torch.split(unit, at_once)])


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
    # 1. What the encoder attends to stays as it is; a few of the others become anchors.
    number = anchors_among(len(audio), count)
    keep = keep_highest(importance, count - number)
    merged = audio.float().clone()
    rest = (~keep).nonzero()[:, 0]
    if not number:
        return keep, merged
    # Anchors are evenly spaced: in the middle of equal parts.
    at = (2 * torch.arange(number, device=rest.device) + 1) * len(rest) // (2 * number)
    is_other = torch.ones_like(rest, dtype=torch.bool)
    is_other[at] = False
    anchors, others = rest[at], rest[is_other]
    keep[anchors] = True
    if not len(others):
        return keep, merged
    # 2. Every other token belongs to the most similar anchor, which takes in those of its own that
    #    have most to do with the picture.
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


def grid_budgets(
    sizes: Sequence[int], window_of: Sequence[int], audio_kept: Sequence[float | None], total: int
) -> list[int]:
    """Video tokens that each grid keeps; they sum to `total`.

    Parameters
    ----------
    sizes, window_of : sequence of int
        Tokens of each grid, and the temporal window that it lies in.
    audio_kept : sequence of float or None
        Fraction of its audio that each window keeps; None without audio.
    """
    # 1. A window that keeps much of its audio keeps more of its video: 25 to 65 % of it.
    ratio = total / sum(sizes)
    fractions: dict[int, float] = {}
    guided: list[int] = []
    for window in sorted(set(window_of)):
        share = audio_kept[window]
        if share is not None:
            guided.append(window)
            drop = min(max(MOST_DROP - DROP_SLOPE * share, LEAST_DROP), MOST_DROP)
        fractions[window] = ratio if share is None else 1.0 - drop
    # 2. The windows with the smallest and the largest fraction hold what the rule gives them; those
    #    between them absorb the difference to the total.
    guided.sort(key=fractions.__getitem__)
    wanted = [fractions[window] * size for size, window in zip(sizes, window_of, strict=True)]
    moves = [window in guided[1:-1] for window in window_of]
    held = [0 if move else size for size, move in zip(sizes, moves, strict=True)]
    free = [size if move else 0 for size, move in zip(sizes, moves, strict=True)]
    fixed = round(sum(want for want, move in zip(wanted, moves, strict=True) if not move))
    # 3. Where that cannot work out, all grids share the total in proportion.
    within = LEAST_DROP <= 1.0 - ratio <= MOST_DROP and 0 < total - fixed <= sum(free)
    if not within:
        return proportional_budgets(sizes, wanted, total)
    kept = proportional_budgets(held, wanted, fixed)
    moved = proportional_budgets(free, wanted, total - fixed)
    return [a + b for a, b in zip(kept, moved, strict=True)]


def grid_scores(features: Tensor, grids: Grids) -> Tensor:
    """Score of each video token, features (n, D), within its grid: float32, shape (n,).

    Even grids of a clip: density peaks. Odd grids: change since the same position one grid
    earlier.
    """
    odd = [number % 2 for number in grids.numbers]
    back = [size * turn for size, turn in zip(grids.sizes, odd, strict=True)]
    scores = -similarity_to_earlier(features, grids.per_token(back))
    spatial = grids.per_token(odd) == 0
    token_sizes = grids.per_token(grids.sizes)
    for size in {size for size, turn in zip(grids.sizes, odd, strict=True) if not turn}:
        chosen = (spatial & (token_sizes == size)).nonzero()[:, 0]
        batch = features[chosen].view(-1, size, features.shape[1])
        scores[chosen] = density_peaks(batch).flatten()
    return scores


@register_method("omnizip", ignores=WINDOWS)
class OmniZip(Method):
    """`omnizip`. Each modality meets its own target, half to even. Floor: one token of each."""

    shares = "entry"
    draws = False

    entry_kind = "audio-guided"
    needs_importance = True

    @torch.no_grad()
    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """The targets."""
        return target_tokens(self.plan, architecture, sizes)

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Audio first, then the video under its guidance."""
        keep, embeddings = prompt.keep_all(), None
        audio, video = prompt.audio, prompt.video
        count = tokens_to_keep(audio.size, self.plan.retention_audio)
        if count < audio.size:
            assert audio.importance is not None
            keep[audio.mask], merged = merge_into_anchors(
                prompt.embeddings[audio.mask],
                audio.importance,
                prompt.embeddings[video.mask] if video.size else None,
                count,
            )
            embeddings = prompt.embeddings.clone()
            embeddings[audio.mask] = merged.to(embeddings.dtype)
        count = tokens_to_keep(video.size, self.plan.retention_video)
        if count < video.size:
            grids = split_grids(video)
            keep[video.mask] = keep_highest_in_runs(
                grid_scores(prompt.embeddings[video.mask], grids),
                grids.index,
                grids.sizes,
                self._budgets(prompt, keep, grids, count),
            )
        return Entry(keep, embeddings)

    def products(
        self, architecture: Architecture, sizes: MediaSizes, trace: SelectionTrace
    ) -> list[Product]:
        """Sound with its anchors and with the video, and every second grid within itself."""
        video, audio, _ = trace.offered
        entry, width = trace.stages[0], architecture.hidden_size
        products: list[Product] = []
        if entry.audio < audio:
            anchors, others = anchors_among(audio, entry.audio), audio - entry.audio
            if anchors and others:
                products.append((others, anchors, width))
                products += [(others, video, width)] if video else []
        if entry.video < video:
            for grid in sizes.grids:
                products += pairs([grid_tokens(architecture, grid)], width) * -(-grid[0] // 2)
        return products

    @staticmethod
    def _budgets(prompt: PromptTokens, keep: Tensor, grids: Grids, count: int) -> list[int]:
        """Video tokens of each grid, given the audio that stays (`keep`, (S,))."""
        windows, sounds = contiguous_runs(prompt.video.mask), contiguous_runs(prompt.audio.mask)
        kept = torch.zeros(len(sounds.sizes), device=keep.device)
        kept.index_add_(0, sounds.index, keep[prompt.audio.mask].float())
        audio_kept: list[float | None] = [
            number / size for number, size in zip(kept.tolist(), sounds.sizes, strict=True)
        ]
        audio_kept += [None] * (len(windows.sizes) - len(audio_kept))
        first = torch.tensor([0, *grids.sizes[:-1]]).cumsum(0).to(windows.index.device)
        return grid_budgets(grids.sizes, windows.index[first].tolist(), audio_kept, count)
