"""Kinds of clips: where things stand, which of them move, what changes from shot to shot.

Every plot is made for some families of questions, but what may be asked is decided by what is true
in the end (`truths`), not by the plot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from seats_cli.world.canvas import DARK, LIGHT, LIGHT_COLORS, ROOMY_SIDE, Canvas
from seats_cli.world.layouts import Layout, weighted_choice
from seats_cli.world.lettering import TRAINING_FONTS
from seats_cli.world.script import Backdrop, Thing
from seats_cli.world.vocabulary import COLORS, MOTIONS, SHAPES
from seats_cli.world.wording import PLACE_NAMES


@dataclass(frozen=True)
class Picture:
    """The picture track of a script."""

    shots: tuple[tuple[float, float], ...]
    backdrops: tuple[Backdrop, ...]
    things: tuple[Thing, ...]
    moment: int | None = None  # index of the short shot that a long quiet clip is about
    asks_for_words: bool = False  # what is said in each shot matters more than other sounds


def _cards(canvas: Canvas) -> Picture:
    """The whole frame in one colour after the other, most with a word on them."""
    rng = canvas.rng
    shots, moment = canvas.shots(4, alone=0.15)
    colors = canvas.pick(COLORS, len(shots))
    backdrops = tuple(Backdrop("card", canvas.shade(color), color) for color in colors)
    things: list[Thing] = []
    if rng.random() < 0.6:
        for color, span in zip(colors, shots, strict=True):
            ink = DARK if color in LIGHT_COLORS or rng.random() < 0.1 else LIGHT
            word = canvas.word([thing.word for thing in things])
            text = replace(canvas.text(word, span, ink=ink), plate=None)
            tall = max(text.height, float(rng.uniform(0.12, 0.4)))
            tall = min(tall, 0.85 * canvas.width / text.aspect / canvas.side)
            text = replace(text, height=tall)
            things.append(canvas.anywhere(text, ()) or text)
    return Picture(shots, backdrops, tuple(things), moment)


def _single(canvas: Canvas) -> Picture:
    """One shape, which may move and change from shot to shot."""
    rng = canvas.rng
    shots, moment = canvas.shots(4, alone=0.25)
    colors = canvas.pick(COLORS, len(shots))
    shapes = canvas.pick(SHAPES, len(shots))
    if rng.random() < 0.5:
        shapes = [shapes[0]] * len(shots)
    first = canvas.shape(colors[0], shapes[0], shots[0], big=True)
    first = canvas.anywhere(first, ()) or first
    if moment is None:
        first = canvas.moving(first, str(rng.choice(MOTIONS)))
    things = []
    for color, shape, (start, end) in zip(colors, shapes, shots, strict=True):
        y, x = first.center(start)
        moved = replace(first, start=start, end=end, y=y, x=x)
        things.append(replace(moved, color=color, rgb=canvas.shade(color), shape=shape))
    return Picture(shots, (canvas.backdrop(),) * len(shots), tuple(things), moment)


def _scatter(canvas: Canvas) -> Picture:
    """Several small shapes, some of them alike."""
    rng = canvas.rng
    span = canvas.whole()[0]
    target = int(rng.integers(1, 6))
    others = int(rng.integers(1, 5))
    colors, shapes = canvas.pick(COLORS, 5), canvas.pick(SHAPES, 5)
    by_color = rng.random() < 0.5
    looks = []
    for index in range(target + others):
        color, shape = str(rng.choice(colors[1:])), str(rng.choice(shapes[1:]))
        if index < target:
            color, shape = (colors[0], shape) if by_color else (color, shapes[0])
        looks.append((color, shape))
    things = canvas.scattered([canvas.shape(*look, span) for look in looks])
    things += canvas.icons(things)
    return Picture((span,), (canvas.backdrop(),), tuple(things))


def _compass(canvas: Canvas) -> Picture:
    """Something on the left, on the right, at the top, at the bottom; shapes or words."""
    rng = canvas.rng
    span = canvas.whole()[0]
    places = canvas.pick(PLACE_NAMES, int(rng.integers(2, 5)))
    with_words = rng.random() < 0.45
    colors, shapes = canvas.pick(COLORS, 4), canvas.pick(SHAPES, 4)
    things: list[Thing] = []
    for index, place in enumerate(places):
        if with_words and rng.random() < 0.75:
            word = canvas.word([thing.word for thing in things])
            color = colors[index] if rng.random() < 0.6 else None
            thing = canvas.text(word, span, color=color)
            narrow = 0.4 * canvas.width / (canvas.side * thing.aspect)
            thing = replace(thing, height=min(thing.height, narrow))
        else:
            again = index > 0 and rng.random() < 0.3
            color = colors[index - 1] if again else colors[index]
            thing = canvas.shape(color, shapes[index], span)
        moved = canvas.at_place(thing, place)
        if not any(canvas.overlap(moved, other) for other in things):
            things.append(moved)
    if rng.random() < 0.3:
        middle = canvas.shape(str(rng.choice(COLORS)), str(rng.choice(SHAPES)), span)
        if not any(canvas.overlap(middle, other) for other in things):
            things.append(middle)
    return Picture((span,), (canvas.backdrop(),), tuple(things))


def _mover(canvas: Canvas) -> Picture:
    """One of several shapes moves."""
    rng = canvas.rng
    span = canvas.whole()[0]
    count = int(rng.integers(2, min(5, max(3, canvas.capacity)) + 1))
    colors, shapes = canvas.pick(COLORS, count), canvas.pick(SHAPES, min(count, 5))
    looks = [(color, shapes[index % len(shapes)]) for index, color in enumerate(colors)]
    first = canvas.shape(*looks[0], span)
    first = canvas.moving(canvas.anywhere(first, ()) or first, str(rng.choice(MOTIONS[:4])))
    still = canvas.scattered([canvas.shape(*look, span) for look in looks[1:]], [first])
    return Picture((span,), (canvas.backdrop(),), (*still, first))


def _texts(canvas: Canvas) -> Picture:
    """One printed word or number after the other, between shapes that do not matter."""
    rng = canvas.rng
    shots, moment = canvas.shots(4, alone=0.35)
    texts: list[Thing] = []
    for index, span in enumerate(shots):
        if moment is not None and index != moment:
            continue
        word = canvas.word([text.word for text in texts])
        color = str(rng.choice(COLORS)) if rng.random() < 0.4 else None
        text = canvas.text(word, span, color=color)
        texts.append(canvas.anywhere(text, ()) or text)
    around: list[Thing] = []
    if canvas.is_roomy and rng.random() < 0.7:
        for _ in range(int(rng.integers(1, 4))):
            look = (str(rng.choice(COLORS)), str(rng.choice(SHAPES)))
            around.append(canvas.shape(*look, canvas.whole()[0]))
        around = canvas.scattered(around, texts)
    around += canvas.icons([*texts, *around])
    backdrops = [canvas.backdrop() for _ in shots]
    if rng.random() < 0.7:
        backdrops = backdrops[:1] * len(shots)
    return Picture(shots, tuple(backdrops), (*around, *texts), moment)


def _hops(canvas: Canvas) -> Picture:
    """The same shapes in every shot, each time at other places."""
    rng = canvas.rng
    shots, moment = canvas.shots(4)
    count = int(rng.integers(2, 4))
    colors, shapes = canvas.pick(COLORS, count), canvas.pick(SHAPES, count)
    if rng.random() < 0.3:
        colors[1] = colors[0]
    span = canvas.whole()[0]
    things = [canvas.shape(*look, span) for look in zip(colors, shapes, strict=True)]
    shown: list[Thing] = []
    usual = canvas.pick(PLACE_NAMES, count)
    for index, (start, end) in enumerate(shots):
        places = canvas.pick(PLACE_NAMES, count)
        if moment is not None and index != moment:
            places = usual
        elif moment is not None:
            free = [place for place in PLACE_NAMES if place != usual[0]]
            places = [str(rng.choice(free))]
            places += canvas.pick([place for place in PLACE_NAMES if place != places[0]], count - 1)
        here: list[Thing] = []
        for thing, place in zip(things, places, strict=True):
            moved = canvas.at_place(replace(thing, start=start, end=end), place)
            if not any(canvas.overlap(moved, other) for other in here):
                here.append(moved)
        shown += here
    backdrops = (canvas.backdrop(),) * len(shots)
    return Picture(shots, backdrops, tuple(shown), moment, asks_for_words=True)


_PLOTS: Final[Mapping[str, Callable[[Canvas], Picture]]] = MappingProxyType(
    {
        "cards": _cards,
        "single": _single,
        "scatter": _scatter,
        "compass": _compass,
        "mover": _mover,
        "texts": _texts,
        "hops": _hops,
    }
)
PLOTS: Final[tuple[str, ...]] = tuple(_PLOTS)
_NEED_ROOM = frozenset({"scatter", "compass", "mover", "hops"})
_EASY = {"cards": 0.3, "single": 0.66, "texts": 0.04}  # shares of the plots at level 0
_FULL = {  # and at level 1
    "cards": 0.1,
    "single": 0.09,
    "scatter": 0.16,
    "compass": 0.15,
    "mover": 0.13,
    "texts": 0.18,
    "hops": 0.19,
}


def draw_plot(rng: np.random.Generator, layout: Layout, level: float) -> str:
    """One of `PLOTS` that has room in the layout's frames, by difficulty (0..1)."""
    shares = {
        name: (1 - level) * _EASY.get(name, 0.0) + level * _FULL.get(name, 0.0) for name in PLOTS
    }
    if min(layout.height, layout.width) < ROOMY_SIDE:
        shares = {name: share for name, share in shares.items() if name not in _NEED_ROOM}
    return weighted_choice(rng, shares)


def draw_picture(
    rng: np.random.Generator,
    layout: Layout,
    plot: str,
    *,
    fonts: Sequence[str] = TRAINING_FONTS,
    moment: bool = False,
) -> Picture:
    """Decide what one of `PLOTS` shows; with `moment`, in one short shot of a long quiet clip."""
    return _PLOTS[plot](Canvas(rng, layout, fonts, moment))
