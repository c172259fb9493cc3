"""From the frames a file has to the times at which it is looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from seats_cli.media.sampling import effective_fps, frame_count, frame_indices

# Less than this between the start of sound and picture is not worth resampling for: a
# viewer does not notice it and it is a fraction of one temporal patch.
ALIGNED_S = 0.1
_HEADER_AGREES = 0.01  # relative


@dataclass(frozen=True, eq=False)
class FramePlan:
    """Which frames to take.

    Parameters
    ----------
    times : float64 array, shape (n,)
        Seconds on the file's timeline, non-decreasing, n even; the frame to take is the one
        on screen at that time.
    fps : float
        Effective rate: n over the seconds covered.
    source_fps : float
        Mean rate of the frames in the range.
    held_s : float
        Seconds before the first frame for which it stands, because the sound starts earlier.
    steady : bool
        Constant frame rate, and hence the same frames as the official pipeline.
    """

    times: npt.NDArray[np.float64]
    fps: float
    source_fps: float
    held_s: float
    steady: bool

    def with_fps(self, fps: float) -> FramePlan:
        """The same frames at another rate: a still picture has none of its own."""
        return replace(self, fps=fps)


def plan_frames(
    shown: npt.NDArray[np.float64],
    last_s: float,
    *,
    header_fps: float | None,
    start: float | None,
    end: float | None,
    fps: float,
    max_frames: int,
) -> FramePlan | None:
    """Choose sampling times by the official pipeline's rules.

    With a constant frame rate the frames are those of the official pipeline, index for index.
    Otherwise, indices say nothing about time: the same number of instants is spread over
    the seconds covered. The same is done when the picture starts noticeably after the sound,
    with the first frame standing for the time before it, since the model takes the first
    frame to be at 0.

    Parameters
    ----------
    shown : float64 array, shape (N,)
        Seconds on the file's timeline at which each frame appears, increasing.
    last_s : float
        Seconds the last frame stays; 0 if unknown.
    header_fps : float or None
        The rate the file claims; trusted where the time stamps agree.
    start, end : float or None
        Range in seconds on the file's timeline, both inclusive as in the official pipeline.
    fps : float
        Frames per second wanted.
    max_frames : int
        Upper bound on the frames.

    Returns
    -------
    FramePlan or None
        None if no frame is on screen in the range.

    Raises
    ------
    UsageError
        If `fps` or `max_frames` allow no frame.
    """
    if len(shown) == 0:
        return None
    low, high = start or 0.0, np.inf if end is None else end
    epsilon = 1e-6
    inside = shown[(shown >= low - epsilon) & (shown <= high + epsilon)]
    rate = source_rate(inside if len(inside) > 1 else shown, last_s, header_fps, fps)
    last_s = last_s if last_s > 0 else 1 / rate
    if shown[0] > high or shown[-1] + last_s <= low:
        return None
    late = shown[0] - low
    if (
        len(inside)
        and is_steady(inside, fps)
        and late <= ALIGNED_S
        and _fills(inside, low, rate, start)
    ):
        total = len(inside)
        count = frame_count(total, rate, fps, max_frames)
        times = inside[frame_indices(total, count)]
        return FramePlan(times, effective_fps(count, total, rate), rate, 0.0, True)
    begin = low if start is not None or late > ALIGNED_S else float(shown[0])
    covered = max(min(high, float(shown[-1]) + last_s) - begin, 1 / rate)
    # Instants may share a frame, so their number need not stop at the number of frames.
    density = max(len(inside) / covered, min(fps, max_frames / covered))
    total = max(1, round(covered * density))
    count = frame_count(total, total / covered, fps, max_frames)
    # As with indices, the last frame is the last one looked at, however short it is.
    final = max(begin + covered * (1 - 1 / total), min(float(shown[-1]), high))
    times = np.linspace(begin, final, count)
    return FramePlan(
        times, count / covered, rate, max(late, 0.0) if late > ALIGNED_S else 0.0, False
    )


def is_steady(shown: npt.NDArray[np.float64], fps: float) -> bool:
    """Whether no frame is further than half a frame from an even grid.

    Within that bound, choosing by index and choosing by time are the same choice. Half a frame
    of slides is long, though: there the bound is half a frame at the rate wanted.
    """
    if len(shown) < 3:
        return True
    grid = np.linspace(shown[0], shown[-1], len(shown))
    return bool(np.abs(shown - grid).max() <= 0.5 * min(grid[1] - grid[0], 1 / fps))


def source_rate(
    shown: npt.NDArray[np.float64], last_s: float, header_fps: float | None, fallback: float
) -> float:
    """Mean frames per second of time stamps in seconds, float64, shape (N,).

    The header's value where it agrees with them: it is exact, where stamps are rounded to
    the container's ticks and the official frame count rounds down.
    """
    if len(shown) > 1:
        measured = (len(shown) - 1) / float(shown[-1] - shown[0])
    elif last_s > 0:
        measured = 1 / last_s
    else:
        return header_fps or fallback
    if header_fps and abs(header_fps - measured) <= _HEADER_AGREES * measured:
        return header_fps
    return round(measured, 3) or measured


def _fills(inside: npt.NDArray[np.float64], low: float, rate: float, start: float | None) -> bool:
    """Whether the range begins within a frame's time of its first frame (else one is held)."""
    return start is None or float(inside[0]) - low <= 1.5 / rate
