"""A clip made in memory, to measure speed without a file."""

from __future__ import annotations

import numpy as np

from seats_cli.errors import UsageError
from seats_cli.families.base import SAMPLE_RATE, FrameSizing
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.media.frame_sampling import effective_fps, frame_count, frame_size

SOURCE_FPS = 25.0
SOURCE_SIZE = (360, 640)  # height, width: a common size for clips, 9:16


def synthetic_clip(
    seconds: float,
    *,
    fps: float = 2.0,
    max_frames: int = 768,
    sizing: FrameSizing | None = None,
    audio: bool = True,
    seed: int = 0,
) -> Clip:
    """Moving coloured stripes with some noise, and a tone with some noise.

    Frames are as many and as large as those of a 640 x 360 video of that length would be.

    Parameters
    ----------
    seconds : float
        Length, above 0.
    fps, max_frames, sizing, audio
        As for `read_clip`.
    seed : int
        For the noise.

    Raises
    ------
    UsageError
        If the length is not above 0, or the bounds allow no frame.
    """
    if not 0 < seconds < float("inf"):
        raise UsageError(f"A synthetic clip needs a length above 0 seconds, not {seconds:g}.")
    random = np.random.default_rng(seed)
    total = max(1, round(seconds * SOURCE_FPS))
    count = frame_count(total, SOURCE_FPS, fps, max_frames)
    height, width = frame_size(*SOURCE_SIZE, count, sizing or FrameSizing())
    times = np.linspace(0.0, seconds * (1 - 1 / total), count)
    phase = np.arange(width) / width
    colours = np.array([0.0, 1 / 3, 2 / 3])
    stripes = np.sin(2 * np.pi * (4 * phase[None, :, None] + colours - times[:, None, None] / 3))
    frames = np.empty((count, height, width, 3), np.uint8)
    for number, row in enumerate(stripes):
        noise = random.integers(-24, 25, (height, width, 3), np.int16)
        frames[number] = np.clip(128 + 90 * row[None] + noise, 0, 255)
    sound = None
    if audio:
        at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        noise = random.normal(0.0, 0.02, len(at))
        sound = (0.2 * np.sin(2 * np.pi * 220 * at * (1 + at / seconds)) + noise).astype(np.float32)
    facts = MediaFacts(
        path="synthetic clip",
        container="none",
        duration_s=seconds,
        start_s=0.0,
        end_s=seconds,
        source_width=SOURCE_SIZE[1],
        source_height=SOURCE_SIZE[0],
        source_fps=SOURCE_FPS,
        frames_used=count,
        width=width,
        height=height,
        audio_used_s=seconds if audio else 0.0,
    )
    return Clip(frames, times, effective_fps(count, total, SOURCE_FPS), sound, facts)
