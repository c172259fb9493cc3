"""OmniDrop: a few tokens leave after every decoder layer (arXiv 2605.14458)."""

from __future__ import annotations

from math import exp

import torch
from torch import Tensor

from seats_cli.config import WINDOWS
from seats_cli.cost.token_counts import MediaSizes, token_counts, tokens_to_keep
from seats_cli.errors import ConfigError
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import (
    Entry,
    LayerTokens,
    Method,
    PromptTokens,
    register_method,
)
from seats_cli.selection.methods.dycoke import GROUP, anchor_tokens, keep_changing
from seats_cli.selection.topk import keep_highest
from seats_cli.selection.windows import contiguous_runs, split_grids

# Published fractions that enter the LLM, and how many times the target enters at 30 %.
ENTRY_VIDEO, ENTRY_AUDIO, ENTRY_PER_TARGET = 0.4, 0.7, 1.5
STEEPNESS, MIDDLE = 20.0, 0.5
_BISECTIONS = 40


def entry_fractions(n_video: int, n_audio: int, retention: float) -> tuple[float, float]:
    """Fractions of video and audio that enter the LLM, for a combined average retention."""
    total = n_video + n_audio
    published = (ENTRY_VIDEO * n_video + ENTRY_AUDIO * n_audio) / total
    entering = max(published, min(1.0, ENTRY_PER_TARGET * retention))
    more = (entering - published) / (1.0 - published)
    return ENTRY_VIDEO + (1.0 - ENTRY_VIDEO) * more, ENTRY_AUDIO + (1.0 - ENTRY_AUDIO) * more


def drop_counts(entering: int, num_layers: int, p_init: float, p_final: float) -> list[int]:
    """Audio-visual tokens that leave after each of the layers 1 to L - 2, of those that enter.

    `p_init` and `p_final` are the fractions of the tokens alive that leave after early and after
    late layers; between them rises a sigmoid, and counts are rounded down.
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


def solve_drops(entering: int, offered: int, num_layers: int, retention: float) -> list[int]:
    """Drop counts whose mean over the layers comes closest to `retention` of the tokens offered.

    Raises
    ------
    ConfigError
        If the tokens that enter exceed the target in the first layer alone.
    """
    start, target = initial_drop(retention), retention * offered * num_layers

    def counts(strength: float) -> list[int]:
        """Up to 1 the late fraction rises from p_init to 1, up to 2 p_init follows."""
        late, early = min(strength, 1.0), max(strength - 1.0, 0.0)
        rest = 1.0 - start
        return drop_counts(entering, num_layers, start + early * rest, start + late * rest)

    def total(strength: float) -> int:
        return layer_total(entering, num_layers, counts(strength))

    low, high = 0.0, 2.0
    if total(high) > target + 1.0:
        least = total(high) / (offered * num_layers)
        raise ConfigError(
            "This budget is out of reach for omnidrop: every token that enters is seen by the "
            f"first layer, which costs an average retention of {least:.3g} (overall); ask for at "
            "least that or use another method."
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if total(middle) > target:
            low = middle
        else:
            high = middle
    return counts(min((low, high), key=lambda strength: abs(total(strength) - target)))


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
        # Only the least important compete: distance must not save a token from far down the list
        # at the cost of one that ranks well above it.
        order = scores.argsort(stable=True)
        distance = (window_of - window_of[order[-1]]).abs() / last_window
        rivals = torch.zeros_like(scores, dtype=torch.bool)
        rivals[order[: 2 * count]] = True
        scores = (scores + DIVERSITY_WEIGHT * distance).masked_fill(~rivals, torch.inf)
    keep = torch.ones_like(scores, dtype=torch.bool)
    keep[scores.argsort(stable=True)[:count]] = False
    return keep


@register_method("omnidrop", ignores=WINDOWS)
class OmniDrop(Method):
    """`omnidrop`. One budget for both modalities; late layers may hold no token of either."""

    shares = "states"
    draws = False

    needs_importance = True
    query_tokens = "question"
    entry_kind = "attended and changed"

    def __init__(self, plan: PruningPlan) -> None:
        super().__init__(plan)
        self._counts: list[int] = []
        self._window_of = torch.zeros(0, dtype=torch.long)
        self._last_window = 0

    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """By the fractions of `entry_fractions`."""
        plan = self.plan
        video, audio = token_counts(architecture, sizes)
        wanted = plan.retention_video * video + plan.retention_audio * audio
        if wanted >= video + audio:
            return video, audio
        shares = entry_fractions(video, audio, wanted / (video + audio))
        return tokens_to_keep(video, shares[0]), tokens_to_keep(audio, shares[1])

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """The mild pruning; what the layers will drop follows from the prompt's lengths."""
        # 1. Both targets form one budget of tokens times layers.
        plan, video, audio = self.plan, prompt.video, prompt.audio
        keep = prompt.keep_all()
        self._counts = []
        wanted = plan.retention_video * video.size + plan.retention_audio * audio.size
        total = video.size + audio.size
        if wanted >= total:
            return Entry(keep)
        assert plan.num_layers is not None
        # 2. What enters: changes of the picture, and the sound that its encoder attends to.
        share_video, share_audio = entry_fractions(video.size, audio.size, wanted / total)
        if video.size:
            keep[video.mask] = _thin_video(prompt, share_video)
        if audio.size:
            assert audio.importance is not None
            count = tokens_to_keep(audio.size, share_audio)
            keep[audio.mask] = keep_highest(audio.importance, count)
        # 3. How many tokens leave after each layer, and the window of each for `after_layer`.
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
