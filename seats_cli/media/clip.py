"""What to read of a file, and what reading it gives: pixels, sound and where they came from.

Plain data; nothing here imports PyAV, so that a model can be pruned without it, nor numpy, so
that the command line starts fast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seats_cli.errors import UsageError
from seats_cli.families.base import SAMPLE_RATE, FrameSizing
from seats_cli.media.timecode import check_range

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


INDEX_SUFFIX = ".seats"


def is_index(name: str) -> bool:
    """Whether a file is named like an indexed clip."""
    return name.lower().endswith(INDEX_SUFFIX)


def refuse_index(name: str) -> None:
    """Refuse an indexed clip where pictures and sound are needed.

    Raises
    ------
    UsageError
    """
    if is_index(name):
        raise UsageError(
            f"{name} is an indexed clip, which only answers questions (seats ask, seats chat): "
            "give the clip itself."
        )


@dataclass(frozen=True)
class ReadOptions:
    """What of a file to read.

    Parameters
    ----------
    start, end : float or None
        Range in seconds from the start of the file; None for its start and its end.
    fps : float
        Frames per second to sample.
    max_frames : int
        Upper bound on the frames; beyond it the effective rate falls.
    max_pixels : int or None
        Upper bound on height x width of a frame, below the model's own bound.
    total_pixels : int or None
        Upper bound on height x width of all frames together, two counted as one, in place of the
        official pipeline's (115,200 tokens). A frame may always have a little more than the
        model's least.
    video_track : int or None
        Which video track, from 0, covers included; None takes the one that a player shows: never
        a cover, the one the file marks as default, else the largest.
    audio, video : bool
        Whether to read the sound and the picture.
    audio_track : int or None
        Which sound track, from 0; None takes the one the file marks as default, else the first.
    max_audio : float or None
        Seconds of sound at most; what is left out becomes a warning.

    Raises
    ------
    UsageError
        If the range is empty or `max_audio` is not above 0. Whether the range and the track
        exist, only the file can tell.
    """

    start: float | None = None
    end: float | None = None
    fps: float = 2.0
    max_frames: int = 768
    max_pixels: int | None = None
    total_pixels: int | None = None
    video_track: int | None = None
    audio: bool = True
    audio_track: int | None = None
    max_audio: float | None = None
    video: bool = True

    def __post_init__(self) -> None:
        check_range(self.start, self.end, None)
        if self.max_audio is not None and not self.max_audio > 0:
            raise UsageError(f"max_audio must be above 0 seconds, not {self.max_audio:g}.")

    def bound(self, sizing: FrameSizing) -> FrameSizing:
        """A model's size rules under `max_pixels` and `total_pixels`.

        Raises
        ------
        UsageError
            If either is less than one token covers.
        """
        least = sizing.factor**2
        if self.total_pixels is not None:
            if self.total_pixels < least:
                raise UsageError(
                    f"total_pixels {self.total_pixels} is less than the {least} pixels of one "
                    f"token ({sizing.factor}x{sizing.factor})."
                )
            sizing = replace(sizing, total_pixels=self.total_pixels)
        if self.max_pixels is None:
            return sizing
        if self.max_pixels < least:
            raise UsageError(
                f"max_pixels {self.max_pixels} is less than the {least} pixels of one token "
                f"({sizing.factor}x{sizing.factor})."
            )
        return replace(
            sizing,
            max_pixels=self.max_pixels,
            min_pixels=min(sizing.min_pixels, self.max_pixels),
        )


@dataclass(frozen=True)
class MediaFacts:
    """What was in the file and what of it was used.

    Durations and times are seconds from the start of the file's own timeline; `None` means
    the file does not have (or does not say) it. `source_width` and `source_height` are those
    of the upright picture, `rotation_deg` the anticlockwise turn that made it upright;
    `video_track` and `audio_track` count the video tracks (covers included) and the sound tracks
    from 0.
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
    video_tracks: int = 0
    video_track: int | None = None


@dataclass(frozen=True, eq=False)
class Clip:
    """Sampled frames and sound of one file, on one timeline."""

    # uint8 array, shape (T, H, W, 3), or None: RGB, upright, already resized; T is even (a temporal
    # patch is two frames).
    frames: npt.NDArray[np.uint8] | None
    # float64 array, shape (T,), or None: seconds from `facts.start_s` at which each frame is shown.
    frame_times: npt.NDArray[np.float64] | None
    # Effective frames per second of `frames`: what the processor must be given. None leaves it to
    # the processor, which assumes a rate of its own.
    fps: float | None
    # float32 array, shape (n,), or None: mono at `SAMPLE_RATE`, sample 0 at `facts.start_s`.
    audio: npt.NDArray[np.float32] | None
    facts: MediaFacts  # origin of the above
    warnings: tuple[str, ...] = ()  # one sentence for everything lost, changed or assumed
    # Width over height of a pixel of the upright picture in the file (its sample aspect ratio); 1
    # but for old formats. `frames` ignore it, pictures for people need it.
    pixel_shape: float = 1.0

    @property
    def audio_s(self) -> float:
        """Seconds of sound."""
        return 0.0 if self.audio is None else len(self.audio) / SAMPLE_RATE
