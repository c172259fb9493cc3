"""Wrong options for a generated question: the nearest mistakes first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np

from seats_cli.evaluate.questions import LETTERS
from seats_cli.tiny.clip import Draft
from seats_cli.tiny.vocabulary import (
    COLORS,
    MAX_BEEPS,
    MAX_SEGMENTS,
    MOTIONS,
    PITCHES,
    SHAPES,
    SOUND_KINDS,
    SWEEPS,
)

OPTIONS = 4  # or fewer where a family has fewer answers


def shuffled_options(
    rng: np.random.Generator, family: str, answer: str, draft: Draft
) -> tuple[str, tuple[str, ...]]:
    """Letter of the right option, and all options in random order.

    Parameters
    ----------
    rng : numpy Generator
    family : str
        One of `seats_cli.tiny.questions.FAMILIES`.
    answer : str
        The right one.
    draft : Draft
        What is seen and heard in the clip is what a careless answer would confuse it with.
    """
    wrong: list[str] = []
    for option in _candidates(rng, family, answer, draft):
        if option != answer and option not in wrong:
            wrong.append(option)
        if len(wrong) == OPTIONS - 1:
            break
    options = [answer, *wrong]
    options = [options[index] for index in rng.permutation(len(options))]
    return LETTERS[options.index(answer)], tuple(options)


def _candidates(rng: np.random.Generator, family: str, answer: str, draft: Draft) -> Iterator[str]:
    """Answers of the family, those that the clip suggests first; may repeat or be right."""
    segments = draft.scene.segments if draft.scene is not None else ()
    if family == "color_order":
        yield from _orders(rng, answer)
    elif family in ("color", "first_color", "last_color", "color_at_sound"):
        yield from _mixed(rng, [segment.color for segment in segments])
        yield from _mixed(rng, COLORS)
    elif family in ("shape", "shape_at_sound"):
        yield from _mixed(rng, [segment.shape for segment in segments if segment.shape])
        yield from _mixed(rng, SHAPES)
    elif family in ("sound_kind", "sound_at_picture"):
        yield from _mixed(rng, ["silence", *(sound.kind for sound in draft.sounds)])
        yield from _mixed(rng, SOUND_KINDS)
    elif family in ("beep_count", "color_count"):
        most = MAX_BEEPS if family == "beep_count" else MAX_SEGMENTS
        numbers = sorted(range(1, most + 1), key=lambda number: abs(number - int(answer)))
        yield from map(str, numbers)
    else:
        yield from _mixed(rng, {"motion": MOTIONS, "pitch": PITCHES, "sweep": SWEEPS}[family])


def _orders(rng: np.random.Generator, answer: str) -> Iterator[str]:
    """The same colours in another order, then with another colour in place of one of them."""
    colors = answer.split(", ")
    yield from _mixed(rng, [", ".join(order) for order in permutations(colors)])
    absent = [color for color in COLORS if color not in colors]
    for color in _mixed(rng, absent):
        place = int(rng.integers(len(colors)))
        yield ", ".join([*colors[:place], color, *colors[place + 1 :]])


def _mixed(rng: np.random.Generator, values: Sequence[str]) -> list[str]:
    return [values[index] for index in rng.permutation(len(values))]
