"""A picture whose size changes in mid-stream: nothing is squeezed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from seats_cli.media import Clip, FrameSizing, read_clip
from seats_cli.media.inspection import outline_clip
from tests.media.build import Picture, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)


def disc(width: int, height: int) -> np.ndarray:
    """A white disc on grey that touches the two sides that are nearer to each other."""
    rows, columns = np.mgrid[:height, :width]
    radius = min(width, height) / 2
    inside = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2) < radius
    return np.repeat(np.where(inside, 250, 90)[..., None], 3, axis=2).astype(np.uint8)


def strung(folder: Path, sizes: Sequence[tuple[int, int]], seconds: float = 2.0) -> Path:
    """An MPEG-TS of parts of these sizes (width, height), as a phone's that is turned."""
    count = round(seconds * 25)
    parts = []
    for number, size in enumerate(sizes):
        times = [(number * count + k) / 25 for k in range(count)]
        picture = Picture([disc(*size)] * count, times)
        parts.append(write(folder / f"{number}.ts", picture).read_bytes())
    path = folder / "a.ts"
    path.write_bytes(b"".join(parts))
    return path


def roundness(frame: np.ndarray) -> float:
    """Width of the disc over its height."""
    white = frame.mean(axis=2) > 170
    return float(white.any(axis=0).sum() / white.any(axis=1).sum())


def changes(clip: Clip) -> list[str]:
    return [w for w in clip.warnings if "size changes" in w]


@pytest.mark.parametrize(
    ("sizes", "planned"),
    [
        ([(160, 120), (120, 160)], (84, 112)),
        ([(120, 160), (160, 120)], (112, 84)),
        ([(80, 60), (120, 160), (160, 120)], (112, 84)),
        ([(64, 64), (160, 120)], (84, 112)),
    ],
)
def test_no_part_is_squeezed(
    tmp_path: Path, sizes: list[tuple[int, int]], planned: tuple[int, int]
) -> None:
    path = strung(tmp_path, sizes)
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert clip.frames.shape[1:3] == planned
    for frame in clip.frames:
        assert roundness(frame) == pytest.approx(1, abs=0.06)
    assert len(changes(clip)) == 1
    assert "black bars" in changes(clip)[0]
    for width, height in sizes:
        assert f"{width}x{height}" in changes(clip)[0]
    outline = outline_clip(path, sizing=SMALL)
    assert (outline.facts.height, outline.facts.width) == planned
    assert [w for w in outline.warnings if "size changes" in w] == changes(clip)


def test_bars_are_black_and_the_picture_stands_in_the_middle(tmp_path: Path) -> None:
    clip = read_clip(strung(tmp_path, [(160, 120), (120, 160)]), sizing=SMALL)
    assert clip.frames is not None
    first, last = clip.frames[0], clip.frames[-1]
    assert first.min() > 60
    width = round(112 * (120 / 160) ** 2)
    left = (112 - width) // 2
    assert last[:, :left].max() == 0
    assert last[:, left + width :].max() == 0
    assert last[:, left : left + width].min() > 60


def test_another_resolution_of_the_same_shape_fills_the_frame(tmp_path: Path) -> None:
    """Adaptive streaming: it begins with the small one, and is as sharp as the large one."""
    clip = read_clip(strung(tmp_path, [(80, 60), (320, 240)]), sizing=SMALL)
    assert clip.frames is not None
    assert clip.frames.min() > 60
    assert (clip.facts.source_width, clip.facts.source_height) == (320, 240)
    assert len(changes(clip)) == 1
    assert "black bars" not in changes(clip)[0]


def test_a_range_of_one_size_needs_no_word(tmp_path: Path) -> None:
    path = strung(tmp_path, [(160, 120), (120, 160)])
    clip = read_clip(path, sizing=SMALL, end=1.5)
    assert not changes(clip)
    assert clip.facts.source_width == 160
