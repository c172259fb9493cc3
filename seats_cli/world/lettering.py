"""Printed words and small pictures: no font has to be there when a clip is drawn.

Letters of several fonts stand in one atlas, and so do some emoji
(`seats_cli/training/make_assets.py`). Fonts that are held out must never be seen in training.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

CHARACTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
TRAINING_FONTS: Final[tuple[str, ...]] = (
    "dejavu-sans",
    "dejavu-sans-bold",
    "dejavu-condensed-bold",
    "dejavu-serif-bold",
    "dejavu-mono",
    "liberation-sans",
    "liberation-sans-bold",
    "liberation-serif",
    "liberation-mono-bold",
    "lato-regular",
    "lato-bold",
    "roboto-bold",
    "noto-serif",
    "comic-neue-bold",
    "garamond-bold",
)
HELD_OUT_FONTS: Final[tuple[str, ...]] = (
    "liberation-serif-bold",
    "open-sans-bold",
    "cantarell-bold",
    "inconsolata",
)
FONTS: Final = (*TRAINING_FONTS, *HELD_OUT_FONTS)

INK: Final = 24  # 0..255: a pixel with less counts as paper when edges are looked for
ICON_SIDE: Final = 48  # pixels
ICONS: Final[dict[str, str]] = {
    "apple": "\U0001f34e",
    "lemon": "\U0001f34b",
    "grapes": "\U0001f347",
    "bread": "\U0001f35e",
    "pizza": "\U0001f355",
    "cake": "\U0001f370",
    "cactus": "\U0001f335",
    "leaf": "\U0001f343",
    "mushroom": "\U0001f344",
    "rose": "\U0001f339",
    "monkey": "\U0001f435",
    "panda": "\U0001f43c",
    "frog": "\U0001f438",
    "pig": "\U0001f437",
    "mouse": "\U0001f42d",
    "elephant": "\U0001f418",
    "turtle": "\U0001f422",
    "butterfly": "\U0001f98b",
    "snail": "\U0001f40c",
    "octopus": "\U0001f419",
    "guitar": "\U0001f3b8",
    "drum": "\U0001f941",
    "trumpet": "\U0001f3ba",
    "camera": "\U0001f4f7",
    "phone": "\U0001f4de",
    "laptop": "\U0001f4bb",
    "bulb": "\U0001f4a1",
    "hammer": "\U0001f528",
    "scissors": "\u2702",
    "pencil": "\u270f",
    "gift": "\U0001f381",
    "balloon": "\U0001f388",
    "umbrella": "\u2602",
    "anchor": "\u2693",
    "rocket": "\U0001f680",
    "plane": "\u2708",
    "bus": "\U0001f68c",
    "bicycle": "\U0001f6b2",
    "tent": "\u26fa",
    "castle": "\U0001f3f0",
    "bell": "\U0001f514",
    "trophy": "\U0001f3c6",
    "dice": "\U0001f3b2",
    "puzzle": "\U0001f9e9",
    "crown": "\U0001f451",
    "glasses": "\U0001f453",
    "coat": "\U0001f9e5",
    "face": "\U0001f642",
}

_ASSETS = Path(__file__).parent / "assets"


@lru_cache(maxsize=1)
def _atlas() -> tuple[npt.NDArray[np.uint8], Any]:
    """Glyphs of all fonts, 0..255, and where each stands."""
    image = Image.open(_ASSETS / "glyphs.png").convert("L")
    facts = json.loads((_ASSETS / "glyphs.json").read_text(encoding="utf-8"))
    return np.asarray(image), facts


@lru_cache(maxsize=4096)
def printed(text: str, font: str, height: int) -> npt.NDArray[np.uint8]:
    """A word as it is printed.

    Parameters
    ----------
    text : str
        Of `CHARACTERS`.
    font : str
        One of `FONTS`.
    height : int
        Of a capital letter, in pixels. Letters may reach above it and below it.

    Returns
    -------
    uint8 array, shape (rows, columns)
        How much of each pixel is ink, 0..255, cropped to the ink; read-only.

    Raises
    ------
    KeyError
        If a character or the font is not in the atlas.
    """
    crop, _ = _set_line(text, font)
    scale = height / _atlas()[1]["fonts"][font]["cap"]
    size = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
    # Pillow's bicubic takes the whole area of a pixel when it shrinks, so thin strokes stay.
    mask = np.array(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC))
    mask.setflags(write=False)
    return mask


def letter_centers(text: str, font: str) -> tuple[float, ...]:
    """Where in `printed(text, font, ...)` the middle of every letter is: shares of its width."""
    return _set_line(text, font)[1]


@lru_cache(maxsize=4096)
def _set_line(text: str, font: str) -> tuple[npt.NDArray[np.uint8], tuple[float, ...]]:
    """A word at the atlas's size, cropped to the ink, and the middles of its letters (0..1)."""
    atlas, facts = _atlas()
    places = facts["fonts"][font]
    glyphs = [places["glyphs"][character] for character in text]
    rows = atlas[places["top"] : places["top"] + facts["row"]]
    margin = facts["row"]
    line = np.zeros((facts["row"], int(sum(glyph[3] for glyph in glyphs)) + 2 * margin), np.uint8)
    pen, middles = float(margin), []
    for left, width, origin, advance in glyphs:
        start = round(pen) - origin
        part = line[:, start : start + width]
        np.maximum(part, rows[:, left : left + width], out=part)
        middles.append(pen + advance / 2)
        pen += advance
    inked = line > INK
    columns, lines = np.flatnonzero(inked.any(axis=0)), np.flatnonzero(inked.any(axis=1))
    low, high = int(columns[0]), int(columns[-1]) + 1
    centers = tuple(float(np.clip((x - low) / (high - low), 0, 1)) for x in middles)
    return line[lines[0] : lines[-1] + 1, low:high], centers


@lru_cache(maxsize=1)
def _icon_sheet() -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(_ASSETS / "icons.png").convert("RGBA"))


@lru_cache(maxsize=1024)
def icon(name: str, size: int) -> npt.NDArray[np.uint8]:
    """One of `ICONS`, `size` pixels high and wide: uint8 (size, size, 4), RGBA; read-only."""
    left = list(ICONS).index(name) * ICON_SIDE
    tile = Image.fromarray(_icon_sheet()[:, left : left + ICON_SIDE])
    picture = np.array(tile.resize((size, size), Image.Resampling.BICUBIC))
    picture.setflags(write=False)
    return picture
