"""OmniZip: audio decides how much video each window keeps (arXiv 2511.14582).

Taken from the paper: audio tokens with the highest encoder attention stay, others are merged
into evenly spaced anchors (`anchors.py`); the fraction of audio kept in a temporal window sets
the drop ratio of its video, `0.75 - 0.40 s` within [0.35, 0.75], all but the smallest and the
largest rescaled to the total; grids alternate between spatial (density peaks) and temporal
(most changed since the grid before) selection; windows without audio use the overall ratio.

Chosen here: anchors count within the audio budget. Where the paper's clamp does not contain
the overall drop ratio, where rescaling the windows in between cannot meet the total, or where
there are fewer than three windows, the kept fractions of all windows are scaled by one factor,
with a full window's excess going to the others, so that the total is exact. Temporal windows
are the contiguous runs of either modality, paired in order; grids alternate by their number in
the clip, which is the same for windows of two grids and also serves windows of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seats_cli.selection.allocation import proportional_budgets
from seats_cli.selection.anchors import merge_into_anchors
from seats_cli.selection.base import Entry, Method, PromptTokens
from seats_cli.selection.budget import total_to_keep
from seats_cli.selection.density import density_peaks
from seats_cli.selection.grids import Grids, similarity_to_earlier, split_grids
from seats_cli.selection.topk import keep_highest_in_runs
from seats_cli.selection.windows import contiguous_runs

LEAST_DROP, MOST_DROP, DROP_SLOPE = 0.35, 0.75, 0.40


def window_keep_fractions(audio_kept: Sequence[float | None], ratio: float) -> list[float]:
    """Fraction of its video that each window keeps, before the total is met.

    Parameters
    ----------
    audio_kept : sequence of float or None
        Fraction of its audio that each window keeps; None without audio.
    ratio : float
        Overall fraction of video to keep, used where there is no audio.
    """
    return [
        ratio if s is None else 1.0 - min(max(MOST_DROP - DROP_SLOPE * s, LEAST_DROP), MOST_DROP)
        for s in audio_kept
    ]


def grid_budgets(
    sizes: Sequence[int], window_of: Sequence[int], fractions: Sequence[float], total: int
) -> list[int]:
    """Video tokens that each grid keeps.

    Parameters
    ----------
    sizes, window_of : sequence of int
        Tokens of each grid, and the window that it lies in.
    fractions : sequence of float
        Kept fraction of each window, as `window_keep_fractions` gives it.
    total : int
        Tokens to keep.

    Returns
    -------
    list of int
        Budgets that sum to `total`.
    """
    used = sorted(set(window_of), key=lambda window: fractions[window])
    lowest, highest = used[0], used[-1]
    wanted = [fractions[w] * size for size, w in zip(sizes, window_of, strict=True)]
    middle = [fractions[lowest] < fractions[w] < fractions[highest] for w in window_of]
    outer = round(sum(want for want, inside in zip(wanted, middle, strict=True) if not inside))
    capacity = sum(size for size, inside in zip(sizes, middle, strict=True) if inside)
    ratio = total / sum(sizes)
    published = LEAST_DROP <= 1.0 - ratio <= MOST_DROP and 0 < total - outer <= capacity
    if not published or not any(middle):
        return proportional_budgets(sizes, wanted, total)
    budgets = [0] * len(sizes)
    for part, count in ((True, total - outer), (False, outer)):
        held = [size if part == inside else 0 for size, inside in zip(sizes, middle, strict=True)]
        shares = proportional_budgets(held, wanted, count)
        budgets = [budget + share for budget, share in zip(budgets, shares, strict=True)]
    return budgets


def grid_scores(features: Tensor, grids: Grids) -> Tensor:
    """Score of each video token within its grid.

    Parameters
    ----------
    features : Tensor, shape (n, D)
    grids : Grids

    Returns
    -------
    float32 Tensor, shape (n,)
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


class OmniZip(Method):
    """`omnizip`. Each modality meets its own target, half to even. Floor: one token of each."""

    entry_kind = "audio-guided"
    needs_importance = True

    @torch.no_grad()
    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Audio first, then the video under its guidance."""
        keep = torch.ones_like(prompt.video_mask)
        embeddings: Tensor | None = None
        audio, video = prompt.audio_mask, prompt.video_mask
        count = total_to_keep(prompt.n_audio, self.plan.retention_audio)
        if count < prompt.n_audio:
            assert prompt.audio_importance is not None
            keep[audio], merged = merge_into_anchors(
                prompt.embeddings[audio],
                prompt.audio_importance,
                prompt.embeddings[video] if prompt.n_video else None,
                count,
            )
            embeddings = prompt.embeddings.clone()
            embeddings[audio] = merged.to(embeddings.dtype)
        if total_to_keep(prompt.n_video, self.plan.retention_video) < prompt.n_video:
            keep[video] = self._choose_video(prompt, keep)
        return Entry(keep, embeddings)

    def _choose_video(self, prompt: PromptTokens, keep: Tensor) -> Tensor:
        """Keep mask (n_video,) given the audio that stays (keep, (S,))."""
        ratio = self.plan.retention_video
        features = prompt.embeddings[prompt.video_mask]
        grids = split_grids(prompt.video_lengths, prompt.video_grids, features.device)
        seen, heard = contiguous_runs(prompt.video_mask), contiguous_runs(prompt.audio_mask)
        kept = torch.zeros(len(heard.sizes), device=keep.device)
        kept.index_add_(0, heard.index, keep[prompt.audio_mask].float())
        audio_kept: list[float | None] = [
            count / size for count, size in zip(kept.tolist(), heard.sizes, strict=True)
        ]
        audio_kept += [None] * (len(seen.sizes) - len(audio_kept))
        first = torch.tensor([0, *grids.sizes[:-1]]).cumsum(0).to(seen.index.device)
        budgets = grid_budgets(
            grids.sizes,
            seen.index[first].tolist(),
            window_keep_fractions(audio_kept, ratio),
            total_to_keep(prompt.n_video, ratio),
        )
        return keep_highest_in_runs(grid_scores(features, grids), grids.index, grids.sizes, budgets)
