"""FastV: after an early decoder layer, keep what the last token attends to (arXiv 2403.06764).

Taken from the paper: one drop after layer K = 2, a global top-k by attention. Taken from the
comparison in arXiv 2605.20035: the attention is that of the last text token, from layer K's own
norm and projections on its output states; audio stays whole, or is dropped at random where the
budget does not allow it; the "-om" form ranks audio by attention too. Chosen here: a budget
that the first K layers exceed is refused.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from seats_cli.config import WINDOWS, check_integer
from seats_cli.cost.token_counts import tokens_to_keep
from seats_cli.errors import ConfigError
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import (
    Entry,
    LayerTokens,
    Method,
    Option,
    PromptTokens,
    register_method,
)
from seats_cli.selection.methods.budgets import (
    VIDEO_FLOOR,
    ratio_after_layer,
    require_positive,
    spare_audio,
)
from seats_cli.selection.topk import keep_at_random, keep_highest


@torch.no_grad()
def keep_attended(
    relevance: Tensor,
    video_mask: Tensor,
    audio_mask: Tensor,
    video: float,
    audio: float,
    audio_seed: int | None = None,
) -> Tensor:
    """Keep the most attended tokens of each modality.

    Parameters
    ----------
    relevance : Tensor, shape (n,)
        Attention to every token.
    video_mask, audio_mask : BoolTensor, shape (n,)
    video, audio : float
        Fractions to keep: half to even, at least one token of a modality present.
    audio_seed : int, optional
        Draws the audio at random with this seed instead of ranking it.

    Returns
    -------
    BoolTensor, shape (n,)
        True for kept tokens and for text.
    """
    keep = torch.ones_like(video_mask)
    for mask, ratio, seed in ((video_mask, video, None), (audio_mask, audio, audio_seed)):
        scores = relevance[mask]
        count = tokens_to_keep(len(scores), ratio)
        if seed is None:
            keep[mask] = keep_highest(scores, count)
        else:
            generator = torch.Generator().manual_seed(seed)
            keep[mask] = keep_at_random(len(scores), count, generator, keep.device)
    return keep


@register_method("fastv-om", ignores=WINDOWS, omni=True)
@register_method("fastv", ignores=WINDOWS)
class FastV(Method):
    """`fastv` and, with `omni`, `fastv-om`, which ranks audio too, with its own target.

    Parameters
    ----------
    ratios : (float, float), optional
        Fractions of video and audio to keep after layer K, in place of those that follow from
        the targets; a fraction of 0 or below keeps one token.

    Attributes
    ----------
    fastv_layer : int
        The layer K after which tokens are dropped, from 1.

    Raises
    ------
    ConfigError
        If the model has no more than K layers.
    """

    shares = "states"

    fastv_layer = Option(2, partial(check_integer, minimum=1))
    layer_kind = "attended"

    def __init__(
        self,
        plan: PruningPlan,
        omni: bool = False,
        ratios: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(plan)
        self.omni = omni
        self._given = ratios
        self._ratios = (1.0, 1.0)
        self._full = ratios is None and plan.retention_video == plan.retention_audio == 1.0
        if plan.num_layers is not None and self.fastv_layer >= plan.num_layers:
            raise ConfigError(
                f"fastv_layer is {self.fastv_layer}, but the model has {plan.num_layers} layers; "
                "it must be below that."
            )

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Everything enters; the fractions for layer K follow from the prompt's lengths."""
        self._ratios = self._after_layer_ratios(prompt.video.size, prompt.audio.size)
        return Entry(prompt.keep_all())

    def drops_after(self, layer: int) -> bool:
        """Only layer K drops, if anything is to go."""
        return layer == self.fastv_layer and not self._full

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor:
        """Global top-k of the video; audio likewise, or whole as far as it fits."""
        return keep_attended(
            tokens.relevance,
            tokens.video_mask,
            tokens.audio_mask,
            *self._ratios,
            audio_seed=None if self.omni else self.plan.config.seed,
        )

    def _after_layer_ratios(self, n_video: int, n_audio: int) -> tuple[float, float]:
        plan, layer = self.plan, self.fastv_layer
        if self._given is not None:
            video, audio = self._given
            return self._given if self.omni else spare_audio(video, audio, n_video, n_audio)
        # The first K layers see every token, so that the others have to keep less than the target.
        assert plan.num_layers is not None
        depth = plan.num_layers
        video = ratio_after_layer(plan.retention_video, layer, depth)
        audio = ratio_after_layer(plan.retention_audio, layer, depth)
        least = layer / depth
        if self.omni or not n_video or not n_audio:
            name = "fastv-om" if self.omni else "fastv"
            require_positive(name, video if n_video else 1.0, 1.0, least, share="video")
            require_positive(name, 1.0, audio if n_audio else 1.0, least, share="audio")
            return video, audio
        video, audio = spare_audio(video, audio, n_video, n_audio)
        least += (1.0 - least) * VIDEO_FLOOR * n_video / (n_video + n_audio)
        require_positive("fastv", video, audio, least)
        return video, audio
