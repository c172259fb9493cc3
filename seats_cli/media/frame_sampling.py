"""Which frames of a video are read, at which times and in which size.

The rules are those of qwen-omni-utils (`smart_nframes`, `smart_resize` and the pixel budget
of `fetch_video`), in plain arithmetic because that package imports torch; tests compare the two.
New here is the choice by time where frames come irregularly (`plan_frames`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seats_cli.errors import MediaError, UsageError
from seats_cli.families.base import MAX_TOKENS_PER_FRAME, FrameSizing
from seats_cli.media.clip import ReadOptions

FRAMES_PER_GRID = 2  # a temporal patch is two frames, so their number is even
MIN_FRAMES = 4
MAX_ASPECT_RATIO = 200
# A picture that starts less than this after the sound is sampled as if they started together:
# a viewer does not notice it and it is a fraction of one temporal patch.
ALIGNED_S = 0.1
_HEADER_AGREES = 0.01  # relative


def frame_count(total_frames: int, video_fps: float, fps: float, max_frames: int) -> int:
    """Number of frames to take from a video.

    Parameters
    ----------
    total_frames : int
        Frames the video has, at least 1.
    video_fps, fps : float
        Frames per second of the video and to sample.
    max_frames : int
        Upper bound; an odd one counts as the even number below it.

    Returns
    -------
    int
        Even, at least 2. A video of one frame gives 2: the frame is to be repeated.

    Raises
    ------
    UsageError
        If `fps` is not positive or `max_frames` is below 2.
    """
    if not 0 < fps < math.inf:
        raise UsageError(f"The frame rate must be above 0 frames per second, not {fps:g}.")
    if max_frames < FRAMES_PER_GRID:
        raise UsageError(f"At least 2 frames are needed, max_frames is {max_frames}.")
    limit = max_frames // FRAMES_PER_GRID * FRAMES_PER_GRID
    wanted = total_frames / video_fps * fps
    wanted = min(max(wanted, MIN_FRAMES), limit, total_frames)
    return max(FRAMES_PER_GRID, math.floor(wanted / FRAMES_PER_GRID) * FRAMES_PER_GRID)


def frame_indices(total_frames: int, count: int) -> npt.NDArray[np.int64]:
    """Positions of `count` frames spread evenly from the first to the last frame.

    Parameters
    ----------
    total_frames : int
        Frames the video has, at least 1.
    count : int
        Frames to take.

    Returns
    -------
    int64 array, shape (count,)
        Non-decreasing, in [0, total_frames).
    """
    return np.rint(np.linspace(0, total_frames - 1, count)).astype(np.int64)


def effective_fps(count: int, total_frames: int, video_fps: float) -> float:
    """Frames per second that `count` of `total_frames` frames amount to."""
    return count / total_frames * video_fps


def frame_size(height: int, width: int, count: int, sizing: FrameSizing) -> tuple[int, int]:
    """Size to which every frame of a video is scaled.

    Parameters
    ----------
    height, width : int
        Size of the upright frame in pixels.
    count : int
        Frames taken from the video; many frames share the total budget.
    sizing : FrameSizing
        The vision processor's bounds.

    Returns
    -------
    tuple of int
        Height and width, multiples of `sizing.factor`, near the frame's aspect ratio.

    Raises
    ------
    MediaError
        If the frame is empty or one side is more than 200 times the other.
    UsageError
        If the bounds leave no room for one token.
    """
    factor = sizing.factor
    if min(height, width) < 1 or max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise MediaError(
            f"The picture is {width} x {height} pixels: a side more than {MAX_ASPECT_RATIO} "
            "times the other cannot be used; crop it first."
        )
    if sizing.max_pixels < factor * factor:
        raise UsageError(
            f"max_pixels is {sizing.max_pixels}, less than one token of {factor} x {factor} pixels."
        )
    # As in `fetch_video`: the budget of the whole video is shared by its pairs of frames, but a
    # frame may always have a little more than the minimum.
    min_pixels = min(sizing.min_pixels, sizing.max_pixels)
    limit: float = MAX_TOKENS_PER_FRAME * factor * factor
    if sizing.total_pixels is not None:
        limit = min(limit, sizing.total_pixels / count * FRAMES_PER_GRID)
    max_pixels = min(sizing.max_pixels, max(limit, int(min_pixels * 1.05)))
    return _fit(height, width, factor, min_pixels, max_pixels)


def _fit(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: float
) -> tuple[int, int]:
    """Multiples of `factor` within the pixel bounds, closest to the aspect ratio."""
    rows = max(factor, round(height / factor) * factor)
    columns = max(factor, round(width / factor) * factor)
    if rows * columns > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        # The library can reach 0 here for long thin frames; one token is the least.
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


@dataclass(frozen=True, eq=False)
class FramePlan:
    """Which frames to take."""

    # float64 array, shape (n,): seconds on the file's timeline, non-decreasing, n even; the frame
    # to take is the one on screen at that time.
    times: npt.NDArray[np.float64]
    fps: float  # effective rate: n over the seconds covered
    source_fps: float  # mean rate of the frames in the range
    # Seconds before the first frame that it stands in for, because the sound starts earlier.
    held_s: float
    steady: bool  # constant frame rate, and hence the same frames as the official pipeline


def plan_frames(
    shown: npt.NDArray[np.float64],
    last_s: float,
    header_fps: float | None,
    options: ReadOptions,
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
    options : ReadOptions
        The range, its ends inclusive as in the official pipeline, `fps` and `max_frames`.

    Returns
    -------
    FramePlan or None
        None if the picture ends before the range. Where it begins after it, its first frame stands
        for that time, as it does in the whole file.

    Raises
    ------
    UsageError
        If `fps` or `max_frames` allow no frame.
    """
    if len(shown) == 0:
        return None
    # 1. The frames that appear in the range, and their rate.
    start, fps, max_frames = options.start, options.fps, options.max_frames
    low, high = start or 0.0, np.inf if options.end is None else options.end
    epsilon = 1e-6
    inside = shown[(shown >= low - epsilon) & (shown <= high + epsilon)]
    rate = source_rate(inside if len(inside) > 1 else shown, last_s, header_fps, fps)
    last_s = last_s if last_s > 0 else 1 / rate
    if shown[-1] + last_s <= low:
        return None
    late = shown[0] - low
    # 2. An even grid that fills the range: by index, as the official pipeline does.
    if (
        len(inside)
        and is_steady(inside, fps)
        and late <= ALIGNED_S
        and last_s <= max(2 / rate, 1 / fps)  # an animation may rest on its last frame
        and _fills(inside, low, rate, start)
    ):
        total = len(inside)
        count = frame_count(total, rate, fps, max_frames)
        times = inside[frame_indices(total, count)]
        return FramePlan(times, effective_fps(count, total, rate), rate, 0.0, True)
    # 3. Otherwise by time: the seconds that the picture covers, a late start included.
    begin = low if start is not None or late > ALIGNED_S else float(shown[0])
    covered = max(min(high, float(shown[-1]) + last_s) - begin, 1 / rate)
    # Two instants may take the same frame, so there can be more of them than frames.
    density = max(len(inside) / covered, min(fps, max_frames / covered))
    total = max(1, round(covered * density))
    count = frame_count(total, total / covered, fps, max_frames)
    # As with indices, the last instant is that of the last frame, however short it is shown.
    final = max(begin + covered * (1 - 1 / total), min(float(shown[-1]), high))
    times = np.linspace(begin, final, count)
    return FramePlan(
        times, count / covered, rate, max(late, 0.0) if late > ALIGNED_S else 0.0, False
    )


def is_steady(shown: npt.NDArray[np.float64], fps: float) -> bool:
    """Whether no frame is further than half a frame from an even grid.

    Within that bound, choosing by index and choosing by time give the same frames. Half the time
    of a slide is long, though: there the bound is half the interval of `fps`.
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
    """Whether the first frame comes within a frame's time of the range's start.

    If not, the frame before is still on screen there, and choosing by index would leave it out.
    """
    return start is None or float(inside[0]) - low <= 1.5 / rate
