"""What reading a file gives: pixels, sound, and the facts about where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000  # Hz, what the Whisper-style feature extractors of both families expect


# The official pipeline's budget for a whole video: 90 % of a 128,000 token context.
TOKEN_BUDGET = 128_000 * 9 // 10
MIN_TOKENS_PER_FRAME, MAX_TOKENS_PER_FRAME = 128, 768


@dataclass(frozen=True)
class FrameSizing:
    """Size rules of the vision processor, in pixels of a frame (qwen-omni-utils names).

    Parameters
    ----------
    factor : int
        Both sides become multiples of this (patch size times merge size: 28 or 32).
    min_pixels, max_pixels : int
        Bounds on height x width of one frame. `max_pixels` wins where they contradict.
    total_pixels : int | None
        Bound on the pixels of all frames together, two frames counted as one because they
        share their tokens; None for no bound.
    """

    factor: int = 28
    min_pixels: int = MIN_TOKENS_PER_FRAME * 28 * 28
    max_pixels: int = MAX_TOKENS_PER_FRAME * 28 * 28
    total_pixels: int | None = TOKEN_BUDGET * 28 * 28

    @classmethod
    def for_factor(cls, factor: int) -> FrameSizing:
        """The official defaults for a model whose tokens cover `factor` x `factor` pixels."""
        area = factor * factor
        return cls(
            factor,
            MIN_TOKENS_PER_FRAME * area,
            MAX_TOKENS_PER_FRAME * area,
            TOKEN_BUDGET * area,
        )


@dataclass(frozen=True)
class MediaFacts:
    """What was in the file and what of it was used.

    Durations and times are seconds from the start of the file's own timeline; `None` means
    the file does not have (or does not say) it. `source_width` and `source_height` are those
    of the upright picture, `rotation_deg` the anticlockwise turn that made it upright, and
    `audio_track` counts the sound tracks from 0.
    """

    path: str
    container: str
    duration_s: float | None
    start_s: float
    end_s: float | None
    video_codec: str | None = None
    source_width: int | None = None
    source_height: int | None = None
    source_fps: float | None = None
    rotation_deg: int = 0
    frames_used: int = 0
    width: int | None = None
    height: int | None = None
    audio_codec: str | None = None
    audio_tracks: int = 0
    audio_track: int | None = None
    source_sample_rate: int | None = None
    source_channels: int | None = None
    audio_used_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Clip:
    """Sampled frames and sound of one file, on one timeline.

    Parameters
    ----------
    frames : uint8 array, shape (T, H, W, 3), or None
        RGB, upright, already resized; T is even (a temporal patch is two frames).
    frame_times : float64 array, shape (T,), or None
        Seconds from `facts.start_s` at which each frame is shown.
    fps : float or None
        Effective frames per second of `frames`: what the processor must be told.
    audio : float32 array, shape (n,), or None
        Mono at `SAMPLE_RATE`, sample 0 at `facts.start_s`.
    facts : MediaFacts
        Origin of the above.
    warnings : tuple of str
        One sentence for everything lost, changed or assumed.
    """

    frames: npt.NDArray[np.uint8] | None
    frame_times: npt.NDArray[np.float64] | None
    fps: float | None
    audio: npt.NDArray[np.float32] | None
    facts: MediaFacts
    warnings: tuple[str, ...] = field(default=())

    @property
    def audio_s(self) -> float:
        """Seconds of sound."""
        return 0.0 if self.audio is None else len(self.audio) / SAMPLE_RATE
