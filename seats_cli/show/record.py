"""The record of a run: everything that a picture of it needs except the clip itself.

Plain numbers and numpy arrays: nothing here imports torch, so that a saved record can be drawn
on a machine without the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

# Imported at run time, because the reader of saved records fits values to these types.
from seats_cli.cost.token_counts import Evidence, Grid, TokenTimes
from seats_cli.families.base import Architecture, FrameSizing
from seats_cli.media.clip import MediaFacts, ReadOptions
from seats_cli.results import ModelFacts

Ints = npt.NDArray[np.int64]

TEXT, VIDEO, AUDIO = 0, 1, 2  # values of `RunRecord.modality`


@dataclass(frozen=True)
class Part:
    """One modality of one window at one stage."""

    # Tokens before and after the stage.
    offered: int
    kept: int
    budget: int | None  # tokens that the method allots; None where it has no budget for the window
    # Mean score of the tokens offered; None where the stage has no scores.
    mean_relevance: float | None
    # Place of the offered tokens among all of the modality, counted from 0, inclusive.
    first: int
    last: int


@dataclass(frozen=True)
class Window:
    """A window of a stage; None for a modality that it lacks."""

    video: Part | None
    audio: Part | None


@dataclass(frozen=True, eq=False)
class RecordedStage:
    """One reduction of the sequence, as `seats_cli.selection.trace.Stage`, with its windows."""

    kind: str
    after_layer: int
    kept: Ints
    scores: npt.NDArray[np.float32] | None = None
    windows: tuple[Window, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class RunRecord:
    """One answered question, its fields in the order of a saved trace."""

    label: str  # name of the run: "seats 25%", "full"
    question: str
    answer: str
    full_answer: str | None  # the unpruned model's answer, where it was asked too
    effective_fps: float | None
    audio_tokens_per_s: float
    # Width over height of a pixel of the upright picture in the file; 1 but for old formats.
    pixel_shape: float = 1.0
    media: MediaFacts
    read: ReadOptions  # how the clip was read, so that it can be read again
    sizing: FrameSizing  # bounds on the size of a frame, `read.max_pixels` included
    model: ModelFacts
    architecture: Architecture
    grid: Grid | None  # None without video tokens
    # As they were set; None for an unpruned run.
    config: dict[str, Any] | None
    plan: dict[str, Any] | None
    warnings: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()  # what the answer rests on, strongest first
    # Of the software that ran the model.
    versions: dict[str, str | None] = field(default_factory=dict)
    # int64 array, shape (S,): `TEXT`, `VIDEO` or `AUDIO` of each position of the unpruned prompt.
    modality: Ints
    stages: tuple[RecordedStage, ...]  # in order of `after_layer`

    @property
    def num_layers(self) -> int:
        """Decoder layers L."""
        return self.architecture.num_layers

    @property
    def offered(self) -> tuple[int, int, int]:
        """Video, audio and text tokens of the unpruned prompt."""
        counts = np.bincount(self.modality, minlength=3)
        return int(counts[VIDEO]), int(counts[AUDIO]), int(counts[TEXT])

    def layers_lived(self) -> Ints:
        """How many decoder layers process each position of the prompt, int64 (S,)."""
        lived = np.full(len(self.modality), self.num_layers, np.int64)
        alive = np.ones(len(self.modality), bool)
        for stage in self.stages:
            after = np.zeros_like(alive)
            after[stage.kept] = True
            lived[alive & ~after] = stage.after_layer
            alive = after
        return lived

    def alive_per_layer(self) -> list[tuple[int, int, int]]:
        """(video, audio, text) tokens that each of the L layers processes."""
        lived = self.layers_lived()
        alive = []
        for layer in range(1, self.num_layers + 1):
            counts = np.bincount(self.modality[lived >= layer], minlength=3)
            alive.append((int(counts[VIDEO]), int(counts[AUDIO]), int(counts[TEXT])))
        return alive

    @property
    def times(self) -> TokenTimes:
        """When its tokens are, in seconds from `media.start_s`."""
        return TokenTimes(self.grid, self.audio_tokens_per_s)

    @property
    def evidence_in_clip(self) -> tuple[Evidence, ...]:
        """The evidence, in seconds from `media.start_s` as all pictures count them."""
        begin = self.media.start_s
        return tuple(
            replace(one, start_s=one.start_s - begin, end_s=one.end_s - begin)
            for one in self.evidence
        )
