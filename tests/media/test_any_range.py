"""Any range of files with irregular clocks equals the same range of the whole file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seats_cli.media import SAMPLE_RATE, Clip, FrameSizing, read_clip
from tests.media.build import Picture, Sound, number_of, numbered, string_together, sweep, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
FPS = 25
X264 = {"qp": "12", "preset": "fast", "x264-params": "keyint=40:bframes=3:b-adapt=0:open-gop=1"}
STEADY = [k / FPS for k in range(76)]
# Frame rate that changes, and a still for a while.
VARIABLE = [k / 25 for k in range(40)] + [1.6 + k / 8 for k in range(16)] + [5.0, 5.02, 5.5, 5.9]


def files(folder: Path) -> dict[str, Path]:
    """Files whose clocks start again, leap, change their rate, or begin late or below zero."""

    def one(name: str, times: list[float], first: int, start_s: float = 0.0, **more: str) -> Path:
        frames = [numbered(first + k) for k in range(len(times))]
        codec, options, sound = {
            ".mpg": ("mpeg2video", {"g": "24", "bf": "2"}, "mp2"),
            ".webm": ("libvpx", {"deadline": "realtime", "g": "40"}, "libopus"),
        }.get(Path(name).suffix, ("libx264", X264, "aac"))
        picture = Picture(frames, times, codec, options)
        picture.ticks = FPS if codec == "mpeg2video" else picture.ticks
        wave = Sound(sweep(times[-1] - times[0] + 0.1), codec=sound, start_s=start_s)
        return write(folder / name, picture, [wave], more)

    joined = {
        f"joined.{suffix}": string_together(
            folder / f"joined.{suffix}",
            *(one(f"{k}.{suffix}", STEADY, 76 * k) for k in range(2)),
        )
        for suffix in ("ts", "mpg", "webm")
    }
    later = [20 + t for t in STEADY]
    leaping = [one("first.ts", STEADY, 0), one("later.ts", later, 76, 20.0)]
    return {
        **joined,
        "leaping.ts": string_together(folder / "leaping.ts", *leaping),
        "variable.mkv": one("variable.mkv", VARIABLE, 0),
        "variable.mp4": one("variable.mp4", VARIABLE, 0),
        "late.mkv": one("late.mkv", [t + 100.5 for t in STEADY], 0, 100.0),
        "below.mkv": one("below.mkv", [t - 0.5 for t in STEADY], 0, -0.5),
        "below.mp4": one("below.mp4", [t - 0.5 for t in STEADY], 0, -0.5),
    }


NAMES = (
    *("joined.ts", "joined.mpg", "joined.webm", "leaping.ts", "variable.mkv", "variable.mp4"),
    *("late.mkv", "below.mkv", "below.mp4"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Clip]]:
    """Each file, and all of it."""
    paths = files(tmp_path_factory.mktemp("clocks"))
    return cache(lambda name: (paths[name], read_clip(paths[name], sizing=SMALL, fps=50)))


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(start=st.floats(0, 1), length=st.floats(0.2, 3))
def test_any_range(
    made: Callable[[str], tuple[Path, Clip]], name: str, start: float, length: float
) -> None:
    path, whole = made(name)
    assert whole.facts.duration_s is not None
    begin = start * (whole.facts.duration_s - 0.5)
    end = min(begin + length, whole.facts.duration_s)
    part = read_clip(path, sizing=SMALL, fps=FPS, start=begin, end=end)
    assert part.frames is not None
    assert part.frame_times is not None
    assert whole.frames is not None
    assert whole.frame_times is not None
    assert part.audio is not None
    assert whole.audio is not None
    # 1. At each instant, the frame that the whole file shows there or one next to it.
    shown = [number_of(frame) for frame in whole.frames]
    for instant, frame in zip(part.frame_times + begin, part.frames, strict=True):
        near = np.abs(whole.frame_times - instant) <= 0.03
        near[max(int(np.searchsorted(whole.frame_times, instant, "right")) - 1, 0)] = True
        # An odd number of frames loses one in the whole, because a temporal patch has two.
        number = number_of(frame)
        assert number in {shown[k] for k in np.flatnonzero(near)} or number not in shown
    # 2. The same samples.
    first = round(begin * SAMPLE_RATE)
    expected = whole.audio[first : first + len(part.audio)]
    assert np.array_equal(part.audio[: len(expected)], expected)
    assert len(part.audio) - len(expected) <= 1
    assert not [w for w in part.warnings if "amaged" in w or "decoded" in w]
