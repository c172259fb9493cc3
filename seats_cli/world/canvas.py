"""What the plots draw with: looks, places that are free, changes of shot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import numpy as np

from seats_cli.world.layouts import Layout, weighted_choice
from seats_cli.world.lettering import ICONS, printed
from seats_cli.world.script import Backdrop, Rgb, Thing
from seats_cli.world.vocabulary import COLOR_ANCHORS
from seats_cli.world.voices import SPOKEN_COLORS, WORDS
from seats_cli.world.wording import DIGITS

MIN_SHOT_FRAMES: Final = 2  # a shot that only one sampled frame shows would be seen by luck
ROOMY_SIDE: Final = 160  # pixels: from this shorter side on there is room for several small things
_SMALL = (30.0, 56.0)  # pixels: heights of things in roomy frames, one to four tokens
_CAPITALS = (18.0, 38.0)  # pixels: heights of printed capitals there
_PIXELS_PER_SECOND = (20.0, 46.0)  # of what moves
_GAP = 7.0  # pixels between two things
DARK: Final[Rgb] = (10.0, 10.0, 10.0)
LIGHT: Final[Rgb] = (246.0, 246.0, 246.0)
LIGHT_COLORS: Final = frozenset({"white", "yellow", "cyan", "orange"})


class Canvas:
    """What the plots draw with: chance, the frame's size and the times at which it is sampled.

    Parameters
    ----------
    rng : numpy Generator
        Decides everything.
    layout : Layout
        With a picture.
    fonts : sequence of str
        Of `lettering.FONTS`.
    moment : bool
        Whether all but one shot of a clip with several is to be long and quiet.
    """

    def __init__(
        self, rng: np.random.Generator, layout: Layout, fonts: Sequence[str], moment: bool
    ) -> None:
        self.rng = rng
        self.layout = layout
        self.fonts = tuple(fonts)
        self.moment = moment
        self.times = np.array(layout.frame_times)
        self.height, self.width = layout.height, layout.width
        self.side = min(self.height, self.width)
        self._digits = float(rng.choice([0.0, 1.0, 0.4], p=[0.6, 0.22, 0.18]))
        self.is_roomy = self.side >= ROOMY_SIDE
        self.capacity = int(np.clip(self.height * self.width / 9000, 1, 9))

    def shots(
        self, most: int, *, alone: float = 0.0
    ) -> tuple[tuple[tuple[float, float], ...], int | None]:
        """Up to `most` consecutive shots, and which of them is the moment, if there is to be one.

        Every shot shows in at least `MIN_SHOT_FRAMES` frames. A share `alone` of the clips that are
        not about a moment has one shot.
        """
        if self.moment and self.layout.duration >= 8:
            return self._around_a_moment()
        if self.rng.random() < alone:
            return self.whole(), None
        most = min(most, len(self.times) // MIN_SHOT_FRAMES)
        count = int(self.rng.integers(2, most + 1)) if most >= 2 else 1
        spare = len(self.times) - MIN_SHOT_FRAMES * count
        shares = self.rng.dirichlet(np.full(count, 2.0))
        lengths = MIN_SHOT_FRAMES + self.rng.multinomial(spare, shares)
        firsts = np.cumsum(lengths)[:-1]
        between = self.rng.uniform(0.1, 0.9, size=count - 1)
        before, after = self.times[firsts - 1], self.times[firsts]
        cuts = (before + between * (after - before)).tolist()
        borders = [0.0, *cuts, self.layout.duration]
        return tuple(pairwise(borders)), None

    def _around_a_moment(self) -> tuple[tuple[tuple[float, float], ...], int]:
        length = float(self.rng.uniform(1.8, 4.0))
        start = float(self.rng.uniform(1.5, self.layout.duration - length - 1.5))
        borders = [0.0, start, start + length, self.layout.duration]
        return tuple(pairwise(borders)), 1

    def whole(self) -> tuple[tuple[float, float], ...]:
        """One shot."""
        return ((0.0, self.layout.duration),)

    def pick(self, names: Sequence[str], count: int) -> list[str]:
        """`count` different names."""
        return [str(name) for name in self.rng.permutation(names)[:count]]

    def shade(self, color: str) -> Rgb:
        """A shade of the named colour."""
        anchors = COLOR_ANCHORS[color]
        anchor = np.array(anchors[self.rng.integers(len(anchors))], dtype=np.float64)
        shade = anchor * self.rng.uniform(0.88, 1.06) + self.rng.uniform(-14, 14, size=3)
        red, green, blue = np.clip(shade, 0, 255).tolist()
        return red, green, blue

    def backdrop(self) -> Backdrop:
        """A dull backdrop, in three of four cases with a texture."""
        level = float(self.rng.uniform(12, 120))
        red, green, blue = np.clip(level + self.rng.uniform(-14, 14, size=3), 0, 135).tolist()
        styles = {"plain": 0.25, "cloud": 0.35, "stripes": 0.1, "checks": 0.08, "clutter": 0.22}
        style = weighted_choice(self.rng, styles)
        contrast = float(self.rng.uniform(4, 26))
        seed = int(self.rng.integers(2**31))
        return Backdrop(style, (red, green, blue), None, contrast, seed)  # type: ignore[arg-type]

    def shape(
        self, color: str, shape: str, span: tuple[float, float], *, big: bool = False
    ) -> Thing:
        """A shape in the middle; `place` moves it."""
        low, high = _SMALL
        if not self.is_roomy:
            low, high = 26.0, max(30.0, 0.56 * self.side)
        elif big:
            high = 0.5 * self.side
        height = float(self.rng.uniform(low, high)) / self.side
        rgb = self.shade(color)
        return Thing("shape", *span, 0.5, 0.5, height, 1.0, color, rgb, shape)

    def text(
        self, word: str, span: tuple[float, float], *, color: str | None = None, ink: Rgb = LIGHT
    ) -> Thing:
        """A printed word or number in the middle, in a named colour or else in `ink`."""
        forms = {word.upper(): 0.7, word: 0.1, word.capitalize(): 0.2}
        printed_as = weighted_choice(self.rng, forms)
        font = str(self.rng.choice(self.fonts))
        mask = printed(printed_as, font, 32)
        aspect = mask.shape[1] / 32
        low, high = _CAPITALS
        if word.isdigit():
            low, high = 1.3 * low, 1.4 * high
        if not self.is_roomy:
            high = max(high, 0.4 * self.side)
        height = float(self.rng.uniform(low, high))
        height = max(13.0, min(height, 0.8 * self.width / aspect))
        rgb = ink if color is None else self.shade(color)
        # Dark colours are hard to read on most backdrops.
        plated = 0.5 if color is None or color in LIGHT_COLORS else 0.8
        plate = self._plate(color, rgb) if self.rng.random() < plated else None
        return Thing(
            "text",
            *span,
            0.5,
            0.5,
            height / self.side,
            aspect,
            color,
            rgb,
            text=printed_as,
            word=word,
            font=font,
            plate=plate,
        )

    def _plate(self, color: str | None, ink: Rgb) -> Rgb:
        bright = color in LIGHT_COLORS if color is not None else sum(ink) > 380
        return DARK if bright else LIGHT

    def word(self, taken: Sequence[str] = ()) -> str:
        """A word or a digit to print that is not `taken`, never a colour.

        Most clips have either words or digits, so that a question about one of them does not say
        which of the texts it means.
        """
        names: Sequence[str] = [word for word in WORDS if word not in SPOKEN_COLORS]
        if self.rng.random() < self._digits:
            names = DIGITS
        free = [name for name in names if name not in taken]
        return str(self.rng.choice(free))

    def reach(self, thing: Thing) -> tuple[float, float]:
        """Half the height and width that a thing takes, as fractions of the frame."""
        y0, x0, y1, x1 = thing.pixel_box(thing.start, self.height, self.width)
        return (y1 - y0) / 2 / self.height, (x1 - x0) / 2 / self.width

    def at_place(self, thing: Thing, place: str) -> Thing:
        """Move a thing to a place that has a name."""
        half_y, half_x = self.reach(thing)
        along = self.rng.uniform(-0.07, 0.07)
        room = half_x if place in ("left", "right") else half_y
        low, high = min(room + 0.02, 0.3), 0.31
        off = float(self.rng.uniform(low, max(high, low + 0.001)))
        if place in ("right", "bottom"):
            off = 1 - off
        y, x = (0.5 + along, off) if place in ("left", "right") else (off, 0.5 + along)
        return replace(thing, y=float(y), x=float(x))

    def anywhere(self, thing: Thing, others: Sequence[Thing]) -> Thing | None:
        """Move a thing to where it covers none of the `others`; None without such a place."""
        half_y, half_x = self.reach(thing)
        for _ in range(40):
            y = float(self.rng.uniform(min(half_y + 0.01, 0.5), max(0.99 - half_y, 0.5)))
            x = float(self.rng.uniform(min(half_x + 0.01, 0.5), max(0.99 - half_x, 0.5)))
            moved = replace(thing, y=y, x=x)
            if not any(self.overlap(moved, other) for other in others):
                return moved
        return None

    def overlap(self, one: Thing, other: Thing) -> bool:
        """Whether two things come closer than `_GAP` pixels, wherever they go."""
        a, b = self._swept(one), self._swept(other)
        apart = a[0] > b[2] + _GAP or b[0] > a[2] + _GAP or a[1] > b[3] + _GAP or b[1] > a[3] + _GAP
        return not apart

    def _swept(self, thing: Thing) -> tuple[float, float, float, float]:
        """Everything a thing passes over: all of its row or column where it moves."""
        y0, x0, y1, x1 = thing.pixel_box(thing.start, self.height, self.width)
        if thing.motion in ("left", "right"):
            x0, x1 = 0.0, float(self.width)
        elif thing.motion in ("up", "down"):
            y0, y1 = 0.0, float(self.height)
        return y0, x0, y1, x1

    def scattered(self, things: Sequence[Thing], placed: Sequence[Thing] = ()) -> list[Thing]:
        """The things that found a place beside those `placed`."""
        found: list[Thing] = []
        for thing in things:
            moved = self.anywhere(thing, [*placed, *found])
            if moved is not None:
                found.append(moved)
        return found

    def moving(self, thing: Thing, motion: str) -> Thing:
        """Set a thing in motion."""
        along = self.width if motion in ("left", "right") else self.height
        speed = float(self.rng.uniform(*_PIXELS_PER_SECOND)) / along
        return replace(thing, motion=motion, speed=0.0 if motion == "still" else speed)

    def icons(self, placed: Sequence[Thing]) -> list[Thing]:
        """In a third of roomy clips one to three emoji between the other things."""
        if not self.is_roomy or self.rng.random() > 0.35:
            return []
        span = self.whole()[0]
        wanted = []
        for name in self.pick(tuple(ICONS), int(self.rng.integers(1, 4))):
            height = float(self.rng.uniform(26, 44)) / self.side
            wanted.append(Thing("icon", *span, 0.5, 0.5, height, text=name))
        return self.scattered(wanted, placed)
