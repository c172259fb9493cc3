"""Shading of a picture by how deep its tokens live, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from seats_cli.show.depth import Level
    from seats_cli.show.pictures import Pixels
    from seats_cli.show.record import Ints

_TINT = 0.34  # of a level's colour over what is kept
_DIM, _VEIL = 0.28, 20  # what is left of the light of dropped patches, and what is added


def enlarge(level: Ints, height: int, width: int) -> Ints:
    """Levels of patches, (rows, columns), as levels of pixels, (height, width)."""
    rows = np.arange(height) * level.shape[0] // height
    columns = np.arange(width) * level.shape[1] // width
    enlarged: Ints = level[rows[:, None], columns]
    return enlarged


def dim(pixels: Pixels, dropped: np.ndarray) -> Pixels:
    """Pixels with those darkened and greyed that `dropped`, bool (H, W), marks."""
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
    picture : Image
    level : int64 array, shape (rows, columns)
        Level of each patch.
    levels : sequence of Level
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
    """Two pixels inside each region of one level."""
    edge = np.zeros(at.shape, bool)
    for axis in (0, 1):
        change = np.diff(at, axis=axis) != 0
        first = [slice(None), slice(None)]
        second = [slice(None), slice(None)]
        first[axis], second[axis] = slice(None, -1), slice(1, None)
        edge[tuple(first)] |= change
        edge[tuple(second)] |= change
    edge[[0, -1]] = True
    edge[:, [0, -1]] = True
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
