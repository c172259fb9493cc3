"""The two ends of the scale: everything stays, or tokens are kept at random."""

from __future__ import annotations

import torch
from torch import Tensor

from seats_cli.config import RETENTION, WINDOWS
from seats_cli.cost.token_counts import MediaSizes
from seats_cli.families.base import Architecture
from seats_cli.selection.method import (
    Entry,
    Method,
    PromptTokens,
    register_method,
    target_tokens,
)
from seats_cli.selection.methods.budgets import floor_count
from seats_cli.selection.topk import keep_at_random


@register_method("full", ignores=(*WINDOWS, *RETENTION))
class Full(Method):
    """Keeps every token in every layer, whatever the budget says."""

    shares = "entry"
    draws = False

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Everything enters."""
        return Entry(prompt.keep_all())


def keep_random_modalities(
    video_mask: Tensor, audio_mask: Tensor, video: float, audio: float, seed: int
) -> Tensor:
    """Draw a fraction of each modality, uniformly without replacement.

    Masks have shape (S,), and so has the result: True for kept tokens and for text. Counts are
    rounded down, to at least one token. The seed is that of one stream on the CPU: the video is
    drawn first, then the audio.
    """
    generator = torch.Generator().manual_seed(seed)
    keep = torch.ones_like(video_mask)
    for mask, ratio in ((video_mask, video), (audio_mask, audio)):
        size = int(mask.sum())
        count = floor_count(size, ratio)
        keep[mask] = keep_at_random(size, count, generator, mask.device)
    return keep


@register_method("random", ignores=WINDOWS)
class Random(Method):
    """Each modality keeps its target fraction, drawn with the plan's seed.

    Taken from the comparison in arXiv 2605.20035: uniform without replacement, counts rounded
    down. Floor: one token of each modality present.
    """

    shares = "entry"

    entry_kind = "random"

    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """The targets."""
        return target_tokens(self.plan, architecture, sizes)

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Draw the tokens that enter."""
        plan = self.plan
        return Entry(
            keep_random_modalities(
                prompt.video.mask,
                prompt.audio.mask,
                plan.retention_video,
                plan.retention_audio,
                plan.config.seed,
            )
        )
