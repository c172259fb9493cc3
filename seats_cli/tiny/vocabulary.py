"""The closed set of things the bundled model is trained to name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# Several anchors per colour: real files show pure primaries as often as softer shades.
COLOR_ANCHORS: Final[Mapping[str, tuple[tuple[int, int, int], ...]]] = MappingProxyType(
    {
        "red": ((220, 40, 40), (253, 0, 0), (190, 15, 30)),
        "green": ((40, 180, 60), (0, 128, 0), (10, 235, 30)),
        "blue": ((50, 80, 230), (0, 0, 254), (25, 55, 190)),
        "yellow": ((235, 220, 50), (254, 254, 0), (245, 210, 10)),
        "purple": ((150, 50, 190), (128, 0, 128), (120, 20, 170)),
        "orange": ((245, 140, 30), (255, 165, 0), (250, 120, 10)),
        "white": ((240, 240, 240), (254, 254, 254), (228, 230, 235)),
        "cyan": ((40, 210, 220), (0, 254, 254), (60, 190, 215)),
    }
)
COLORS: Final[tuple[str, ...]] = tuple(COLOR_ANCHORS)
SHAPES: Final[tuple[str, ...]] = ("circle", "square", "triangle", "cross", "ring")
MOTIONS: Final[tuple[str, ...]] = ("left", "right", "up", "down", "still")
SOUND_KINDS: Final[tuple[str, ...]] = ("silence", "tone", "beeps", "chirp", "noise", "speech")
PITCHES: Final[tuple[str, ...]] = ("low", "high")
SWEEPS: Final[tuple[str, ...]] = ("rising", "falling")

MAX_SEGMENTS: Final = 4  # different pictures in one clip
MAX_BEEPS: Final = 5

SAMPLE_RATE: Final = 16_000  # Hz
AUDIO_TOKENS_PER_SECOND: Final = 25  # 100 mel frames/s, strided by 2 twice
IGNORE: Final = -100  # label that no loss looks at (the default of torch's cross entropy)
