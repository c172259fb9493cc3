"""What reading a file gives: pixels, sound, and the facts about where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from seats_cli.families.base import SAMPLE_RATE


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
