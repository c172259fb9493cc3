"""What methods for vision do with sound: keep it whole while the budget allows."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from seats_cli.plan import PruningPlan
from seats_cli.selection.base import Entry, Method, PromptTokens
from seats_cli.selection.ratios import VIDEO_FLOOR, floor_count, require_positive, spare_audio
from seats_cli.selection.topk import keep_at_random


class VisualMethod(Method):
    """A method that was made for vision and acts before the LLM.

    The two targets are one budget of tokens. Audio stays whole while that leaves the video its
    floor (5 %, or what the method cannot go below); beyond that audio gives way, at random with
    the plan's seed (the convention of the comparison in arXiv 2605.20035). With `omni` both
    modalities keep their own target, and audio is chosen by the rule made for video.

    Parameters
    ----------
    plan : PruningPlan
    omni : bool
        Whether audio is treated like video.
    """

    name: ClassVar[str]

    def __init__(self, plan: PruningPlan, omni: bool = False) -> None:
        super().__init__(plan)
        self.omni = omni

    @abstractmethod
    def choose_video(self, prompt: PromptTokens, ratio: float) -> tuple[Tensor, Tensor | None]:
        """Keep mask (n_video,), and all video embeddings (n_video, D) if merging changed any."""

    def choose_audio(self, prompt: PromptTokens, ratio: float) -> tuple[Tensor, Tensor | None]:
        """The same for audio, asked for only with `omni`."""
        raise NotImplementedError

    def video_floor(self, prompt: PromptTokens) -> float:
        """Fraction of the video that the method keeps at least."""
        return VIDEO_FLOOR

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Divide the budget, then choose in each modality."""
        video, audio = self._ratios(prompt)
        keep = torch.ones_like(prompt.video_mask)
        embeddings: Tensor | None = None
        for mask, present, ratio, choose in (
            (prompt.video_mask, prompt.n_video, video, self.choose_video),
            (
                prompt.audio_mask,
                prompt.n_audio,
                audio,
                self.choose_audio if self.omni else self._draw_audio,
            ),
        ):
            if not present or ratio >= 1.0:
                continue
            keep[mask], changed = choose(prompt, ratio)
            if changed is not None:
                embeddings = prompt.embeddings.clone() if embeddings is None else embeddings
                embeddings[mask] = changed.to(embeddings.dtype)
        return Entry(keep, embeddings)

    def _ratios(self, prompt: PromptTokens) -> tuple[float, float]:
        """Fractions of video and audio to keep, both above 0."""
        plan = self.plan
        video, audio = plan.retention_video, plan.retention_audio
        if self.omni:
            return video, audio
        n_video, n_audio = prompt.n_video, prompt.n_audio
        floor = self.video_floor(prompt) if n_video else 0.0
        video, audio = spare_audio(video, audio, n_video, n_audio, floor)
        if n_video and n_audio:
            least = floor * n_video / (n_video + n_audio)
            require_positive(self.name, video, audio, least)
        return video, audio

    def _draw_audio(self, prompt: PromptTokens, ratio: float) -> tuple[Tensor, None]:
        """Audio that has to go, at random."""
        generator = torch.Generator().manual_seed(self.plan.seed)
        size = prompt.n_audio
        device = prompt.audio_mask.device
        return keep_at_random(size, floor_count(size, ratio), generator, device), None
