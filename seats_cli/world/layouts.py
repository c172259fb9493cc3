"""Draw sampling layouts: durations, frame sizes, missing tracks, as real files have them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from seats_cli.world.clips import Layout
from seats_cli.world.vocabulary import SAMPLE_RATE

# (height, width) after resizing real files to at most 112*112 pixels, sides multiples of 28.
FRAME_SIZES: tuple[tuple[tuple[int, int], float], ...] = (
    ((84, 140), 0.36),  # 16:9
    ((112, 112), 0.18),
    ((84, 112), 0.16),  # 4:3
    ((140, 84), 0.08),
    ((112, 84), 0.05),
    ((56, 168), 0.04),  # 2.4:1
    ((56, 140), 0.03),
    ((168, 56), 0.02),
    ((56, 112), 0.03),
    ((84, 84), 0.03),
    ((56, 56), 0.02),
)
SAMPLED_FPS = 2.0
MIN_FRAMES = 4  # the fewest that qwen-omni-utils takes from a file


@dataclass(frozen=True)
class LayoutMix:
    """Shares of the duration ranges (seconds) and of missing tracks."""

    durations: tuple[tuple[float, float, float], ...] = (
        (2.0, 4.0, 0.16),
        (4.0, 8.05, 0.60),
        (8.05, 13.0, 0.18),
        (13.0, 20.0, 0.06),
    )
    video_only: float = 0.05
    audio_only: float = 0.04


def frame_count(duration: float, fps: float = SAMPLED_FPS) -> int:
    """Even number of frames that qwen-omni-utils samples from `duration` seconds."""
    return max(MIN_FRAMES, int(duration * fps) // 2 * 2)


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
    return Layout(
        duration=duration,
        frame_times=tuple(np.linspace(0, duration - 1 / source_fps, count).tolist()),
        height=size[0],
        width=size[1],
        audio_samples=round(audio_seconds * SAMPLE_RATE),
        effective_fps=count / duration,
    )


def _metronome_layout(
    rng: np.random.Generator, duration: float, size: tuple[int, int], audio_seconds: float
) -> Layout:
    """A frame every half second from a random moment on."""
    count = frame_count(duration)
    phase = float(rng.random()) / SAMPLED_FPS
    return Layout(
        duration=max(duration, count / SAMPLED_FPS),
        frame_times=tuple((np.arange(count) / SAMPLED_FPS + phase).tolist()),
        height=size[0],
        width=size[1],
        audio_samples=round(audio_seconds * SAMPLE_RATE),
        effective_fps=SAMPLED_FPS,
    )


def make_layout(
    rng: np.random.Generator,
    duration: float,
    size: tuple[int, int],
    *,
    video: bool = True,
    audio: bool = True,
) -> Layout:
    """A layout of the given duration (seconds) and frame size, its sampling drawn at random.

    Three in four are sampled like files, and in four of ten the sound ends sooner or later than
    the picture.
    """
    seconds = duration if audio else 0.0
    if audio and rng.random() < 0.4:
        seconds = max(1.5, duration + float(rng.uniform(-0.5, 0.4)))
    if not video:
        return Layout(duration, (), *size, round(seconds * SAMPLE_RATE), SAMPLED_FPS)
    if rng.random() < 0.75:
        source_fps = float(rng.choice([12.0, 24.0, 25.0, 30.0]))
        return file_layout(duration, size, source_fps, audio_seconds=seconds)
    return _metronome_layout(rng, duration, size, seconds)


def sample_layout(rng: np.random.Generator, mix: LayoutMix) -> Layout:
    """Draw a layout from the mix; half of the durations are whole seconds."""
    shares = np.array([share for _, _, share in mix.durations])
    low, high, _ = mix.durations[rng.choice(len(shares), p=shares / shares.sum())]
    duration = float(rng.uniform(low, high))
    if rng.random() < 0.5:
        duration = float(max(2.0, round(duration)))
    weights = np.array([weight for _, weight in FRAME_SIZES])
    size = FRAME_SIZES[rng.choice(len(weights), p=weights / weights.sum())][0]
    tracks = rng.random()
    return make_layout(
        rng,
        duration,
        size,
        video=tracks >= mix.audio_only,
        audio=not mix.audio_only <= tracks < mix.audio_only + mix.video_only,
    )
