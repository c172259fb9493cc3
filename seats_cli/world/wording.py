"""How questions about scripted clips are put, and every word that questions and answers use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter
from types import MappingProxyType
from typing import Final

import numpy as np

from seats_cli.world.vocabulary import (
    COLORS,
    MOTIONS,
    PITCHES,
    SHAPES,
    SOUND_KINDS,
    SWEEPS,
    TEMPLATES,
    phrase_question,
    sound_phrases,
)
from seats_cli.world.voices import NUMBERS, WORDS

DIGITS: Final[tuple[str, ...]] = tuple("0123456789")
HEARD_KINDS: Final[tuple[str, ...]] = (*SOUND_KINDS, "music")
YES_NO: Final[tuple[str, ...]] = ("yes", "no")
COUNTS: Final[tuple[str, ...]] = ("0", "1", "2", "3", "4", "5")

# What a question names, as slots: {thing} "red square", "number 7"; {a_thing} "an orange ring";
# {place} "on the left"; {shape}, {color}, {group} "red shapes"; {word}; {when} "first", "last" or
# nothing; {time} "at the start"; {during} "when the beeps sound"; {scene} "red card"; {object}.
_NEW_TEMPLATES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "place": (
            "Where is the {thing}?",
            "Where do you see the {thing}?",
            "On which side is the {thing}?",
            "In which part of the picture is the {thing}?",
        ),
        "place_in_time": (
            "Where is the {thing} {time}?",
            "Where do you see the {thing} {time}?",
            "On which side is the {thing} {time}?",
        ),
        "color_at_place": (
            "What color is the {object} {place}?",
            "Which color does the {object} {place} have?",
            "What is the color of the {object} {place}?",
        ),
        "shape_at_place": (
            "What shape is {place}?",
            "Which shape is {place}?",
            "Which shape do you see {place}?",
        ),
        "color_of_shape": (
            "What color is the {shape}?",
            "Which color does the {shape} have?",
            "What is the color of the {shape}?",
        ),
        "shape_of_color": (
            "What shape is the {color} {object}?",
            "Which shape does the {color} {object} have?",
            "Which shape is {color}?",
        ),
        "object_count": (
            "How many {group} are there?",
            "How many {group} are shown?",
            "How many {group} do you see?",
            "Count the {group}.",
        ),
        "is_there": (
            "Is there {a_thing}?",
            "Do you see {a_thing}?",
            "Is {a_thing} shown?",
        ),
        "moving_color": (
            "What color is the {object} that moves?",
            "Which color does the moving {object} have?",
            "What is the color of the {object} that is moving?",
        ),
        "direction": (
            "Which way does the {thing} move?",
            "In which direction is the {thing} moving?",
            "Where does the {thing} move?",
            "How does the {thing} move?",
        ),
        "printed_word": (
            "Which word is shown{when}?",
            "What word is shown{when}?",
            "What word is on screen{when}?",
            "Which word do you see{when}?",
            "Which word can be read{when}?",
        ),
        "printed_number": (
            "Which number is shown{when}?",
            "What number is shown{when}?",
            "What number is on screen{when}?",
            "Which number do you see{when}?",
        ),
        "printed_order": (
            "List the words in the order shown.",
            "Which words are shown, in order?",
            "What words are shown, in order?",
            "Name the words in the order they appear.",
        ),
        "word_at_place": (
            "Which word is {place}?",
            "What word is shown {place}?",
            "Which word do you see {place}?",
        ),
        "color_of_word": (
            "What color is the {thing}?",
            "In which color is the {thing} printed?",
            "Which color does the {thing} have?",
        ),
        "spoken_word": (
            "Which {noun} is said{when}?",
            "What {noun} is said{when}?",
            "Which {noun} do you hear{when}?",
            "What {noun} is spoken{when}?",
            "Which {noun} is heard{when}?",
        ),
        "spoken_order": (
            "List the words in the order they are said.",
            "Which words are said, in order?",
            "What words are spoken, in order?",
            "Name the words you hear, in order.",
        ),
        "spoken_count": (
            "How many words are said?",
            "How many words are spoken?",
            "How many words do you hear?",
            "Count the spoken words.",
        ),
        "said_while_place": (
            "Which word is said while the {thing} is {place}?",
            "What word is said when the {thing} is {place}?",
            "Which word do you hear while the {thing} is {place}?",
        ),
        "said_at_picture": (
            "Which word is said while the {scene} is shown?",
            "What word is said when the {scene} is shown?",
            "Which word do you hear while the {scene} is on screen?",
            "Which word is heard during the {scene}?",
        ),
        "color_when_said": (
            "What color is shown when {word} is said?",
            "Which color is shown when {word} is said?",
            "Which color do you see when {word} is said?",
            "What color is on screen while {word} is said?",
        ),
        "print_when_said": (
            "Which {print} is shown when {word} is said?",
            "What {print} is shown when {word} is said?",
            "Which {print} is on screen while {word} is said?",
            "Which {print} do you see when {word} is heard?",
        ),
        "print_at_sound": (
            "Which {print} is shown {during}?",
            "What {print} is shown {during}?",
            "Which {print} is on screen {during}?",
            "Which {print} do you see {during}?",
        ),
        "place_when_said": (
            "Where is the {thing} when {word} is said?",
            "Where do you see the {thing} when {word} is said?",
            "On which side is the {thing} while {word} is said?",
        ),
        "same_word": (
            "Is the word that is said the word that is shown?",
            "Is the spoken word the same as the printed word?",
            "Does the word that is said match the word that is shown?",
        ),
    }
)
QUESTION_FORMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {**TEMPLATES, **_NEW_TEMPLATES}
)
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
    """Fill one of the family's `QUESTION_FORMS`; `variants` as in `phrase_question`."""
    return phrase_question(rng, family, slots, variants=variants, templates=QUESTION_FORMS)


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


def corpus_of_scripts(rng: np.random.Generator, lines: int = 6000) -> list[str]:
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
