"""The record of a selection: which original tokens were alive after every stage."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


def behind_clip(media: Tensor, index: Tensor) -> int:
    """How many tokens are the question, with the chat template around it.

    Parameters
    ----------
    media : BoolTensor, shape (S,)
        Which positions of the unpruned prompt are video or audio.
    index : LongTensor, shape (n,)
        Positions that count, ascending: those of padding do not.
    """
    last = media.nonzero()[-1:, 0]
    return int((index > last).sum()) if len(last) else len(index)


@dataclass(frozen=True, eq=False)
class Stage:
    """One reduction of the sequence."""

    # "diversity" (Stage I), "relevance" (Stage II) or "late" (Stage III) for SEATS; other methods
    # have names of their own (`Method.entry_kind`, `layer_kind`).
    kind: str
    after_layer: int  # 1-based decoder layer after which it acts; 0 means before the LLM
    # LongTensor, shape (n,): original positions (in the unpruned prompt) alive afterwards,
    # ascending, on CPU.
    kept: Tensor
    # How many of `kept` belong to each modality.
    video: int
    audio: int
    text: int
    # float32 Tensor, shape (m,), or None: relevance of each token alive *before* the stage, where
    # the method computes one.
    scores: Tensor | None = None
    label: str = ""  # what a report calls the stage (`Method.stage_label`)
    flops: int = 0  # of the choice, where the method tells (`Entry.flops`)


@dataclass(eq=False)
class SelectionTrace:
    """All stages of one prefill."""

    num_layers: int  # decoder layers L
    # BoolTensor, shape (S,): modality of each position of the unpruned prompt, on CPU; the rest is
    # text.
    video_mask: Tensor
    audio_mask: Tensor
    stages: list[Stage] = field(default_factory=list)  # in order of `after_layer`

    @property
    def length(self) -> int:
        """Tokens S of the unpruned prompt."""
        return int(self.video_mask.numel())

    @property
    def offered(self) -> tuple[int, int, int]:
        """Video, audio and text tokens of the unpruned prompt."""
        video, audio = int(self.video_mask.sum()), int(self.audio_mask.sum())
        return video, audio, self.length - video - audio

    @property
    def question(self) -> int:
        """Text tokens that entered behind the last audio-visual one; all without any."""
        media = self.video_mask | self.audio_mask
        if not self.stages:
            return behind_clip(media, torch.arange(self.length))
        return behind_clip(media, self.stages[0].kept)

    def add(
        self,
        kind: str,
        after_layer: int,
        kept: Tensor,
        scores: Tensor | None = None,
        label: str = "",
        flops: int = 0,
    ) -> Stage:
        """Append a stage, counting modalities from the masks, and return it."""
        kept = kept.detach().to("cpu", torch.long)
        if scores is not None:
            scores = scores.detach().to("cpu", torch.float32)
        video, audio = int(self.video_mask[kept].sum()), int(self.audio_mask[kept].sum())
        text = len(kept) - video - audio
        stage = Stage(kind, after_layer, kept, video, audio, text, scores, label, flops)
        self.stages.append(stage)
        return stage

    def alive_per_layer(self) -> list[tuple[int, int, int]]:
        """(video, audio, text) tokens that each of the L layers processes in the prefill."""
        alive = [self.offered] * self.num_layers
        for stage in self.stages:
            left = self.num_layers - stage.after_layer
            alive[stage.after_layer :] = [(stage.video, stage.audio, stage.text)] * left
        return alive

    def average_retention(self) -> tuple[float | None, float | None, float | None]:
        """Mean over layers of the fraction alive: video, audio, both together.

        None where the modality is absent.
        """
        alive = self.alive_per_layer()
        video, audio, _ = self.offered

        def mean(kept: int, offered: int) -> float | None:
            return kept / (offered * self.num_layers) if offered else None

        kept_video = sum(v for v, _, _ in alive)
        kept_audio = sum(a for _, a, _ in alive)
        both = mean(kept_video + kept_audio, video + audio)
        return mean(kept_video, video), mean(kept_audio, audio), both
