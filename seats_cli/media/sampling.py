"""How many frames are taken, which ones, and at what size: the official pipeline's rules.

The arithmetic equals `smart_nframes`, `smart_resize` and `fetch_video` of qwen-omni-utils,
which cannot be imported here because it loads torch; a test holds the two together. Where
the library gives up (fewer than two frames) these functions go on in the obvious way.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from seats_cli.errors import MediaError, UsageError
from seats_cli.media.clip import MAX_TOKENS_PER_FRAME, FrameSizing

FRAMES_PER_GRID = 2  # a temporal patch is two frames, so their number is even
MIN_FRAMES = 4
MAX_ASPECT_RATIO = 200


def frame_count(total_frames: int, video_fps: float, fps: float, max_frames: int) -> int:
    """Number of frames to take from a video.

    Parameters
    ----------
    total_frames : int
        Frames the video has, at least 1.
    video_fps, fps : float
        Frames per second the video has and that are wanted.
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
