"""Clips full of things to tell apart, for the encoders: more to learn per second than in a scene.

A drill shows one grid of frames (half a second) with as many shapes and printed words as fit, and
plays words and sounds close together. Nothing is asked about it; every token has its labels
(`dense`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from seats_cli.world.canvas import Canvas
from seats_cli.world.layouts import (
    FRAME_SIZES,
    MIDDLE_FRAME_SIZES,
    SAMPLED_FPS,
    WIDE_FRAME_SIZES,
    Layout,
    weighted_choice,
)
from seats_cli.world.lettering import TRAINING_FONTS
from seats_cli.world.script import Heard, Script, Thing
from seats_cli.world.sounds import MIN_LENGTH, sample_sound
from seats_cli.world.soundtrack import draw_bed, over_bed, say
from seats_cli.world.vocabulary import COLORS, MOTIONS, SAMPLE_RATE, SHAPES
from seats_cli.world.voices import TRAINING_VOICES, WORDS

CELL: Final = 28  # pixels of a token
_SECONDS: Final = 4.0  # of sound
_SIZES = ((FRAME_SIZES, 0.25), (MIDDLE_FRAME_SIZES, 0.45), (WIDE_FRAME_SIZES, 0.3))
_CELLS_PER_THING = 2.5  # so many cells of the frame for one thing, as far as they find a place
_TEXT_SHARE = 0.4
_WORD_SHARE = 0.8
_MOVING_SHARE = 0.25
_CARRIED_SHARE = 0.15  # of the words follow a phrase
_TRIES = 24  # places looked at for a thing
_APART = 3.0  # pixels between two things


def drill_layout(rng: np.random.Generator) -> Layout:
    """Two frames and some seconds of sound."""
    sizes = _SIZES[rng.choice(len(_SIZES), p=[share for _, share in _SIZES])][0]
    height, width = weighted_choice(rng, sizes)
    step = 1 / SAMPLED_FPS
    return Layout(2 * step, (0.0, step), height, width, int(_SECONDS * SAMPLE_RATE), SAMPLED_FPS)


def drill_script(
    rng: np.random.Generator,
    layout: Layout,
    *,
    voices: Sequence[str] = TRAINING_VOICES,
    fonts: Sequence[str] = TRAINING_FONTS,
) -> Script:
    """Decide what a drill shows and plays."""
    canvas = Canvas(rng, layout, fonts, moment=False)
    backdrop = canvas.backdrop()
    bed = draw_bed(rng, 1.0)
    return Script(
        layout=layout,
        plot="drill",
        shots=canvas.whole(),
        backdrops=(backdrop,),
        things=_things(canvas),
        heard=over_bed(_heard(rng, voices), bed),
        bed=bed,
        grain=float(rng.uniform(0, 8)) if rng.random() < 0.6 else 0.0,
        blur=bool(rng.random() < 0.3),
        seed=int(rng.integers(2**31)),
    )


def _things(canvas: Canvas) -> tuple[Thing, ...]:
    """Shapes and texts at random places, some of them moving."""
    rng, span = canvas.rng, canvas.whole()[0]
    cells = canvas.height * canvas.width / CELL**2
    placed: list[Thing] = []
    boxes = np.zeros((0, 4))
    count = max(1, round(cells / _CELLS_PER_THING))
    # Texts first: they need wide places.
    texts = rng.binomial(count, _TEXT_SHARE)
    for index in range(count):
        color = str(rng.choice(COLORS))
        if index < texts:
            named = color if rng.random() < 0.4 else None
            thing = canvas.text(canvas.word(), span, color=named)
        else:
            thing = canvas.shape(color, str(rng.choice(SHAPES)), span)
            if rng.random() < _MOVING_SHARE:
                thing = canvas.moving(thing, str(rng.choice(MOTIONS[:4])))
        found = _free_place(canvas, thing, boxes)
        if found is not None:
            placed.append(found[0])
            boxes = np.concatenate([boxes, found[1]])
    return tuple(placed)


def _free_place(
    canvas: Canvas, thing: Thing, boxes: npt.NDArray[np.float64]
) -> tuple[Thing, npt.NDArray[np.float64]] | None:
    """The thing where it meets none of the boxes (n, 4) in pixels, and its own box (1, 4)."""
    y0, x0, y1, x1 = thing.pixel_box(thing.start, canvas.height, canvas.width)
    # What moves takes the way of two frames in either direction as well.
    way = thing.speed * (thing.end - thing.start)
    reach = np.array([(y1 - y0) / 2, (x1 - x0) / 2])
    if thing.motion in ("up", "down"):
        reach[0] += way * canvas.height
    elif thing.motion in ("left", "right"):
        reach[1] += way * canvas.width
    sides = np.array([canvas.height, canvas.width], dtype=np.float64)
    if (2 * reach > sides).any():
        return None
    centers = reach + canvas.rng.random((_TRIES, 2)) * (sides - 2 * reach)
    low, high = centers - reach - _APART, centers + reach + _APART
    meets = (low[:, None] < boxes[:, 2:]).all(axis=2) & (high[:, None] > boxes[:, :2]).all(axis=2)
    free = np.flatnonzero(~meets.any(axis=1))
    if not len(free):
        return None
    y, x = (centers[free[0]] / sides).tolist()
    box = np.concatenate([centers[free[0]] - reach, centers[free[0]] + reach])
    return replace(thing, y=y, x=x), box[None]


def _heard(rng: np.random.Generator, voices: Sequence[str]) -> tuple[Heard, ...]:
    """Words and other sounds one after the other, with short pauses."""
    kinds = list(MIN_LENGTH)
    found: list[Heard] = []
    time = float(rng.uniform(0.0, 0.5))
    while time < _SECONDS - 0.5:
        if rng.random() < _WORD_SHARE:
            word, voice = str(rng.choice(WORDS)), str(rng.choice(voices))
            carried = rng.random() < _CARRIED_SHARE
            span = (time, min(time + 1.9, _SECONDS) if carried else time)
            found.append(say(rng, word, voice, span, carried=carried))
        else:
            kind = str(rng.choice(kinds))
            end = min(time + max(MIN_LENGTH[kind] + 0.01, float(rng.uniform(0.4, 1.2))), _SECONDS)
            if end - time < MIN_LENGTH[kind] + 0.001:
                break
            found.append(sample_sound(rng, kind, time, end))
        time = found[-1].end + float(rng.uniform(0.03, 0.5))
    return tuple(found)
