"""Paint the frames of a script, at any size and at any times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from seats_cli.world.lettering import icon, printed
from seats_cli.world.script import Backdrop, Script, Thing

Frame = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

_BRIGHTEST = 165.0  # RGB level of a backdrop: things stand out from it
_ICON_STRENGTH = 0.85


def paint_frames(
    script: Script, times: Sequence[float] | np.ndarray, height: int, width: int
) -> Frame:
    """Paint a script at T `times` (seconds), as RGB: uint8 (T, height, width, 3)."""
    frames = np.empty((len(times), height, width, 3), dtype=np.uint8)
    rng = np.random.default_rng(script.seed)
    grain = _grain(script.grain, frames[0].size)
    # What stands still is painted once for as long as the same things are shown.
    scenes: dict[tuple[int, ...], Frame] = {}
    for frame, time in zip(frames, np.asarray(times, dtype=np.float64).tolist(), strict=True):
        shown = [index for index, thing in enumerate(script.things) if thing.is_visible(time)]
        still = [index for index in shown if script.things[index].motion == "still"]
        key = (script.shot_index(time), *still)
        if key not in scenes:
            scene = _backdrop(script.backdrops[key[0]], height, width, script.blur)
            for index in still:
                _paint(scene, script.things[index], time)
            scenes[key] = scene
        frame[:] = scenes[key]
        for index in shown:
            if index not in still:
                _paint(frame, script.things[index], time)
        if grain is not None:
            start = int(rng.integers(len(grain) - frame.size))
            noisy = frame.astype(np.int16)
            noisy += grain[start : start + frame.size].reshape(frame.shape)
            np.clip(noisy, 0, 255, out=noisy)
            frame[:] = noisy
    return frames


@lru_cache(maxsize=1)
def _unit_noise() -> FloatArray:
    """Drawing fresh noise for every frame would dominate the painting time."""
    return np.random.default_rng(22).standard_normal(1 << 19, dtype=np.float32)


def _grain(level: float, pixels: int) -> npt.NDArray[np.int16] | None:
    """Noise to cut a frame of `pixels` values from, in RGB levels."""
    if level <= 0:
        return None
    pool = np.resize(_unit_noise(), max(pixels + (1 << 14), 1 << 19))
    return np.asarray(np.rint(level * pool), dtype=np.int16)


def _paint(frame: Frame, thing: Thing, time: float) -> None:
    """Paint a thing into a frame (H, W, 3), in place."""
    height, width = frame.shape[:2]
    side = min(height, width)
    y, x = thing.center(time)
    tall = thing.height * side
    if thing.kind == "shape":
        reach = int(0.55 * tall) + 3
        top, left = int(y * height) - reach, int(x * width) - reach
        offsets = np.arange(2 * reach, dtype=np.float32) + 0.5
        dy, dx = (top + offsets - y * height)[:, None], (left + offsets - x * width)[None, :]
        edge = _shape_distance(str(thing.shape), dy, dx, tall / 2)
        _blend(frame, np.clip(0.5 - edge, 0.0, 1.0), thing.rgb, top, left)
    elif thing.kind == "text":
        if thing.plate is not None:
            y0, x0, y1, x1 = (round(edge) for edge in thing.pixel_box(time, height, width))
            solid = np.ones((y1 - y0, x1 - x0), dtype=np.float32)
            _blend(frame, solid, thing.plate, y0, x0)
        mask = printed(thing.text, thing.font, max(4, round(tall))).astype(np.float32) / 255.0
        top, left = round(y * height - mask.shape[0] / 2), round(x * width - mask.shape[1] / 2)
        _blend(frame, mask, thing.rgb, top, left)
    else:
        tile = icon(thing.text, max(8, round(tall)))
        alpha = _ICON_STRENGTH / 255.0 * tile[..., 3].astype(np.float32)
        top, left = round(y * height - tall / 2), round(x * width - tall / 2)
        _blend(frame, alpha, tile[..., :3], top, left)


def _shape_distance(shape: str, dy: FloatArray, dx: FloatArray, radius: float) -> FloatArray:
    """Signed distance (pixels, negative inside) of offsets `dy, dx` to a shape's edge."""
    across, along = np.abs(dx), np.abs(dy)
    distance = np.hypot(dx, dy)
    if shape == "circle":
        edge = distance - radius
    elif shape == "ring":
        edge = np.maximum(distance - 1.05 * radius, 0.6 * radius - distance)
    elif shape == "square":
        edge = np.maximum(across, along) - 0.88 * radius
    elif shape == "cross":
        upright = np.maximum(across - 0.34 * radius, along - radius)
        flat = np.maximum(along - 0.34 * radius, across - radius)
        edge = np.minimum(upright, flat)
    elif shape == "triangle":
        sides = 0.85 * (across - 0.62 * (dy + radius))
        edge = np.maximum(np.maximum(dy - 0.8 * radius, -dy - radius), sides)
    else:
        raise ValueError(f"shape must be a known name, got {shape!r}")
    return np.asarray(edge, dtype=np.float32)


def _blend(
    frame: Frame,
    alpha: FloatArray,
    color: tuple[float, float, float] | Frame,
    top: int,
    left: int,
) -> None:
    """Lay a colour, or a picture as large as `alpha` (h, w), over a part of a frame, in place."""
    height, width = frame.shape[:2]
    y0, x0 = max(0, -top), max(0, -left)
    y1, x1 = min(alpha.shape[0], height - top), min(alpha.shape[1], width - left)
    if y1 <= y0 or x1 <= x0:
        return
    part = frame[top + y0 : top + y1, left + x0 : left + x1]
    over = np.asarray(color, dtype=np.float32)
    if over.ndim == 3:
        over = over[y0:y1, x0:x1]
    below = part.astype(np.float32)
    part[:] = np.rint(below + alpha[y0:y1, x0:x1, None] * (over - below)).astype(np.uint8)


def _backdrop(backdrop: Backdrop, height: int, width: int, blur: bool) -> Frame:
    """Paint a backdrop: uint8 (height, width, 3)."""
    mean = np.array(backdrop.rgb, dtype=np.float32)
    if backdrop.style == "card":
        card = np.broadcast_to(np.rint(mean).astype(np.uint8), (height, width, 3))
        return np.array(card)
    rng = np.random.default_rng(backdrop.seed)
    if backdrop.style == "clutter":
        picture = _clutter(rng, mean, backdrop.contrast, height, width)
    else:
        texture = _TEXTURES[backdrop.style](rng, height, width)
        tint = (1 + 0.35 * rng.uniform(-1, 1, size=3)).astype(np.float32)
        picture = mean + backdrop.contrast * texture[..., None] * tint
    picture = np.clip(picture, 0, _BRIGHTEST)
    if blur:
        for axis in (0, 1):
            around = np.roll(picture, 1, axis) + np.roll(picture, -1, axis)
            picture = 0.5 * picture + 0.25 * around
    return np.asarray(np.rint(picture), dtype=np.uint8)


def _plain(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Light from one side."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    return np.asarray(np.sin(angle) * y + np.cos(angle) * x, dtype=np.float32)


def _cloud(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Octaves of noise that fall with frequency as in photographs."""
    total = np.zeros((height, width), dtype=np.float32)
    steepness = rng.uniform(0.7, 1.2)
    for octave in range(2, 8):
        cells = 2**octave
        if cells > max(height, width) // 2:
            break
        coarse = rng.standard_normal((cells * height // max(height, width) + 2, cells + 2))
        image = Image.fromarray(coarse.astype(np.float32))
        smooth = image.resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(smooth) * np.float32(cells**-steepness)
    return np.asarray(total / max(float(total.std()), 1e-6), dtype=np.float32)


def _waves(rng: np.random.Generator, height: int, width: int, along: float) -> FloatArray:
    """Sine of a position along an angle, with a period that is a share of the shorter side."""
    period = rng.uniform(0.06, 0.3) * min(height, width)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    return np.asarray(np.sin(2 * np.pi * (np.sin(along) * y + np.cos(along) * x) / period))


def _stripes(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    waves = _waves(rng, height, width, float(rng.uniform(0, np.pi)))
    return np.asarray(np.clip(3 * waves, -1, 1) if rng.random() < 0.5 else waves, np.float32)


def _checks(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    angle = float(rng.uniform(0, np.pi))
    first, second = (_waves(rng, height, width, angle + turn) for turn in (0.0, np.pi / 2))
    return np.asarray(np.sign(first) * np.sign(second), dtype=np.float32)


_TEXTURES = {"plain": _plain, "cloud": _cloud, "stripes": _stripes, "checks": _checks}


def _clutter(
    rng: np.random.Generator, mean: FloatArray, contrast: float, height: int, width: int
) -> FloatArray:
    """Dull patches and lines, the shapes of a room that nobody asks about."""
    image = Image.new("RGB", (width, height), tuple(round(float(value)) for value in mean))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 28))):
        level = mean + contrast * rng.standard_normal() + rng.uniform(-8, 8, size=3)
        red, green, blue = (round(float(value)) for value in np.clip(level, 0, _BRIGHTEST))
        y, x = rng.uniform(-0.1, 1.0, size=2) * (height, width)
        tall, wide = rng.uniform(0.04, 0.4, size=2) * (height, width)
        box = (float(x), float(y), float(x + wide), float(y + tall))
        kind = rng.random()
        if kind < 0.5:
            draw.rectangle(box, fill=(red, green, blue))
        elif kind < 0.75:
            draw.polygon(
                [(x, y), (x + wide, y + 0.2 * tall), (x + 0.3 * wide, y + tall)], (red, green, blue)
            )
        else:
            draw.line(box, fill=(red, green, blue), width=int(rng.integers(1, 5)))
    return np.asarray(image, dtype=np.float32)
