"""What a clip shows: one object on a quiet background, or plain colour cards.

A `Scene` is continuous in time and free of pixels, so that the same scene can be drawn small for
training and large for a real video file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from seats_cli.world.vocabulary import COLOR_ANCHORS, COLORS, MAX_SEGMENTS, MOTIONS, SHAPES

Style = Literal["object", "card"]
Rgb = tuple[float, float, float]

MIN_SEGMENT_FRAMES = 2  # a picture that only one sampled frame shows would be seen by luck
_CARD_WORDS = ("ONE", "TWO", "THREE", "FOUR", "GO", "STOP", "HELLO", "SEATS", "CAT", "A", "Z")
_LIGHT_COLORS = frozenset({"white", "yellow", "cyan"})


@dataclass(frozen=True)
class SceneSegment:
    """One picture from `start` to `end` (seconds).

    `shape` is None on cards; `word` is drawn over a card in `ink` (RGB, 0..255).
    """

    start: float
    end: float
    color: str
    rgb: Rgb
    shape: str | None
    word: str = ""
    ink: Rgb = (255.0, 255.0, 255.0)
    word_place: tuple[float, float, float] = (0.5, 0.5, 0.3)  # centre y, centre x, size


@dataclass(frozen=True)
class Scene:
    """The whole picture track; lengths are fractions of the frame's sides."""

    segments: tuple[SceneSegment, ...]  # consecutive, covering the clip, all of different colours
    style: Style  # a shape on a background, or cards: the whole frame in one colour
    motion: str  # one of `MOTIONS`; cards are "still"
    speed: float  # sides per second along the direction of motion; positions wrap around
    radius: float  # of the shape, as a fraction of the shorter side
    start: tuple[float, float]  # centre (y, x) of the shape at time 0
    texture: np.ndarray  # float (k, k, 3): coarse background in RGB 0..255, stretched smoothly
    softness: float  # width of the shape's edge in pixels of a 112-pixel frame
    noise: float  # standard deviation (RGB levels) of pixel noise
    block_noise: float  # the same per 8x8 block
    blur: bool  # smooth the finished frame like a coarse codec
    seed: int  # for the noise only

    def segment_index(self, time: float) -> int:
        """Index of the segment on screen at `time` seconds (the last one after the end)."""
        over = sum(segment.end <= time for segment in self.segments)
        return min(over, len(self.segments) - 1)


def _cut_times(rng: np.random.Generator, frame_times: np.ndarray, count: int) -> list[float]:
    """Times that part a clip into `count` pieces of at least `MIN_SEGMENT_FRAMES` frames each."""
    spare = len(frame_times) - MIN_SEGMENT_FRAMES * count
    lengths = MIN_SEGMENT_FRAMES + rng.multinomial(spare, rng.dirichlet(np.full(count, 1.5)))
    first_frames = np.cumsum(lengths)[:-1]
    between = rng.uniform(0.05, 0.95, size=count - 1)
    before, after = frame_times[first_frames - 1], frame_times[first_frames]
    cuts: list[float] = (before + between * (after - before)).tolist()
    return cuts


def _shade(rng: np.random.Generator, color: str) -> Rgb:
    """A shade of the named colour, RGB 0..255."""
    anchors = COLOR_ANCHORS[color]
    anchor = np.array(anchors[rng.integers(len(anchors))], dtype=np.float64)
    shade = np.clip(anchor * rng.uniform(0.88, 1.06) + rng.uniform(-14, 14, size=3), 0, 255)
    return _floats(shade)


def _floats(triple: np.ndarray) -> tuple[float, float, float]:
    first, second, third = triple.tolist()
    return first, second, third


def _background(rng: np.random.Generator) -> np.ndarray:
    """Coarse dark-to-medium texture of low saturation, shape (k, k, 3), RGB levels."""
    size = int(rng.choice([2, 5, 8, 15]))
    channels = 3 if rng.random() < 0.5 else 1
    grain = rng.standard_normal((size, size, channels)) * rng.uniform(0, 18)
    level = rng.uniform(0, 125)
    return np.clip(level + grain + rng.uniform(-12, 12, size=3), 0, 150)


def sample_scene(
    rng: np.random.Generator, frame_times: np.ndarray, duration: float, *, multi_share: float
) -> Scene:
    """Draw a scene whose segments all show in the sampled frames.

    Parameters
    ----------
    frame_times : float array, shape (T,)
        Seconds at which the clip will be sampled; `duration` is in seconds, too.
    multi_share : float
        Share of scenes with more than one segment.
    """
    most = min(MAX_SEGMENTS, len(frame_times) // MIN_SEGMENT_FRAMES)
    several = most >= 2 and rng.random() < multi_share
    count = int(rng.integers(2, most + 1)) if several else 1
    borders = [0.0, *_cut_times(rng, frame_times, count), duration]
    colors = [str(color) for color in rng.permutation(COLORS)[:count]]
    style: Style = "card" if rng.random() < 0.3 else "object"

    shapes: list[str | None] = [None] * count
    if style == "object":
        names = [str(shape) for shape in rng.permutation(SHAPES)[:count]]
        shapes = list(names) if rng.random() < 0.5 else [names[0]] * count

    with_words = style == "card" and rng.random() < 0.6
    segments = []
    for index, (color, shape) in enumerate(zip(colors, shapes, strict=True)):
        dark_ink = color in _LIGHT_COLORS or rng.random() < 0.15
        word = ""
        if with_words:
            is_digit = rng.random() < 0.25
            word = str(rng.integers(10)) if is_digit else str(rng.choice(_CARD_WORDS))
        segments.append(
            SceneSegment(
                start=borders[index],
                end=borders[index + 1],
                color=color,
                rgb=_shade(rng, color),
                shape=shape,
                word=word,
                ink=(8.0, 8.0, 8.0) if dark_ink else (248.0, 248.0, 248.0),
                word_place=_floats(rng.uniform((0.35, 0.35, 0.18), (0.65, 0.65, 0.42))),
            )
        )

    motion = str(rng.choice(MOTIONS)) if style == "object" else "still"
    margin = 0.24  # keeps the shape off the border across its path
    start = rng.uniform(margin, 1 - margin, size=2)
    return Scene(
        segments=tuple(segments),
        style=style,
        motion=motion,
        speed=float(rng.uniform(0.22, 0.42)) if motion != "still" else 0.0,
        radius=float(rng.uniform(0.2, 0.32)),
        start=(float(start[0]), float(start[1])),
        texture=_background(rng),
        softness=float(rng.uniform(0.6, 2.2)),
        noise=float(rng.uniform(0, 10)) if rng.random() < 0.7 else 0.0,
        block_noise=float(rng.uniform(0, 4)) if rng.random() < 0.5 else 0.0,
        blur=bool(rng.random() < 0.35),
        seed=int(rng.integers(2**31)),
    )
