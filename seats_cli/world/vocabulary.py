"""The closed set of things in the generated clips, and the names of sounds in questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
PITCHES: Final[tuple[str, ...]] = ("low", "high")
SWEEPS: Final[tuple[str, ...]] = ("rising", "falling")

MAX_BEEPS: Final = 5

SAMPLE_RATE: Final = 16_000  # Hz
AUDIO_TOKENS_PER_SECOND: Final = 25  # 100 mel frames/s, strided by 2 twice
IGNORE: Final = -100  # label ignored by every loss (the default of torch's cross entropy)


@dataclass(frozen=True)
class SoundPhrases:
    """Names of a sound: nouns in the singular, and clauses that say when."""

    singular: tuple[str, ...]
    during: tuple[str, ...]


_NOUNS: Final[Mapping[str, tuple[str, ...]]] = {
    "beeps": ("beep", "beeping"),
    "tone": ("tone",),
    "chirp": ("chirp",),
    "noise": ("noise",),
    "speech": ("speech", "voice"),
    "music": ("music",),
}


def sound_phrases(kind: str, beeps: int) -> SoundPhrases:
    """Phrases for a sound of the given kind; `beeps` decides between "beep" and "beeps"."""
    many = kind == "beeps" and beeps > 1
    noun = "beeps" if many else _NOUNS[kind][0]
    verb, be = ("sound", "are") if many else ("sounds", "is")
    during = [
        f"when the {noun} {verb}",
        f"while the {noun} {be} heard",
        f"when the {noun} {be} heard",
        f"during the {noun}",
        f"when you hear the {noun}",
    ]
    if kind == "speech":
        during += ["when someone speaks", "while someone is talking", "when the voice is heard"]
    return SoundPhrases(_NOUNS[kind], tuple(during))
