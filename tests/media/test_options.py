"""What to read: one set of options for every way in, and a header that is read once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seats_cli.errors import UsageError
from seats_cli.media import Clip, FrameSizing, ReadOptions, container, read_clip
from seats_cli.media.inspection import outline_clip
from seats_cli.media.probe import probe
from tests.media.build import Sound, steady, tone, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)


def facts(clip: Clip) -> tuple[object, ...]:
    return clip.facts, clip.warnings, clip.fps


def test_options_and_keywords_are_the_same_request(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(100), [Sound(tone(4))])
    options = ReadOptions(start=1, end=3, fps=4, max_frames=6, audio=False)
    clip = read_clip(path, options, sizing=SMALL)
    assert clip.facts.frames_used == 6
    keywords = read_clip(path, sizing=SMALL, start=1, end=3, fps=4, max_frames=6, audio=False)
    assert facts(clip) == facts(keywords)
    assert facts(read_clip(path, options, sizing=SMALL, max_frames=4)) == facts(
        read_clip(path, sizing=SMALL, start=1, end=3, fps=4, max_frames=4, audio=False)
    )


@pytest.mark.parametrize(
    "fields",
    [{"start": 2.0, "end": 1.0}, {"start": -1.0}, {"end": float("nan")}, {"max_audio": 0.0}],
)
def test_impossible_options(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        ReadOptions(**fields)  # type: ignore[arg-type]


def test_a_limit_on_pixels_is_below_the_models(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(30))
    clip = read_clip(path, sizing=SMALL, max_pixels=60 * 60)
    assert clip.facts.width is not None
    assert clip.facts.height is not None
    assert clip.facts.width * clip.facts.height <= 60 * 60
    assert ReadOptions(max_pixels=784).bound(FrameSizing()).min_pixels == 784
    assert ReadOptions().bound(SMALL) is SMALL
    with pytest.raises(UsageError, match="one token"):
        read_clip(path, sizing=SMALL, max_pixels=783)


def test_a_header_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", steady(50), [Sound(tone(2))])
    opened = []
    demuxer = container._demuxer

    def counting(file: object, name: str) -> object:
        opened.append(name)
        return demuxer(file, name)

    monkeypatch.setattr(container, "_demuxer", counting)
    source = probe(path)
    clip = read_clip(path, source=source, sizing=SMALL)
    assert opened == ["a.mp4"] * 4  # the header, the survey, the picture, the sound
    outline = outline_clip(path, source=source, sizing=SMALL)
    assert len(opened) == 4 + 1  # the first frame: the survey is known
    assert outline.facts.width == clip.facts.width


def test_data_about_media_needs_no_decoder() -> None:
    code = "import sys, seats_cli.media; assert not {'av', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
