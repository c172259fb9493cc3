"""How vision-only methods treat audio: it stays whole while the budget allows."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from seats_cli.cost.token_counts import MediaSizes
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import Entry, Method, Modality, PromptTokens, target_tokens
from seats_cli.selection.methods.budgets import (
    VIDEO_FLOOR,
    floor_count,
    require_positive,
    spare_audio,
)
from seats_cli.selection.topk import keep_at_random


class VisualMethod(Method):
    """A method designed for vision that acts before the LLM.

    The two targets are one budget of tokens. Audio stays whole while that leaves the video its
    floor (5 %, or what the method cannot go below); beyond that audio is dropped, at random with
    the plan's seed (the convention of the comparison in arXiv 2605.20035). With `omni` both
    modalities keep their own target, and audio is chosen by the rule for video.
    """

    shares = "entry"

    name: ClassVar[str]

    def __init__(self, plan: PruningPlan, omni: bool = False) -> None:
        super().__init__(plan)
        self.omni = omni

    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """The targets; both together are one budget, which `before_llm` may share out anew."""
        return target_tokens(self.plan, architecture, sizes)

    @abstractmethod
    def choose(
        self, prompt: PromptTokens, modality: Modality, ratio: float
    ) -> tuple[Tensor, Tensor | None]:
        """Choose in one modality: the video, or either with `omni`.

        The fraction of its tokens to keep, `ratio`, is above 0 and below 1.

        Returns
        -------
        keep : BoolTensor, shape (n,)
        merged : Tensor, shape (n, D), or None
            All embeddings of the modality, if merging changed any.
        """

    def video_floor(self, prompt: PromptTokens) -> float:
        """Fraction of the video that the method keeps at least; called for prompts with video."""
        return VIDEO_FLOOR

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Divide the budget, then choose in each modality."""
        video, audio = self._ratios(prompt)
        keep = prompt.keep_all()
        embeddings: Tensor | None = None
        for modality, ratio, choose in (
            (prompt.video, video, self.choose),
            (prompt.audio, audio, self.choose if self.omni else self._draw),
        ):
            if not modality.size or ratio >= 1.0:
                continue
            keep[modality.mask], merged = choose(prompt, modality, ratio)
            if merged is not None:
                embeddings = prompt.embeddings.clone() if embeddings is None else embeddings
                embeddings[modality.mask] = merged.to(embeddings.dtype)
        return Entry(keep, embeddings)

    def _ratios(self, prompt: PromptTokens) -> tuple[float, float]:
        """Fractions of video and audio to keep, both above 0."""
        video, audio = self.plan.retention_video, self.plan.retention_audio
        n_video, n_audio = prompt.video.size, prompt.audio.size
        if self.omni or not n_video or not n_audio:
            return video, audio
        floor = self.video_floor(prompt)
        video, audio = spare_audio(video, audio, n_video, n_audio, floor)
        require_positive(self.name, video, audio, floor * n_video / (n_video + n_audio))
        return video, audio

    def _draw(self, prompt: PromptTokens, modality: Modality, ratio: float) -> tuple[Tensor, None]:
        """Audio that has to go, at random."""
        generator = torch.Generator().manual_seed(self.plan.config.seed)
        count = floor_count(modality.size, ratio)
        return keep_at_random(modality.size, count, generator, modality.mask.device), None
