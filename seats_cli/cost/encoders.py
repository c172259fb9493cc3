"""FLOPs of the vision and audio encoders, in the convention of `seats_cli.cost.flops`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from seats_cli.cost.token_counts import MediaSizes
from seats_cli.families.base import Architecture, AudioShape, VisionShape

# Mel frames that Qwen3-Omni's convolutions take at a time: 1 s, which becomes 13 positions.
QWEN3_CHUNK_FRAMES = 100


def encoder_flops(architecture: Architecture, sizes: MediaSizes) -> int:
    """Both encoders on everything they are given."""
    return vision_flops(architecture.vision, sizes.grids) + audio_flops(
        architecture, sizes.mel_frames
    )


def vision_flops(shape: VisionShape, grids: Iterable[Sequence[int]]) -> int:
    """The vision encoder with its patch embedding and mergers.

    Parameters
    ----------
    shape : VisionShape
        Shapes of the encoder.
    grids : iterable of (int, int, int)
        Temporal grids, and patches in height and width, of each video or image.

    Returns
    -------
    int
        FLOPs.
    """
    return sum(_grid_flops(shape, *grid) for grid in grids)


def _grid_flops(shape: VisionShape, grids: int, height: int, width: int) -> int:
    full, windowed = _attention_pairs(shape, height, width)
    return packed_vision_flops(shape, grids * height * width, grids * full, grids * windowed)


def packed_vision_flops(
    shape: VisionShape, patches: int, full_pairs: int, windowed_pairs: int
) -> int:
    """The vision encoder on any set of patches.

    Parameters
    ----------
    shape : VisionShape
    patches : int
        Patches that are encoded.
    full_pairs, windowed_pairs : int
        Query-key pairs in one block that sees whole grids, and in one that sees windows.

    Returns
    -------
    int
        FLOPs.
    """
    hidden = shape.hidden_size
    patch_values = shape.in_channels * shape.temporal_patch_size * shape.patch_size**2
    embedding = 2 * patches * patch_values * hidden
    matrices = 3 if shape.gated_mlp else 2
    dense = 2 * patches * (4 * hidden**2 + matrices * hidden * shape.intermediate_size)
    full_blocks = (
        shape.depth if shape.window_size is None else len(set(shape.full_attention_blocks))
    )
    pairs = full_blocks * full_pairs + (shape.depth - full_blocks) * windowed_pairs
    merged = patches // shape.merge_size**2
    wide = hidden * shape.merge_size**2
    merger = 2 * merged * wide * (wide + shape.out_hidden_size)
    mergers = 1 + len(shape.deepstack_blocks)
    return embedding + shape.depth * dense + 2 * 2 * pairs * hidden + mergers * merger


def _attention_pairs(shape: VisionShape, height: int, width: int) -> tuple[int, int]:
    """Query-key pairs in one temporal grid: of a full block, and of a windowed one."""
    full = (height * width) ** 2
    if shape.window_size is None:
        return full, full
    # Windows hold whole merge units; the last ones of a row or column may be smaller.
    side = shape.window_size // shape.merge_size // shape.patch_size * shape.merge_size
    return full, _sum_of_squares(height, side) * _sum_of_squares(width, side)


def _sum_of_squares(length: int, part: int) -> int:
    """Sum over the parts of `length`, cut into runs of `part`, of their squared length."""
    return length // part * part**2 + (length % part) ** 2


def audio_flops(architecture: Architecture, mel_frames: Iterable[int]) -> int:
    """The audio encoder with its convolutions and output projection.

    Parameters
    ----------
    architecture : Architecture
        Family and shapes of the encoder.
    mel_frames : iterable of int
        Mel frames (100 per second) of each sound track.

    Returns
    -------
    int
        FLOPs.
    """
    track = _qwen3_track if architecture.family == "qwen3_omni_moe" else _qwen2_5_track
    return sum(track(architecture.audio, frames) for frames in mel_frames if frames > 0)


def _qwen2_5_track(shape: AudioShape, frames: int) -> int:
    """Two convolutions over chunks of `window_frames`, blocks, pairwise pooling, projection."""
    hidden = shape.hidden_size
    chunks = _parts(frames, shape.window_frames)
    longest = max(chunks)  # chunks are padded to the longest before the convolutions
    convolutions = len(chunks) * 2 * 3 * hidden
    convolutions *= longest * shape.num_mel_bins + _halved(longest) * hidden
    segments = [_halved(chunk) for chunk in chunks]
    tokens = _halved(frames) // 2
    projection = 2 * tokens * hidden * shape.out_hidden_size
    return convolutions + _blocks(shape, segments) + projection


def _qwen3_track(shape: AudioShape, frames: int) -> int:
    """Three 2-D convolutions over chunks of 1 s, blocks in longer windows, two projections."""
    hidden, channels = shape.hidden_size, shape.conv_channels
    chunks = _parts(frames, QWEN3_CHUNK_FRAMES)
    steps, bands = max(chunks), shape.num_mel_bins
    front, inputs = 0, 1
    for _ in range(3):
        steps, bands = _halved(steps), _halved(bands)
        front += 2 * steps * bands * channels * 9 * inputs
        inputs = channels
    front += 2 * steps * bands * channels * hidden
    positions = sum(_halved(_halved(_halved(chunk))) for chunk in chunks)
    window = steps * (shape.window_frames // QWEN3_CHUNK_FRAMES)
    projections = 2 * positions * hidden * (hidden + shape.out_hidden_size)
    return len(chunks) * front + _blocks(shape, _parts(positions, window)) + projections


def _blocks(shape: AudioShape, segments: Sequence[int]) -> int:
    """All transformer blocks; positions attend within their segment."""
    hidden = shape.hidden_size
    dense = 2 * sum(segments) * (4 * hidden**2 + 2 * hidden * shape.intermediate_size)
    attention = 2 * 2 * hidden * sum(length**2 for length in segments)
    return shape.depth * (dense + attention)


def _parts(length: int, part: int) -> list[int]:
    """`length` cut into runs of `part`, the last one shorter."""
    return [part] * (length // part) + ([length % part] if length % part else [])


def _halved(length: int) -> int:
    """Outputs of a convolution with stride 2, kernel 3 and padding 1."""
    return (length - 1) // 2 + 1
