"""A talking head before a still wall, as an H.264 file with the noise of its compression.

    python -m tests.talking_head OUT.mp4 [--seconds 24] [--sway 0] [--size 640x360] [--crf 23]

The mouth moves all the time and the eyes blink; with `--sway` the whole head moves sideways by up
to so many pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seats_cli.world.clips import write_mp4

FPS = 25.0
RATE = 16_000
Frame = npt.NDArray[np.float32]


def _wall(height: int, width: int) -> Frame:
    """Soft light, a bookshelf on the left, a picture frame on the right; (H, W, 3)."""
    random = np.random.default_rng(7)
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    light = 150 + 40 * np.exp(-(((across / width - 0.6) ** 2 + (down / height - 0.3) ** 2) * 4))
    wall = light[..., None] * np.array([1.0, 0.95, 0.85], np.float32)
    x = int(0.03 * width)
    while x < 0.25 * width:
        thick = int(random.integers(6, 16))
        top = int(height * random.uniform(0.1, 0.25))
        wall[top : height // 2, x : x + thick] = random.uniform(30, 220, 3)
        x += thick + 1
    wall[height // 8 : height // 3, int(0.8 * width) : int(0.95 * width)] = (60, 40, 30)
    wall[height // 7 : height // 4, int(0.82 * width) : int(0.93 * width)] = (90, 140, 190)
    return wall


def _paint(
    frame: Frame, centre: tuple[float, float], radii: tuple[float, float], rgb: tuple[int, ...]
) -> None:
    """An ellipse with a soft edge, in place; centre and radii are (down, across) in pixels."""
    down, across = np.ogrid[0 : frame.shape[0], 0 : frame.shape[1]]
    reach = np.hypot((down - centre[0]) / radii[0], (across - centre[1]) / radii[1])
    alpha = np.clip((1 - reach) * min(radii), 0, 1)[..., None]
    frame += alpha.astype(np.float32) * (np.array(rgb, np.float32) - frame)


def draw(
    times: npt.NDArray[np.float64], height: int, width: int, sway: float = 0.0
) -> npt.NDArray[np.uint8]:
    """Frames at these seconds, uint8 (T, height, width, 3); `sway` in pixels."""
    wall = _wall(height, width)
    frames = np.empty((len(times), height, width, 3), np.uint8)
    for number, time in enumerate(times):
        frame = wall.copy()
        middle = 0.5 * width + sway * np.sin(2 * np.pi * time / 7)
        unit = height / 10
        _paint(frame, (9.5 * unit, middle), (3.2 * unit, 3.6 * unit), (50, 60, 110))  # shoulders
        _paint(frame, (4.5 * unit, middle), (2.4 * unit, 1.8 * unit), (215, 170, 140))
        _paint(frame, (2.9 * unit, middle), (1.1 * unit, 1.85 * unit), (70, 45, 30))  # hair
        lid = 0.05 if time % 3.1 < 0.2 else 0.22
        for side in (-1, 1):
            _paint(
                frame, (4.2 * unit, middle + side * 0.7 * unit), (lid * unit, 0.3 * unit), (40,) * 3
            )
        opening = 0.12 + 0.3 * abs(np.sin(7.3 * time)) * abs(np.sin(1.9 * time))
        _paint(frame, (5.8 * unit, middle), (opening * unit, 0.6 * unit), (120, 30, 40))
        frames[number] = np.clip(np.rint(frame), 0, 255)
    return frames


def voice(seconds: float) -> npt.NDArray[np.float32]:
    """Syllables of a low tone, float32 (n,)."""
    at = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 120 * k * at) / k for k in range(1, 8))
    loud = np.abs(np.sin(7.3 * at)) * np.abs(np.sin(1.9 * at))
    return (0.15 * loud * tone).astype(np.float32)


def write(
    path: str | Path,
    seconds: float = 24.0,
    *,
    sway: float = 0.0,
    size: tuple[int, int] = (640, 360),
    crf: int = 23,
) -> None:
    """Write the clip; `size` is (width, height)."""
    times = np.arange(round(seconds * FPS)) / FPS
    write_mp4(path, draw(times, size[1], size[0], sway), FPS, voice(seconds), RATE, crf=crf)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=24.0)
    parser.add_argument("--sway", type=float, default=0.0, help="pixels to either side")
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--crf", type=int, default=23, help="compression, larger is coarser")
    options = parser.parse_args()
    width, height = (int(part) for part in options.size.split("x"))
    write(options.out, options.seconds, sway=options.sway, size=(width, height), crf=options.crf)


if __name__ == "__main__":
    main()
