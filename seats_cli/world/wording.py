"""How questions are put into words, and every word that questions and answers use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType
from typing import Final

import numpy as np

from seats_cli.world.question_forms import QUESTION_FORMS
from seats_cli.world.vocabulary import (
    COLORS,
    MOTIONS,
    PITCHES,
    SHAPES,
    SWEEPS,
    sound_phrases,
)
from seats_cli.world.voices import NUMBERS, WORDS

DIGITS: Final[tuple[str, ...]] = tuple("0123456789")
HEARD_KINDS: Final[tuple[str, ...]] = (
    "silence",
    "tone",
    "beeps",
    "chirp",
    "noise",
    "speech",
    "music",
)
YES_NO: Final[tuple[str, ...]] = ("yes", "no")
COUNTS: Final[tuple[str, ...]] = ("0", "1", "2", "3", "4", "5")

FAMILIES: Final[tuple[str, ...]] = tuple(QUESTION_FORMS)
# Picture and sound are both needed.
LINKED_FAMILIES: Final[tuple[str, ...]] = (
    "color_at_sound",
    "shape_at_sound",
    "sound_at_picture",
    "said_while_place",
    "said_at_picture",
    "color_when_said",
    "print_when_said",
    "print_at_sound",
    "place_when_said",
    "same_word",
)
PLACE_NAMES: Final[tuple[str, ...]] = ("left", "right", "top", "bottom")
PLACE_PHRASES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "left": ("on the left", "on the left side"),
        "right": ("on the right", "on the right side"),
        "top": ("at the top",),
        "bottom": ("at the bottom",),
    }
)


def with_article(noun: str) -> str:
    """As in "a red square", "an orange ring"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def plural(shape: str) -> str:
    """Several of a shape: "squares", "crosses"."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def word_question(
    rng: np.random.Generator, family: str, slots: Mapping[str, str], *, variants: bool = True
) -> str:
    """Fill one of the family's `QUESTION_FORMS`, three of ten in British spelling.

    With `variants`, about one in eight is typed carelessly: lower case, upper case, no question
    mark.
    """
    forms = QUESTION_FORMS[family]
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


def _fillings(rng: np.random.Generator) -> dict[str, str]:
    """Something for every slot."""
    kind = str(rng.choice(HEARD_KINDS[1:]))
    phrases = sound_phrases(kind, int(rng.integers(1, 5)))
    color, shape = str(rng.choice(COLORS)), str(rng.choice(SHAPES))
    word, digit = str(rng.choice(WORDS)), str(rng.choice(DIGITS))
    group = str(rng.choice([f"{color} shapes", plural(shape), f"{color} {plural(shape)}"]))
    nouns = ("object", "thing", "shape", "picture", "screen", "image", "card", *SHAPES)
    return {
        "object": str(rng.choice(nouns)),
        "a_thing": with_article(f"{color} {shape}"),
        "thing": str(rng.choice([f"{color} {shape}", f"word {word}", f"number {digit}"])),
        "place": str(rng.choice([text for forms in PLACE_PHRASES.values() for text in forms])),
        "shape": shape,
        "color": color,
        "group": group,
        "time": str(rng.choice(["at the start", "at the end"])),
        "when": str(rng.choice(["", " first", " last"])),
        "word": word,
        "print": str(rng.choice(["word", "number"])),
        "noun": str(rng.choice(["word", "number"])),
        "during": str(rng.choice(phrases.during)),
        "sound": str(rng.choice((*phrases.singular, "sound"))),
        "scene": str(rng.choice([f"{color} {rng.choice(nouns)}", f"word {word}", shape])),
    }


_ANSWERS: Final[tuple[tuple[str, ...], ...]] = (
    COLORS,
    SHAPES,
    MOTIONS,
    HEARD_KINDS,
    PITCHES,
    SWEEPS,
    DIGITS,
    YES_NO,
    PLACE_NAMES,
    WORDS,
)


def corpus(rng: np.random.Generator, lines: int = 6000) -> list[str]:
    """Text to train the tokenizer on: questions with all kinds of fillings, and the answers."""
    text = ["You are a helpful assistant.", "system", "user", "assistant"] * 50
    for index in range(lines):
        family = FAMILIES[index % len(FAMILIES)]
        text.append("user\n" + word_question(rng, family, _fillings(rng), variants=False))
        for names in (COLORS, WORDS):
            listed = ", ".join(str(name) for name in rng.permutation(names)[:4])
            text.append("assistant\n" + listed)
        text += ["assistant\n" + str(rng.choice(words)) for words in _ANSWERS]
    return text


def answers_of(family: str) -> tuple[str, ...]:
    """All answers that a family of questions has; for lists, what they are made of."""
    if family in ("motion", "direction"):
        return MOTIONS
    if family.endswith("_count"):
        return COUNTS[1:]
    if "color" in family and family != "shape_of_color":
        return COLORS
    if family.startswith("shape"):
        return SHAPES
    if family.startswith("sound"):
        return HEARD_KINDS
    if family.startswith("place"):
        return PLACE_NAMES
    if family in ("is_there", "same_word"):
        return YES_NO
    return {"pitch": PITCHES, "sweep": SWEEPS, "printed_number": DIGITS}.get(family, WORDS)


def lexicon() -> tuple[str, ...]:
    """Every word that questions and answers use, as written there, sorted."""
    words: set[str] = {*(word for answers in _ANSWERS for word in answers)}
    for forms in QUESTION_FORMS.values():
        for form in forms:
            plain = "".join(piece for piece, *_ in Formatter().parse(form))
            words |= set(re.findall(r"[A-Za-z]+", plain))
            words |= set(re.findall(r"[A-Za-z]+", plain.replace("color", "colour")))
    phrases = [text for forms in PLACE_PHRASES.values() for text in forms]
    for kind in HEARD_KINDS[1:]:
        for beeps in (1, 2):
            found = sound_phrases(kind, beeps)
            phrases += [*found.singular, *found.during]
    words |= {word for phrase in phrases for word in phrase.split()}
    words |= {plural(shape) for shape in SHAPES}
    words |= {"object", "thing", "shape", "shapes", "picture", "screen", "image", "card", "one"}
    words |= {"start", "end", "first", "last", "sound", "word", "number", "a", "an"}
    return tuple(sorted(words | set(NUMBERS)))
