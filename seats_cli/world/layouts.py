"""Draw sampling layouts: durations, frame sizes, missing tracks, as real files have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from seats_cli.world.vocabulary import SAMPLE_RATE

Key = TypeVar("Key")

# (height, width) after resizing real files to at most 112*112 pixels, sides multiples of 28.
FRAME_SIZES: Mapping[tuple[int, int], float] = {
    (84, 140): 0.36,  # 16:9
    (112, 112): 0.18,
    (84, 112): 0.16,  # 4:3
    (140, 84): 0.08,
    (112, 84): 0.05,
    (56, 168): 0.04,  # 2.4:1
    (56, 140): 0.03,
    (168, 56): 0.02,
    (56, 112): 0.03,
    (84, 84): 0.03,
    (56, 56): 0.02,
}
# Frames as the 7B reads them, 72 to 132 tokens of 28 pixels, and sizes in between.
WIDE_FRAME_SIZES: Mapping[tuple[int, int], float] = {
    (308, 336): 0.18,
    (252, 392): 0.2,
    (280, 364): 0.13,
    (224, 392): 0.12,  # 16:9
    (308, 308): 0.1,
    (252, 336): 0.08,
    (224, 336): 0.06,
    (392, 224): 0.05,
    (196, 336): 0.05,
    (224, 252): 0.03,
}
MIDDLE_FRAME_SIZES: Mapping[tuple[int, int], float] = {
    (168, 280): 0.3,
    (168, 224): 0.3,
    (196, 196): 0.2,
    (140, 252): 0.1,
    (252, 168): 0.1,
}
SAMPLED_FPS = 2.0
MIN_FRAMES = 4  # the fewest that qwen-omni-utils takes from a file


def weighted_choice(rng: np.random.Generator, weights: Mapping[Key, float]) -> Key:
    """A key, drawn with a probability in proportion to its weight."""
    shares = np.array(list(weights.values()))
    return list(weights)[rng.choice(len(shares), p=shares / shares.sum())]


@dataclass(frozen=True)
class Layout:
    """How a clip is sampled; equal for all clips of a training batch."""

    duration: float  # seconds of picture (of sound, if there is no picture)
    frame_times: tuple[float, ...]  # in seconds, an even number of them; empty without a picture
    height: int  # of a frame in pixels, as is the width: multiples of 28
    width: int
    audio_samples: int  # length of the sound track at `SAMPLE_RATE`; 0 without one
    effective_fps: float  # frame rate that the processor is given

    @property
    def seconds_per_grid(self) -> float:
        """Seconds between two temporal patches (two frames each)."""
        return 2.0 / self.effective_fps

    @property
    def grid_thw(self) -> tuple[int, int, int]:
        """Temporal, vertical and horizontal number of vision patches."""
        return len(self.frame_times) // 2, self.height // 14, self.width // 14


def frame_count(duration: float) -> int:
    """Even number of frames that qwen-omni-utils samples from `duration` seconds."""
    return max(MIN_FRAMES, int(duration * SAMPLED_FPS) // 2 * 2)


def file_layout(
    duration: float, size: tuple[int, int], source_fps: float, *, audio_seconds: float
) -> Layout:
    """How qwen-omni-utils samples a file: evenly from its first to its last frame.

    Parameters
    ----------
    duration, audio_seconds : float
        Seconds of picture and sound; 0 for no sound.
    size : (height, width)
        Pixels after resizing.
    source_fps : float
        Frame rate of the file.
    """
    count = frame_count(duration)
    times = tuple(np.linspace(0, duration - 1 / source_fps, count).tolist())
    return Layout(duration, times, *size, round(audio_seconds * SAMPLE_RATE), count / duration)


def make_layout(
    rng: np.random.Generator,
    duration: float,
    size: tuple[int, int],
    *,
    video: bool = True,
    audio: bool = True,
) -> Layout:
    """A layout of the given duration (seconds) and frame size, its sampling drawn at random.

    Three in four are sampled like files, the others every half second from a random moment on. In
    four of ten the sound ends sooner or later than the picture.
    """
    seconds = duration if audio else 0.0
    if audio and rng.random() < 0.4:
        seconds = max(1.5, duration + float(rng.uniform(-0.5, 0.4)))
    times: tuple[float, ...] = ()
    if video and rng.random() < 0.75:
        source_fps = float(rng.choice([12.0, 24.0, 25.0, 30.0]))
        return file_layout(duration, size, source_fps, audio_seconds=seconds)
    if video:
        count = frame_count(duration)
        times = tuple(((np.arange(count) + rng.random()) / SAMPLED_FPS).tolist())
        duration = max(duration, count / SAMPLED_FPS)
    return Layout(duration, times, *size, round(seconds * SAMPLE_RATE), SAMPLED_FPS)


_DURATIONS = (  # shares of ranges in seconds at level 0 and at level 1
    ((2.0, 4.0), 0.16, 0.04),
    ((4.0, 8.05), 0.60, 0.46),
    ((8.05, 13.0), 0.20, 0.26),
    ((13.0, 25.0), 0.04, 0.16),
    ((25.0, 60.0), 0.0, 0.08),
)
_SMALL_SHARE, _MIDDLE_SHARE = 0.12, 0.2  # of the frame sizes at level 1; the others are wide


def sample_wide_layout(
    rng: np.random.Generator, level: float, *, max_tokens: int | None = None
) -> Layout:
    """Draw the layout of a clip.

    Parameters
    ----------
    level : float
        Difficulty, from 0 (small frames and short clips) to 1 (mostly as the 7B reads them).
    max_tokens : int, optional
        Draw again while picture and sound are more tokens than that.
    """
    while True:
        layout = _draw_layout(rng, level)
        tokens = int(np.prod(layout.grid_thw)) // 4 + layout.audio_samples // 640
        if max_tokens is None or tokens <= max_tokens:
            return layout


def _draw_layout(rng: np.random.Generator, level: float) -> Layout:
    shares = {span: (1 - level) * easy + level * full for span, easy, full in _DURATIONS}
    duration = float(rng.uniform(*weighted_choice(rng, shares)))
    if rng.random() < 0.4:
        duration = float(max(2.0, round(duration)))
    small = 1 - level * (1 - _SMALL_SHARE)
    draw = rng.random()
    sizes = FRAME_SIZES if draw < small else WIDE_FRAME_SIZES
    if small <= draw < small + level * _MIDDLE_SHARE:
        sizes = MIDDLE_FRAME_SIZES
    tracks = rng.random()
    return make_layout(
        rng, duration, weighted_choice(rng, sizes), video=tracks >= 0.04, audio=tracks < 0.96
    )
