"""The closed set of things in the generated clips, and how questions about them are put."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

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
IGNORE: Final = -100  # label ignored by every loss (the default of torch's cross entropy)


TEMPLATES: dict[str, tuple[str, ...]] = {
    "color": (
        "What color is the {object}?",
        "Which color does the {object} have?",
        "What is the color of the {object}?",
        "What color is shown?",
        "Which color is shown?",
        "What color do you see?",
    ),
    "shape": (
        "Which shape is shown?",
        "What shape is it?",
        "What is the shape of the {object}?",
        "Which shape is in the video?",
        "What shape does the {object} have?",
        "What shape do you see?",
    ),
    "motion": (
        "Which way does the {object} move?",
        "In which direction is the {object} moving?",
        "What is the direction of motion?",
        "Where does the {object} move?",
        "How does the {object} move?",
        "In which direction does the {object} go?",
    ),
    "sound_kind": (
        "Which kind of sound is heard?",
        "What kind of sound is in the audio?",
        "What do you hear?",
        "What is heard?",
        "What sound is heard?",
        "What kind of sound is it?",
        "Which sound is heard?",
    ),
    "pitch": (
        "Is the {sound} high or low?",
        "Is the pitch of the {sound} high or low?",
        "Is the {sound} low or high?",
        "What is the pitch of the {sound}, low or high?",
    ),
    "sweep": (
        "Is the {sound} rising or falling?",
        "Does the pitch rise or fall?",
        "Does the {sound} rise or fall?",
        "Is the pitch rising or falling?",
    ),
    "beep_count": (
        "How many beeps are heard?",
        "How many beeps are there?",
        "Count the beeps.",
        "How many beeps do you hear?",
        "How many times does it beep?",
        "What is the number of beeps?",
    ),
    "first_color": (
        "What color is shown first?",
        "Which color is shown first?",
        "Which color comes first?",
        "What color is the {object} at the start?",
        "What is the first color?",
        "What color is seen at the beginning?",
        "Which color is shown at the start?",
    ),
    "last_color": (
        "What color is shown last?",
        "Which color is shown last?",
        "Which color comes last?",
        "What color is the {object} at the end?",
        "What is the last color?",
        "What color is seen at the end?",
        "Which color is shown at the end?",
    ),
    "color_count": (
        "How many colors are shown?",
        "How many different colors appear?",
        "How many colors are there?",
        "How many different colors are shown?",
        "How many colors do you see?",
        "Count the colors.",
    ),
    "color_order": (
        "List the colors in the order shown.",
        "List the colors in order.",
        "Name the colors in the order they appear.",
        "Which colors are shown, in order?",
        "What colors are shown, in order?",
        "In which order do the colors appear?",
    ),
    "color_at_sound": (
        "What color is shown {during}?",
        "Which color is shown {during}?",
        "What color was shown {during}?",
        "Which color was on screen {during}?",
        "What color is on screen {during}?",
        "What color is the {object} {during}?",
        "Which color do you see {during}?",
    ),
    "shape_at_sound": (
        "What shape is shown {during}?",
        "Which shape is shown {during}?",
        "Which shape was shown {during}?",
        "Which shape was on screen {during}?",
        "What shape is the {object} {during}?",
        "Which shape do you see {during}?",
    ),
    "sound_at_picture": (
        "What is heard while the {scene} is shown?",
        "What do you hear while the {scene} is shown?",
        "Which sound is heard while the {scene} is on screen?",
        "What sound is heard when the {scene} is shown?",
        "Which kind of sound is heard during the {scene}?",
        "What is heard when the color is {color}?",
    ),
}


@dataclass(frozen=True)
class SoundPhrases:
    """Names of a sound: nouns in the singular, and clauses that say when."""

    singular: tuple[str, ...]
    during: tuple[str, ...]


_NOUNS = {
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


def phrase_question(
    rng: np.random.Generator,
    family: str,
    slots: Mapping[str, str],
    *,
    variants: bool = True,
    templates: Mapping[str, tuple[str, ...]] = TEMPLATES,
) -> str:
    """Fill one of the family's `templates`.

    With `variants`, a third is in British spelling and about one in eight is typed carelessly:
    lower case, upper case, no question mark.
    """
    forms = templates[family]
    text = forms[int(rng.integers(len(forms)))].format(**slots)
    if rng.random() < 0.3:
        text = text.replace("color", "colour")
    if not variants:
        return text
    careless = rng.random()
    if careless < 0.05:
        text = text.lower()
    elif careless < 0.065:
        text = text.upper()
    if rng.random() < 0.06:
        text = text.rstrip("?.")
    return text


def corpus(rng: np.random.Generator, lines: int = 6000) -> list[str]:
    """Text to train the tokenizer on: questions with all kinds of fillings, and the answers."""
    objects = ("object", "thing", "shape", "picture", "screen", "image", "card", *SHAPES)
    sounds = [kind for kind in SOUND_KINDS if kind != "silence"]
    digits = tuple("0123456789")
    text = ["You are a helpful assistant.", "system", "user", "assistant"] * 50
    for index in range(lines):
        kind = sounds[index % len(sounds)]
        phrases = sound_phrases(kind, int(rng.integers(1, 5)))
        color = str(rng.choice(COLORS))
        slots = {
            "object": str(rng.choice(objects)),
            "sound": str(rng.choice((*phrases.singular, "sound"))),
            "during": str(rng.choice(phrases.during)),
            "color": color,
            "scene": f"{color} {rng.choice(objects)}",
        }
        family = list(TEMPLATES)[index % len(TEMPLATES)]
        text.append("user\n" + phrase_question(rng, family, slots, variants=False))
        colors = ", ".join(str(name) for name in rng.permutation(COLORS)[:4])
        text.append("assistant\n" + colors)
        for words in (COLORS, SHAPES, MOTIONS, SOUND_KINDS, PITCHES, SWEEPS, digits):
            text.append("assistant\n" + str(rng.choice(words)))
    return text
