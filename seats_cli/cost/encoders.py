"""FLOPs of the vision and audio encoders, in the convention of `seats_cli.cost.flops`.

The formula of the vision encoder follows from its shape; an audio encoder's is its family's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from seats_cli.cost.token_counts import MediaSizes
from seats_cli.families.base import Architecture, VisionShape, parts
from seats_cli.families.registry import family_of


def encoder_flops(architecture: Architecture, sizes: MediaSizes) -> int:
    """Both encoders on everything they are given."""
    audio = sum(audio_flops(architecture, frames) for frames in sizes.mel_frames)
    return vision_flops(architecture.vision, sizes.grids) + audio


def audio_flops(architecture: Architecture, mel_frames: int) -> int:
    """The audio encoder on one sound, by the formula of the model's family."""
    return family_of(architecture).audio_flops(architecture.audio, mel_frames) if mel_frames else 0


def vision_flops(shape: VisionShape, grids: Iterable[Sequence[int]]) -> int:
    """The vision encoder with its patch embedding and mergers.

    Parameters
    ----------
    shape : VisionShape
    grids : iterable of (int, int, int)
        Temporal grids, and patches in height and width, of each video or image.
    """
    total = 0
    for times, height, width in grids:
        full, windowed = (times * pairs for pairs in _attention_pairs(shape, height, width))
        total += packed_vision_flops(shape, times * height * width, full, windowed)
    return total


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
    """
    hidden = shape.hidden_size
    patch_values = shape.in_channels * shape.temporal_patch_size * shape.patch_size**2
    embedding = 2 * patches * patch_values * hidden
    matrices = 3 if shape.gated_mlp else 2
    dense = 2 * patches * (4 * hidden**2 + matrices * hidden * shape.intermediate_size)
    windowed = shape.window_size is not None
    full_blocks = len(set(shape.full_attention_blocks)) if windowed else shape.depth
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
    rows, columns = (sum(n * n for n in parts(length, side)) for length in (height, width))
    return full, rows * columns
