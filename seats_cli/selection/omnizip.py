"""OmniZip: audio decides how much video each window keeps (arXiv 2511.14582).

Taken from the paper: audio tokens with the highest encoder attention stay, others are merged
into evenly spaced anchors (`anchors.py`); the fraction of audio kept in a temporal window sets
the drop ratio of its video, `0.75 - 0.40 s` within [0.35, 0.75], all but the smallest and the
largest rescaled to the total, windows without audio at the overall ratio; grids alternate
between spatial (density peaks) and temporal (most changed since the grid before) selection.

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


def grid_budgets(
    sizes: Sequence[int], window_of: Sequence[int], audio_kept: Sequence[float | None], total: int
) -> list[int]:
    """Video tokens that each grid keeps.

    Parameters
    ----------
    sizes, window_of : sequence of int
        Tokens of each grid, and the temporal window that it lies in.
    audio_kept : sequence of float or None
        Fraction of its audio that each window keeps; None without audio.
    total : int
        Tokens to keep.

    Returns
    -------
    list of int
        Budgets that sum to `total`.
    """
    ratio = total / sum(sizes)
    fractions: dict[int, float] = {}
    guided: list[int] = []
    for window in sorted(set(window_of)):
        heard = audio_kept[window]
        if heard is not None:
            guided.append(window)
            drop = min(max(MOST_DROP - DROP_SLOPE * heard, LEAST_DROP), MOST_DROP)
        fractions[window] = ratio if heard is None else 1.0 - drop
    guided.sort(key=fractions.__getitem__)
    wanted = [fractions[window] * size for size, window in zip(sizes, window_of, strict=True)]
    moves = [window in guided[1:-1] for window in window_of]
    held = [0 if move else size for size, move in zip(sizes, moves, strict=True)]
    free = [size if move else 0 for size, move in zip(sizes, moves, strict=True)]
    fixed = round(sum(want for want, move in zip(wanted, moves, strict=True) if not move))
    within = LEAST_DROP <= 1.0 - ratio <= MOST_DROP and 0 < total - fixed <= sum(free)
    if not within:
        return proportional_budgets(sizes, wanted, total)
    return [
        a + b
        for a, b in zip(
            proportional_budgets(held, wanted, fixed),
            proportional_budgets(free, wanted, total - fixed),
            strict=True,
        )
    ]


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
        keep, embeddings = prompt.keep_all(), None
        audio, video = prompt.audio, prompt.video
        count = total_to_keep(audio.size, self.plan.retention_audio)
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
        count = total_to_keep(video.size, self.plan.retention_video)
        if count < video.size:
            grids = split_grids(video)
            keep[video.mask] = keep_highest_in_runs(
                grid_scores(prompt.embeddings[video.mask], grids),
                grids.index,
                grids.sizes,
                self._budgets(prompt, keep, grids, count),
            )
        return Entry(keep, embeddings)

    @staticmethod
    def _budgets(prompt: PromptTokens, keep: Tensor, grids: Grids, count: int) -> list[int]:
        """Video tokens of each grid, given the audio that stays (`keep`, (S,))."""
        seen, heard = contiguous_runs(prompt.video.mask), contiguous_runs(prompt.audio.mask)
        kept = torch.zeros(len(heard.sizes), device=keep.device)
        kept.index_add_(0, heard.index, keep[prompt.audio.mask].float())
        audio_kept: list[float | None] = [
            number / size for number, size in zip(kept.tolist(), heard.sizes, strict=True)
        ]
        audio_kept += [None] * (len(seen.sizes) - len(audio_kept))
        first = torch.tensor([0, *grids.sizes[:-1]]).cumsum(0).to(seen.index.device)
        return grid_budgets(grids.sizes, seen.index[first].tolist(), audio_kept, count)
