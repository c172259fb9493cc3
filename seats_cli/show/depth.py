"""How deep tokens live, in a few levels with a colour and a pattern each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from seats_cli.show.record import TEXT

if TYPE_CHECKING:
    from seats_cli.show.record import Ints, Record

Colour = tuple[int, int, int]

MAX_LEVELS = 5  # above "dropped before the LLM"; more would not be told apart
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
    """Tokens that live about equally deep.

    Parameters
    ----------
    number : int
        0 for tokens that the LLM never sees, then counted up with depth.
    first_layers, last_layers : int
        Fewest and most decoder layers that process such a token.
    label : str
        For a legend.
    colour : (int, int, int)
        RGB, 0 to 255.
    pattern : int
        1 dots, 2 lines across, 3 slanted, 4 upright, 0 none, which is the deepest level's: what
        matters most is seen best.
    """

    number: int
    first_layers: int
    last_layers: int
    label: str
    colour: Colour
    pattern: int = 0

    @property
    def css(self) -> str:
        """The colour as CSS writes it."""
        return "#{:02x}{:02x}{:02x}".format(*self.colour)


@dataclass(frozen=True, eq=False)
class Depth:
    """How deep every token of the prompt lives.

    Parameters
    ----------
    lived : int64 array, shape (S,)
        Decoder layers that process each token.
    level : int64 array, shape (S,)
        Level number of each audio-visual token; text has the deepest.
    levels : tuple of Level
        By number; the first is always "dropped before the LLM".
    """

    lived: Ints
    level: Ints
    levels: tuple[Level, ...]

    def level_of(self, layers: int) -> Level:
        """The level of tokens that live for so many layers."""
        return next(level for level in self.levels if layers <= level.last_layers)


def depth_of(record: Record) -> Depth:
    """Sort the tokens of a record into levels.

    One level for each stage at which audio-visual tokens leave, as long as there are few;
    else equal parts of the layers.
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


def _label(record: Record, low: int, high: int, late: list[int]) -> str:
    if low != high:
        return f"dropped after layers {low} to {high}"
    if low == record.num_layers:
        return f"in all {low} layers"
    if low in late:
        return f"until the late block, after layer {low}"
    return f"dropped after layer {low}"


def _colour(number: int, count: int) -> Colour:
    """Even steps along the map; a single level takes its middle, which reads on any ground."""
    at = 0.5 if count == 1 else (number - 1) / (count - 1)
    channels = np.array(_VIRIDIS, float).T
    steps = np.linspace(0, 1, len(_VIRIDIS))
    red, green, blue = (round(float(np.interp(at, steps, channel))) for channel in channels)
    return red, green, blue
