"""OmniDrop: a few tokens leave after every decoder layer (arXiv 2605.14458).

Taken from the paper: a mild intra-modality pruning before the LLM (audio to 70 % by encoder
attention, video to 40 % by temporal merging); after every layer up to L - 2 the fraction
`p_init + (p_final - p_init) * sigmoid(20 (l / L - 0.5))` of the tokens alive, rounded down,
leaves; importance is the layer's attention from the question's text tokens, ranked over audio
and video together; from about half the depth a temporal distance is added to it. Video and
audio are one budget: their combined average retention meets the combined target.

Chosen here: p_final is solved on whole tokens for the prompt at hand, so that the mean over the
layers is met; p_init follows the published pairs (0 from 30 %, 0.02 at 20 %, linear between),
and rises only where even p_final = 1 keeps too much; above 30 % more tokens enter (half as many
again as the target, as the published 45 % for 30 %), each modality's share moving towards 1
alike; t_mid is 0.5 for all models. The "question" is all text behind the last audio-visual
token, the closing marks of the turn included. Temporal windows are the contiguous runs of
either modality, paired in order: with one run of each, importance alone decides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seats_cli.plan import PruningPlan
from seats_cli.selection.base import Entry, LayerTokens, Method, PromptTokens
from seats_cli.selection.budget import total_to_keep
from seats_cli.selection.drop_schedule import entry_fractions, solve_drops
from seats_cli.selection.dycoke import GROUP
from seats_cli.selection.grids import anchor_tokens, keep_changing, split_grids
from seats_cli.selection.topk import keep_highest
from seats_cli.selection.windows import contiguous_runs

DIVERSITY_WEIGHT, DIVERSITY_FROM = 0.2, 0.53  # layer 14 of 28, 19 of 36


@torch.no_grad()
def keep_after_drop(scores: Tensor, window_of: Tensor, count: int, last_window: int) -> Tensor:
    """Leave out the least important tokens.

    Parameters
    ----------
    scores : float32 Tensor, shape (n,)
        Importance of the audio-visual tokens alive.
    window_of : LongTensor, shape (n,)
        Temporal window of each.
    count : int
        Tokens to drop, at most n.
    last_window : int
        Largest window number of the prompt; 0 ranks by importance alone.

    Returns
    -------
    BoolTensor, shape (n,)
        The `2 count` least important compete by importance plus 0.2 times their distance in
        windows from the most important token, relative to the largest window.
    """
    if last_window:
        order = scores.argsort(stable=True)
        distance = (window_of - window_of[order[-1]]).abs() / last_window
        rivals = torch.zeros_like(scores, dtype=torch.bool)
        rivals[order[: 2 * count]] = True
        scores = (scores + DIVERSITY_WEIGHT * distance).masked_fill(~rivals, torch.inf)
    keep = torch.ones_like(scores, dtype=torch.bool)
    keep[scores.argsort(stable=True)[:count]] = False
    return keep


class OmniDrop(Method):
    """`omnidrop`. One budget for both modalities; late layers may hold no token of either.

    Parameters
    ----------
    plan : PruningPlan
        Targets and the model's depth.
    """

    needs_importance = True
    asking = "question"
    entry_kind = "attended and changed"

    def __init__(self, plan: PruningPlan) -> None:
        super().__init__(plan)
        self._counts: list[int] = []
        self._window_of = torch.zeros(0, dtype=torch.long)
        self._last_window = 0

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """The mild pruning; what the layers will drop follows from the prompt's lengths."""
        plan, video, audio = self.plan, prompt.video, prompt.audio
        keep = prompt.keep_all()
        self._counts = []
        wanted = plan.retention_video * video.size + plan.retention_audio * audio.size
        total = video.size + audio.size
        if wanted >= total:
            return Entry(keep)
        assert plan.num_layers is not None
        share_video, share_audio = entry_fractions(video.size, audio.size, wanted / total)
        if video.size:
            keep[video.mask] = _thin_video(prompt, share_video)
        if audio.size:
            assert audio.importance is not None
            count = total_to_keep(audio.size, share_audio)
            keep[audio.mask] = keep_highest(audio.importance, count)
        entering = int((keep & (video.mask | audio.mask)).sum())
        self._counts = solve_drops(entering, total, plan.num_layers, wanted / total)
        runs = [contiguous_runs(modality.mask) for modality in (video, audio)]
        self._window_of = torch.zeros(len(keep), dtype=torch.long)  # where a layer's tokens are
        for run in runs:
            self._window_of[run.positions.cpu()] = run.index.cpu()
        self._last_window = max(0, *(len(run.sizes) - 1 for run in runs))
        return Entry(keep)

    def drops_after(self, layer: int) -> bool:
        """Every layer after which at least one token leaves."""
        return layer <= len(self._counts) and self._counts[layer - 1] > 0

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor:
        """One ranking over audio and video together."""
        assert self.plan.num_layers is not None
        ranked = tokens.video_mask | tokens.audio_mask
        keep = torch.ones_like(ranked)
        diverse = layer >= int(DIVERSITY_FROM * self.plan.num_layers)
        keep[ranked] = keep_after_drop(
            tokens.relevance[ranked],
            self._window_of[tokens.index][ranked],
            self._counts[layer - 1],
            self._last_window if diverse else 0,
        )
        return keep


def _thin_video(prompt: PromptTokens, fraction: float) -> Tensor:
    """Keep mask (n_video,): first grids of four whole, of the others the same share."""
    grids = split_grids(prompt.video)
    share = (fraction - 1.0 / GROUP) / (1.0 - 1.0 / GROUP)
    whole = anchor_tokens(grids, GROUP)
    count = whole + round(share * (prompt.video.size - whole))
    return keep_changing(prompt.embeddings[prompt.video.mask], grids, GROUP, count)
