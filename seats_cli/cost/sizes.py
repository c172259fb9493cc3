"""How many encoder positions and tokens pictures and sound become."""

from __future__ import annotations

from dataclasses import dataclass

from seats_cli.architecture import Architecture
from seats_cli.families import QWEN3

# Encoder positions in a statistics window of the sound, and positions that make one token.
AUDIO_STATISTICS = {QWEN3: 52}
AUDIO_POOL = {QWEN3: 1}
_QWEN2_5_STATISTICS, _QWEN2_5_POOL = 100, 2


@dataclass(frozen=True)
class MediaSizes:
    """What the encoders are given.

    Parameters
    ----------
    grids : tuple of (int, int, int)
        Temporal grids, and patches in height and width, of each video.
    mel_frames : tuple of int
        Mel frames (100 per second) of each sound track.
    """

    grids: tuple[tuple[int, int, int], ...] = ()
    mel_frames: tuple[int, ...] = ()


def audio_positions(architecture: Architecture, mel_frames: int) -> int:
    """Encoder positions of one sound."""
    if architecture.family == QWEN3:  # three halvings of each second; a full one leaves 13
        seconds, rest = divmod(mel_frames, 100)
        for _ in range(3):
            rest = (rest + 1) // 2
        return 13 * seconds + rest
    return (mel_frames - 1) // 2 + 1


def audio_tokens(architecture: Architecture, mel_frames: int) -> int:
    """LLM tokens of one sound; an odd last position makes none."""
    pool = AUDIO_POOL.get(architecture.family, _QWEN2_5_POOL)
    return audio_positions(architecture, mel_frames) // pool


def grid_tokens(architecture: Architecture, grid: tuple[int, int, int]) -> int:
    """LLM tokens of one temporal grid of a video."""
    return grid[1] * grid[2] // architecture.vision.merge_size**2


def token_counts(architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
    """Video and audio tokens of a prompt."""
    video = sum(grid[0] * grid_tokens(architecture, grid) for grid in sizes.grids)
    return video, sum(audio_tokens(architecture, frames) for frames in sizes.mel_frames)


def video_windows(architecture: Architecture, sizes: MediaSizes, grids: int) -> list[int]:
    """Tokens of each selection window of `grids` temporal grids; none spans two videos."""
    return [
        part * grid_tokens(architecture, grid)
        for grid in sizes.grids
        for part in _parts(grid[0], grids)
    ]


def audio_windows(architecture: Architecture, sizes: MediaSizes, tokens: int) -> list[int]:
    """Tokens of each selection window of the sound; none spans two sounds."""
    return [
        part
        for frames in sizes.mel_frames
        for part in _parts(audio_tokens(architecture, frames), tokens)
    ]


def audio_statistics_windows(architecture: Architecture, sizes: MediaSizes) -> list[int]:
    """Encoder positions of each window in which the importance of sound is measured."""
    window = AUDIO_STATISTICS.get(architecture.family, _QWEN2_5_STATISTICS)
    return [
        part
        for frames in sizes.mel_frames
        for part in _parts(audio_positions(architecture, frames), window)
    ]


def kept_of_window(size: int, share: float) -> int:
    """Tokens that stay of a window: half to even, as everywhere in the method; at least one."""
    return min(max(round(share * size), 1), size)


def _parts(length: int, part: int) -> list[int]:
    """`length` cut into runs of `part`, the last one shorter."""
    return [part] * (length // part) + ([length % part] if length % part else [])
