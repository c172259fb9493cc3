"""Picture and sound stay together: a white flash and a click at the same instant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seats_cli.media import SAMPLE_RATE, Clip, FrameSizing, read_clip
from tests.media.build import Picture, Sound, click, plain, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
FPS = 25


def flash(
    seconds: float, at_s: float, starts_s: float = 0.0, times: list[float] | None = None
) -> Picture:
    """Black, and white for 0.6 s from `at_s` (on the common clock)."""
    times = times or [starts_s + k / FPS for k in range(round(seconds * FPS))]
    frames = [plain(235 if at_s <= t + 1e-6 < at_s + 0.6 else 16) for t in times]
    return Picture(frames, times)


def flash_and_click(clip: Clip) -> tuple[float, float]:
    """When the model sees the flash (frame k is at k / fps) and hears the click, in seconds."""
    assert clip.frames is not None
    assert clip.audio is not None
    assert clip.fps is not None
    white = np.flatnonzero(clip.frames.mean(axis=(1, 2, 3)) > 120)
    loud = np.flatnonzero(np.abs(clip.audio) > 0.15)
    assert len(white)
    assert len(loud)
    return white[0] / clip.fps, loud[0] / SAMPLE_RATE


def check(clip: Clip, expected_s: float) -> None:
    flash_s, click_s = flash_and_click(clip)
    assert clip.fps is not None
    assert click_s == pytest.approx(expected_s, abs=0.03)
    # To within one sampled frame, so that both fall into one window.
    assert abs(flash_s - click_s) <= 1 / clip.fps


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("offset", [0.0, 10.0, 59_857.0])
def test_offsets(tmp_path: Path, name: str, offset: float) -> None:
    if name == "a.ts" and offset > 26 * 3600:
        pytest.skip("beyond the 33 bit clock of MPEG-TS")
    sound = Sound(click(8, 4.0), start_s=offset)
    path = write(tmp_path / name, flash(8, offset + 4.0, offset), [sound])
    clip = read_clip(path, sizing=SMALL)
    check(clip, 4.0)
    assert clip.warnings == ()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_that_starts_late(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, flash(8, 5.0), [Sound(click(5, 2.0), start_s=3.0)])
    clip = read_clip(path, sizing=SMALL)
    check(clip, 5.0)
    assert [w for w in clip.warnings if "sound starts" in w]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_picture_that_starts_late(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, flash(5, 5.0, 3.0), [Sound(click(8, 5.0))])
    clip = read_clip(path, sizing=SMALL)
    check(clip, 5.0)
    assert [w for w in clip.warnings if "picture starts" in w]


@pytest.mark.parametrize("at_s", [1.0, 3.0, 6.4])
def test_variable_rate(tmp_path: Path, at_s: float) -> None:
    times = [k / 25 for k in range(50)] + [2 + k / 2 for k in range(8)]
    times += [6 + k / 25 for k in range(50)]
    path = write(tmp_path / "a.mkv", flash(8, at_s, times=times), [Sound(click(8, at_s))])
    check(read_clip(path, sizing=SMALL), at_s)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("start", [0.5, 2.2, 3.96])
def test_ranges(tmp_path: Path, name: str, start: float) -> None:
    path = write(tmp_path / name, flash(10, 6.0), [Sound(click(10, 6.0))])
    check(read_clip(path, sizing=SMALL, start=start, end=9.0), 6.0 - start)


@pytest.mark.parametrize("fps", [0.5, 1.0, 4.0])
def test_other_rates(tmp_path: Path, fps: float) -> None:
    path = write(tmp_path / "a.mp4", flash(12, 6.0), [Sound(click(12, 6.0))])
    clip = read_clip(path, sizing=SMALL, fps=fps)
    if fps >= 2:
        check(clip, 6.0)
    assert clip.fps == pytest.approx(fps)
