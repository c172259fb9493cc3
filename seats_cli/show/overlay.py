"""Depth of tokens as levels with a colour and a pattern, and pictures shaded by them.

The depth of a token is the number of decoder layers that process it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from seats_cli.show.encode import Pixels
from seats_cli.show.record import TEXT, Ints, RunRecord

Colour = tuple[int, int, int]

MAX_LEVELS = 5  # above "dropped before the LLM"; more could not be told apart
# The part of viridis (CC0, by S. van der Walt and N. Smith) that is seen on black and white:
# even steps of lightness, so that colour-blind readers and grey printers can order it.
_VIRIDIS: tuple[Colour, ...] = (
    (65, 68, 135),
    (42, 120, 142),
    (34, 168, 132),
    (122, 209, 81),
    (253, 231, 37),
)


@dataclass(frozen=True)
class Level:
    """Tokens of about equal depth."""

    number: int  # 0 for tokens that the LLM never sees, then counted up with depth
    # Fewest and most decoder layers that process such a token.
    first_layers: int
    last_layers: int
    label: str  # for a legend
    colour: Colour  # RGB, 0 to 255
    # 1 dots, 2 horizontal, 3 diagonal, 4 vertical lines; 0 none, for the deepest level, so that
    # what matters most is seen best.
    pattern: int = 0

    @property
    def css(self) -> str:
        """The colour as CSS writes it."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


@dataclass(frozen=True, eq=False)
class Depth:
    """The depth of every token of the prompt."""

    lived: Ints  # int64 array, shape (S,): decoder layers that process each token
    # int64 array, shape (S,): level number of each audio-visual token; text has the deepest.
    level: Ints
    levels: tuple[Level, ...]  # by number; the first is always "dropped before the LLM"

    def level_of(self, layers: int) -> Level:
        """The level of tokens that this many layers process."""
        return next(level for level in self.levels if layers <= level.last_layers)


def depth_of(record: RunRecord) -> Depth:
    """Sort the tokens of a record into levels.

    One level for each stage that drops audio-visual tokens if there are few of them, otherwise
    equal ranges of layers.
    """
    lived = record.layers_lived()
    found = np.unique(lived[record.modality != TEXT]).tolist()
    inside = [layers for layers in found if layers > 0]
    if len(inside) <= MAX_LEVELS:
        bounds = [(layers, layers) for layers in inside]
    else:
        edges = np.linspace(0, record.num_layers, MAX_LEVELS + 1).round().astype(int).tolist()
        bounds = [(low + 1, high) for low, high in pairwise(edges)]
    late = [stage.after_layer for stage in record.stages if stage.kind == "late"]
    levels = [Level(0, 0, 0, "dropped before the LLM", (110, 110, 110))]
    levels += [
        Level(
            number,
            low,
            high,
            _label(record, low, high, late),
            _colour(number, len(bounds)),
            (MAX_LEVELS + number - len(bounds)) % MAX_LEVELS,
        )
        for number, (low, high) in enumerate(bounds, 1)
    ]
    ends = np.array([0, *(high for _, high in bounds)])
    level = np.minimum(np.searchsorted(ends, lived), len(levels) - 1)
    return Depth(lived, level, tuple(levels))


def _label(record: RunRecord, low: int, high: int, late: list[int]) -> str:
    if low != high:
        return f"dropped after layers {low} to {high}"
    if low == record.num_layers:
        return f"in all {low} layers"
    if low in late:
        return f"until the late block, after layer {low}"
    return f"dropped after layer {low}"


def _colour(number: int, count: int) -> Colour:
    """Even steps along the map; a single level gets its middle, visible on any background."""
    at = 0.5 if count == 1 else (number - 1) / (count - 1)
    channels = np.array(_VIRIDIS, float).T
    steps = np.linspace(0, 1, len(_VIRIDIS))
    red, green, blue = (round(float(np.interp(at, steps, channel))) for channel in channels)
    return red, green, blue


_TINT = 0.34  # share of a level's colour over what is kept
_DIM, _VEIL = 0.28, 20  # factor and offset of the brightness of dropped patches


def enlarge(level: Ints, height: int, width: int) -> Ints:
    """Levels of patches, (rows, columns), as levels of pixels, (height, width)."""
    rows = np.arange(height) * level.shape[0] // height
    columns = np.arange(width) * level.shape[1] // width
    enlarged: Ints = level[rows[:, None], columns]
    return enlarged


def dim(pixels: Pixels, dropped: np.ndarray) -> Pixels:
    """The pixels with those in `dropped`, bool (H, W), darkened and greyed."""
    out: Pixels = pixels.copy()
    grey = pixels[dropped].mean(-1, keepdims=True) * 0.6 + pixels[dropped] * 0.4
    out[dropped] = (grey * _DIM + _VEIL).astype(np.uint8)
    return out


def shade(
    picture: Image.Image,
    level: Ints,
    levels: Sequence[Level],
    *,
    outline: bool = True,
    strength: float = _TINT,
) -> Image.Image:
    """A picture whose patches are dimmed where dropped and tinted where kept.

    Parameters
    ----------
    level : int64 array, shape (rows, columns)
        Level of each patch.
    outline : bool
        Whether regions of one level get a border in its colour and a pattern.
    strength : float
        Share of a level's colour in what is kept.
    """
    pixels = np.asarray(picture.convert("RGB"))
    at = enlarge(level, *pixels.shape[:2])
    out = dim(pixels, at == 0).astype(np.float32)
    colours = np.array([entry.colour for entry in levels], np.float32)
    kept = at > 0
    out[kept] = (1 - strength) * out[kept] + strength * colours[at[kept]]
    if outline:
        out[_pattern(at, levels)] *= 0.45
        border = _border(at) & kept
        out[border] = colours[at[border]]
    return Image.fromarray(out.astype(np.uint8))


def _border(at: Ints) -> np.ndarray:
    """Two pixels, one on either side, where levels meet, and the rim of the picture."""
    around = np.pad(at, 1, constant_values=-1)
    edge: np.ndarray = at != around[:-2, 1:-1]
    for beside in (around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]):
        edge |= at != beside
    return edge


def _pattern(at: Ints, levels: Sequence[Level]) -> np.ndarray:
    """Where the pixels of the levels' patterns are: the same patterns as in the page."""
    y, x = np.indices(at.shape)
    marks = (
        (x % 10 < 2) & (y % 10 < 2),
        y % 10 == 0,
        (x + y) % 12 == 0,
        x % 10 == 0,
    )
    found = np.zeros(at.shape, bool)
    for level in levels:
        if level.pattern:
            found |= (at == level.number) & marks[level.pattern - 1]
    return found
