"""Architectures, averages and counts for tests of planning and cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from seats_cli.families.base import Architecture, AudioShape, VisionShape
from seats_cli.schedule import average_of_fractions

VISION = VisionShape(
    depth=32,
    hidden_size=1280,
    intermediate_size=3420,
    num_heads=16,
    patch_size=14,
    temporal_patch_size=2,
    merge_size=2,
    in_channels=3,
    out_hidden_size=3584,
    gated_mlp=True,
    window_size=112,
    full_attention_blocks=(7, 15, 23, 31),
)
AUDIO = AudioShape(
    depth=32,
    hidden_size=1280,
    intermediate_size=5120,
    num_heads=20,
    num_mel_bins=128,
    out_hidden_size=3584,
    window_frames=200,
    conv_channels=1280,
    tokens_per_second=25.0,
)


def architecture(
    family: str = "qwen2_5_omni", num_layers: int = 28, **changes: Any
) -> Architecture:
    """Qwen2.5-Omni-7B's shapes with changes."""
    values: dict[str, Any] = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_heads": 28,
        "num_kv_heads": 4,
        "head_dim": 128,
        "vocab_size": 152064,
        "vision": VISION,
        "audio": AUDIO,
        **changes,
    }
    return Architecture(family=family, num_layers=num_layers, **values)


def average_retention(
    initial: float,
    ratios: Sequence[float],
    num_layers: int,
    drop_layers: Sequence[int],
    late_layer: int | None,
) -> float:
    """Mean over all layers of the fraction alive, before rounding to whole tokens."""
    fractions = list(accumulate(ratios, lambda alive, ratio: alive * ratio, initial=initial))
    return average_of_fractions(fractions, num_layers, drop_layers, late_layer)


def video_tokens(frames: int, height: int, width: int) -> int:
    """What the encoder of the bundled model makes of frames: a grid of two, a token for 28 x 28."""
    return frames // 2 * (height // 28) * (width // 28)
