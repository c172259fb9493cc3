"""Draw a `Scene` as RGB frames of any size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from seats_cli.world.scene import Scene, SceneSegment

FloatArray = npt.NDArray[np.float32]

MODEL_SIDE = 112  # pixels: the frame side that softness and noise are stated for
_DIRECTION = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0), "still": (0, 0)}


def shape_distance(shape: str, dy: FloatArray, dx: FloatArray, radius: float) -> FloatArray:
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


def shape_coverage(scene: Scene, times: npt.ArrayLike, height: int, width: int) -> FloatArray:
    """How much of each pixel the moving shape covers at T `times` (seconds).

    Returns
    -------
    float32 array, shape (T, height, width)
        0..1, with soft edges; all ones for cards, which fill the frame.
    """
    moments = np.asarray(times, dtype=np.float32)
    if scene.style == "card":
        return np.ones((len(moments), height, width), dtype=np.float32)
    step_y, step_x = _DIRECTION[scene.motion]
    center_y = (scene.start[0] + step_y * scene.speed * moments)[:, None]
    center_x = (scene.start[1] + step_x * scene.speed * moments)[:, None]
    grid_y = (np.arange(height, dtype=np.float32) + 0.5) / height
    grid_x = (np.arange(width, dtype=np.float32) + 0.5) / width
    # The frame wraps around: what leaves on one side comes back on the other.
    dy = (((grid_y - center_y + 0.5) % 1.0) - 0.5) * height
    dx = (((grid_x - center_x + 0.5) % 1.0) - 0.5) * width
    radius = scene.radius * min(height, width)
    softness = scene.softness * max(height, width) / MODEL_SIDE
    coverage = np.empty((len(moments), height, width), dtype=np.float32)
    for frame, time in enumerate(moments):
        shape = scene.segments[scene.segment_index(float(time))].shape
        assert shape is not None, "an object scene has a shape in every segment"
        edge = shape_distance(shape, dy[frame][:, None], dx[frame][None, :], radius)
        coverage[frame] = np.clip(0.5 - edge / softness, 0.0, 1.0)
    return coverage


def _stretch(coarse: np.ndarray, height: int, width: int) -> FloatArray:
    """Bilinear stretch of (k, k, 3) to (height, width, 3)."""
    size = coarse.shape[0] - 1
    y = np.linspace(0, size, height)
    x = np.linspace(0, size, width)
    y0 = np.minimum(y.astype(int), size - 1)
    x0 = np.minimum(x.astype(int), size - 1)
    fy, fx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    rows = coarse[y0] * (1 - fy) + coarse[y0 + 1] * fy
    return np.asarray(rows[:, x0] * (1 - fx) + rows[:, x0 + 1] * fx, dtype=np.float32)


@lru_cache(maxsize=512)
def _word_mask(word: str, place: tuple[float, float, float], height: int, width: int) -> FloatArray:
    """Coverage (height, width) of a word, in PIL's built-in font so that no font file is needed."""
    image = Image.new("L", (width, height))
    size = max(9.0, place[2] * height * (1.0 if len(word) < 4 else 0.75))
    ImageDraw.Draw(image).text(
        (place[1] * width, place[0] * height),
        word,
        fill=255,
        font=ImageFont.load_default(size),
        anchor="mm",
    )
    return np.asarray(image, dtype=np.float32) / 255.0


def _card(segment: SceneSegment, height: int, width: int) -> FloatArray:
    card = np.broadcast_to(np.array(segment.rgb, dtype=np.float32), (height, width, 3))
    if not segment.word:
        return np.asarray(card)
    mask = _word_mask(segment.word, segment.word_place, height, width)[..., None]
    ink = np.array(segment.ink, dtype=np.float32)
    return np.asarray(card * (1 - mask) + ink * mask, dtype=np.float32)


@lru_cache(maxsize=1)
def _noise_pool() -> FloatArray:
    """Unit noise to cut pieces from: drawing fresh noise would dominate the rendering time."""
    return np.random.default_rng(20).standard_normal((1 << 20) + 4096, dtype=np.float32)


def _add_noise(frames: FloatArray, scene: Scene) -> None:
    """Add pixel noise and 8x8 block noise to float frames (T, H, W, 3), in place."""
    rng = np.random.default_rng(scene.seed)
    pool = _noise_pool()
    _, height, width, channels = frames.shape
    for frame in frames:
        if scene.noise > 0:
            offset = int(rng.integers(max(1, len(pool) - frame.size)))
            frame += scene.noise * np.resize(pool[offset : offset + frame.size], frame.shape)
        if scene.block_noise > 0:
            rows, columns = -(-height // 8), -(-width // 8)
            blocks = rng.standard_normal((rows, columns, channels), dtype=np.float32)
            tiled = blocks.repeat(8, axis=0).repeat(8, axis=1)
            frame += scene.block_noise * tiled[:height, :width]


def _blur(frames: FloatArray) -> FloatArray:
    """Three-tap smoothing along both sides of (T, H, W, 3)."""
    for axis in (1, 2):
        around = np.roll(frames, 1, axis) + np.roll(frames, -1, axis)
        frames = 0.5 * frames + 0.25 * around
    return frames


def render_frames(
    scene: Scene, times: Sequence[float] | np.ndarray, height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Draw the scene at T `times` (seconds), as RGB: uint8 (T, height, width, 3)."""
    moments = np.asarray(times, dtype=np.float64)
    indices = [scene.segment_index(float(time)) for time in moments]
    if scene.style == "card":
        cards = [_card(segment, height, width) for segment in scene.segments]
        frames = np.stack([cards[index] for index in indices])
    else:
        alpha = shape_coverage(scene, moments, height, width)[..., None]
        paint = np.array([scene.segments[index].rgb for index in indices], dtype=np.float32)
        background = _stretch(scene.texture, height, width)
        frames = background + alpha * (paint[:, None, None, :] - background)
    if scene.noise > 0 or scene.block_noise > 0:
        frames = np.array(frames, dtype=np.float32)
        _add_noise(frames, scene)
    if scene.blur:
        frames = _blur(frames)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)
