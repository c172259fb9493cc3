"""What a clip shows and plays: small things, printed and spoken words.

A `Script` is continuous in time and free of pixels and samples. Lengths in the frame are fractions
of its sides, so the same script can be painted at the size the model reads and at a file's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from seats_cli.world.layouts import Layout
from seats_cli.world.sounds import Sound

Rgb = tuple[float, float, float]
Box = tuple[float, float, float, float]  # y0, x0, y1, x1: pixels or fractions of the frame

PLATE_MARGIN: Final = 0.3  # of a text's height: what its plate shows around it
_OFF_CENTER = 0.17  # fraction of the side from which on a place has a name
_ALONG = 0.13  # and how far it may be off the middle of the other side
_DIRECTION = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "still": (0, 0)}


def place_of(y: float, x: float) -> str | None:
    """Name of a place in the frame (fractions), None in the middle and in the corners."""
    dy, dx = y - 0.5, x - 0.5
    if abs(dx) >= _OFF_CENTER and abs(dy) <= _ALONG:
        return "left" if dx < 0 else "right"
    if abs(dy) >= _OFF_CENTER and abs(dx) <= _ALONG:
        return "top" if dy < 0 else "bottom"
    return None


def is_beside(place: str, y: float, x: float) -> bool:
    """Whether something at (y, x) could also be said to be at `place`, as in a corner."""
    dy, dx = y - 0.5, x - 0.5
    toward = {"left": -dx, "right": dx, "top": -dy, "bottom": dy}[place]
    return toward > _ALONG


@dataclass(frozen=True)
class Thing:
    """Something on screen from `start` to `end` (seconds): a shape, a text or an icon."""

    kind: Literal["shape", "text", "icon"]
    start: float
    end: float
    y: float  # centre at `start`, as is x: fractions of the frame's height and width
    x: float
    height: float  # fraction of the frame's shorter side; of a text: of its capitals
    aspect: float = 1.0  # width over height
    color: str | None = None  # one of `COLORS`, None where the colour has no name
    rgb: Rgb = (255.0, 255.0, 255.0)
    shape: str | None = None  # one of `SHAPES`
    text: str = ""  # as printed; of an icon: its name
    word: str = ""  # the text as it is answered: "dog", "7"
    font: str = ""
    plate: Rgb | None = None  # colour of the rectangle behind a text
    motion: str = "still"  # one of `MOTIONS`
    speed: float = 0.0  # sides per second in the direction of motion

    def center(self, time: float) -> tuple[float, float]:
        """Centre (y, x) at `time`.

        Half of a thing is always in the frame: what leaves on one side returns on the other.
        """
        step_y, step_x = _DIRECTION[self.motion]
        way = self.speed * (time - self.start)
        y = (self.y + step_y * way) % 1.0 if step_y else self.y
        x = (self.x + step_x * way) % 1.0 if step_x else self.x
        return y, x

    def is_visible(self, time: float) -> bool:
        """Whether the thing is shown at `time` (seconds)."""
        return self.start <= time < self.end

    def pixel_box(self, time: float, height: int, width: int) -> Box:
        """Box in pixels of a frame at `time`, which may reach beyond the frame."""
        y, x = self.center(time)
        tall = self.height * min(height, width)
        wide = tall * self.aspect
        if self.plate is not None:
            tall, wide = tall * (1 + 2 * PLATE_MARGIN), wide + 2 * PLATE_MARGIN * tall
        return (
            y * height - tall / 2,
            x * width - wide / 2,
            y * height + tall / 2,
            x * width + wide / 2,
        )

    def box(self, time: float, height: int, width: int) -> Box | None:
        """Visible part of the box in pixels, None where the thing is not on screen."""
        if not self.is_visible(time):
            return None
        y0, x0, y1, x1 = self.pixel_box(time, height, width)
        y0, x0, y1, x1 = max(0.0, y0), max(0.0, x0), min(float(height), y1), min(float(width), x1)
        return (y0, x0, y1, x1) if y1 > y0 and x1 > x0 else None

    @property
    def place(self) -> str | None:
        """Name of the place of a thing that stays where it is."""
        return place_of(self.y, self.x) if self.motion == "still" else None

    @property
    def name(self) -> str:
        """How a question names it: "red square", "word dog", "number 7"."""
        if self.kind == "text":
            return f"{'number' if self.word.isdigit() else 'word'} {self.word}"
        return f"{self.color} {self.shape}"


@dataclass(frozen=True)
class Backdrop:
    """What stands behind the things of one shot."""

    style: Literal["card", "plain", "cloud", "stripes", "checks", "clutter"]
    rgb: Rgb  # mean colour
    color: str | None = None  # name of a card's colour; cards fill the frame with it
    contrast: float = 0.0  # standard deviation of the texture, in RGB levels
    seed: int = 0


@dataclass(frozen=True)
class SpokenWord:
    """A word of `voices.WORDS`, by itself or after a carrier phrase."""

    word: str
    voice: str
    start: float  # seconds, of all that is said
    end: float
    amplitude: float  # peak, 0..1
    seed: int  # for the voice's variations
    carrier: str = ""  # one of `voices.CARRIERS`, said before the word
    word_start: float = 0.0  # seconds: where the word itself begins; it ends at `end`

    @property
    def kind(self) -> str:
        """Kind of sound, as `Sound.kind`."""
        return "speech"


Heard = Sound | SpokenWord


@dataclass(frozen=True)
class Bed:
    """What is heard under everything else, all the time."""

    kind: Literal["silence", "noise", "music"] = "silence"
    level: float = 0.0  # standard deviation, of full scale
    seed: int = 0

    @property
    def is_audible(self) -> bool:
        """Whether somebody asked what is heard might name it."""
        return self.kind == "music" or self.level > _ROOM_NOISE


_ROOM_NOISE = 10**-2.8  # standard deviation; nobody would call less of it a sound


@dataclass(frozen=True)
class Script:
    """What a clip will show and play, before any of it is painted or synthesised."""

    layout: Layout
    plot: str  # which kind of clip it is: one of `storylines.PLOTS`
    shots: tuple[tuple[float, float], ...] = ()  # consecutive (start, end); none without a picture
    backdrops: tuple[Backdrop, ...] = ()  # one per shot
    things: tuple[Thing, ...] = ()  # later ones in front
    heard: tuple[Heard, ...] = ()  # by start; none of them overlap
    bed: Bed = Bed()
    grain: float = 0.0  # standard deviation of the pixels' noise, in RGB levels
    blur: bool = False  # smooth backdrops like a coarse codec
    seed: int = 0  # for the grain

    @property
    def texts(self) -> tuple[Thing, ...]:
        """All printed words and numbers, by start."""
        return tuple(sorted(self._of("text"), key=lambda thing: thing.start))

    @property
    def shapes(self) -> tuple[Thing, ...]:
        """All coloured shapes."""
        return self._of("shape")

    @property
    def words(self) -> tuple[SpokenWord, ...]:
        """All spoken words, by start."""
        return tuple(sound for sound in self.heard if isinstance(sound, SpokenWord))

    def _of(self, kind: str) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.things if thing.kind == kind)

    def shot_index(self, time: float) -> int:
        """Index of the shot on screen at `time` seconds (the last one after the end)."""
        over = sum(end <= time for _, end in self.shots)
        return min(over, len(self.shots) - 1)
