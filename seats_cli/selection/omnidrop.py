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
token, the closing marks of the turn included.
"""

from __future__ import annotations

from math import exp

import torch
from torch import Tensor

from seats_cli.errors import ConfigError
from seats_cli.plan import PruningPlan
from seats_cli.selection.base import Entry, LayerTokens, Method, PromptTokens
from seats_cli.selection.budget import total_to_keep
from seats_cli.selection.dycoke import GROUP
from seats_cli.selection.grids import anchor_grids, keep_changing, split_grids
from seats_cli.selection.topk import keep_highest
from seats_cli.selection.windows import contiguous_runs

ENTRY_VIDEO, ENTRY_AUDIO, ENTRY_PER_TARGET = 0.4, 0.7, 1.5
STEEPNESS, MIDDLE = 20.0, 0.5
DIVERSITY_WEIGHT, DIVERSITY_FROM = 0.2, 0.53  # layer 14 of 28, 19 of 36
_BISECTIONS = 40


def drop_counts(entering: int, num_layers: int, p_init: float, p_final: float) -> list[int]:
    """Tokens that leave after each of the layers 1 to L - 2.

    Parameters
    ----------
    entering : int
        Audio-visual tokens that enter the LLM.
    num_layers : int
        Decoder layers L.
    p_init, p_final : float
        Fractions of the tokens alive that leave after early and after late layers.
    """
    alive, counts = entering, []
    for layer in range(1, num_layers - 1):
        rise = 1.0 / (1.0 + exp(-STEEPNESS * (layer / num_layers - MIDDLE)))
        counts.append(min(int((p_init + (p_final - p_init) * rise) * alive), alive))
        alive -= counts[-1]
    return counts


def layer_total(entering: int, num_layers: int, counts: list[int]) -> int:
    """Tokens alive, summed over the layers, under `drop_counts`."""
    total, alive = entering, entering
    for count in [*counts, 0]:
        alive -= count
        total += alive
    return total if num_layers > 1 else entering


def initial_drop(retention: float) -> float:
    """Published p_init: 0 from 30 % upwards, 0.02 at 20 % and below."""
    return 0.02 * min(max((0.30 - retention) / 0.10, 0.0), 1.0)


def solve_drops(entering: int, num_layers: int, target: float, retention: float) -> list[int]:
    """Drop counts whose sum over the layers comes closest to a target from above.

    Parameters
    ----------
    entering, num_layers : int
        As for `drop_counts`.
    target : float
        Tokens alive wanted, summed over the layers.
    retention : float
        The same as a fraction of all tokens; decides p_init.

    Returns
    -------
    list of int

    Raises
    ------
    ConfigError
        If the first layer alone exceeds the target.
    """
    start = initial_drop(retention)

    def counts(strength: float) -> list[int]:
        late = min(strength, 1.0)
        early = max(strength - 1.0, 0.0)
        return drop_counts(
            entering, num_layers, start + early * (1.0 - start), start + late * (1.0 - start)
        )

    if layer_total(entering, num_layers, counts(2.0)) > target + 1.0:
        least = retention * layer_total(entering, num_layers, counts(2.0)) / target
        raise ConfigError(
            "This budget is out of reach for omnidrop: every token that enters is seen by the "
            f"first layer, which costs an average retention of {least:.3g}; ask for at least "
            "that or use another method."
        )
    low, high = 0.0, 2.0
    for _ in range(_BISECTIONS):
        strength = (low + high) / 2
        if layer_total(entering, num_layers, counts(strength)) > target:
            low = strength
        else:
            high = strength
    return min(
        (counts(low), counts(high)),
        key=lambda found: abs(layer_total(entering, num_layers, found) - target),
    )


@torch.no_grad()
def keep_after_drop(scores: Tensor, window_of: Tensor, count: int, last_window: int) -> Tensor:
    """Leave out the least important tokens, near ones of a pair of candidates first.

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
        plan, n_video, n_audio = self.plan, prompt.n_video, prompt.n_audio
        keep = torch.ones_like(prompt.video_mask)
        self._counts = []
        wanted = plan.retention_video * n_video + plan.retention_audio * n_audio
        if wanted >= n_video + n_audio:
            return Entry(keep)
        assert plan.num_layers is not None
        retention = wanted / (n_video + n_audio)
        video, audio = entry_fractions(n_video, n_audio, retention)
        if n_video:
            keep[prompt.video_mask] = _thin_video(prompt, video)
        if n_audio:
            assert prompt.audio_importance is not None
            keep[prompt.audio_mask] = keep_highest(
                prompt.audio_importance, total_to_keep(n_audio, audio)
            )
        entering = int((keep & (prompt.video_mask | prompt.audio_mask)).sum())
        self._counts = solve_drops(entering, plan.num_layers, wanted * plan.num_layers, retention)
        runs = [contiguous_runs(mask) for mask in (prompt.video_mask, prompt.audio_mask)]
        self._window_of = torch.zeros_like(keep, dtype=torch.long)
        for run in runs:
            self._window_of[run.positions] = run.index
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


def entry_fractions(n_video: int, n_audio: int, retention: float) -> tuple[float, float]:
    """Fractions of video and audio that enter the LLM.

    Parameters
    ----------
    n_video, n_audio : int
    retention : float
        Combined average retention wanted.
    """
    total = n_video + n_audio
    published = (ENTRY_VIDEO * n_video + ENTRY_AUDIO * n_audio) / total
    entering = max(published, min(1.0, ENTRY_PER_TARGET * retention))
    more = (entering - published) / (1.0 - published)
    return ENTRY_VIDEO + (1.0 - ENTRY_VIDEO) * more, ENTRY_AUDIO + (1.0 - ENTRY_AUDIO) * more


def _thin_video(prompt: PromptTokens, fraction: float) -> Tensor:
    """Keep mask (n_video,): first grids of four whole, of the others the same share."""
    features = prompt.embeddings[prompt.video_mask]
    grids = split_grids(prompt.video_lengths, prompt.video_grids, features.device)
    first = 1.0 / GROUP
    share = (fraction - first) / (1.0 - first)
    whole = sum(
        size for size, anchor in zip(grids.sizes, anchor_grids(grids, GROUP), strict=True) if anchor
    )
    count = whole + round(share * (prompt.n_video - whole))
    return keep_changing(features, grids, GROUP, count)
