"""The outline of a file says what reading it gives; synthetic clips look like files."""

from __future__ import annotations

from pathlib import Path

import pytest

from seats_cli.errors import MediaError, UsageError
from seats_cli.families.base import FrameSizing
from seats_cli.media.inspection import outline_clip
from seats_cli.media.reader import read_clip
from seats_cli.media.synthetic_clip import synthetic_clip
from tests.media.build import Sound, steady, tone, turn, write

ASSETS = sorted(
    path
    for path in (Path(__file__).parents[2] / "assets").iterdir()
    if path.suffix in (".mp4", ".wav")
)
SMALL = FrameSizing(28, 56 * 56, 112 * 112, None)


def compare(path: Path, **options: object) -> None:
    outline = outline_clip(path, sizing=SMALL, **options)  # type: ignore[arg-type]
    clip = read_clip(path, sizing=SMALL, **options)  # type: ignore[arg-type]
    assert outline.fps == clip.fps
    for name in ("frames_used", "width", "height", "audio_codec", "audio_track", "rotation_deg"):
        assert getattr(outline.facts, name) == getattr(clip.facts, name), name
    assert outline.facts.audio_used_s == pytest.approx(clip.facts.audio_used_s, abs=0.1)


@pytest.mark.parametrize("path", ASSETS, ids=lambda path: path.name)
def test_outline_of_the_sample_clips(path: Path) -> None:
    compare(path)


@pytest.mark.parametrize(
    "options",
    [{"start": 2.0, "end": 7.5}, {"max_frames": 6}, {"fps": 0.5}, {"audio": False}],
    ids=lambda options: "-".join(options),
)
def test_outline_with_options(options: dict[str, object]) -> None:
    compare(next(path for path in ASSETS if path.name.startswith("cards")), **options)


def test_phone_video_is_upright(tmp_path: Path) -> None:
    flat = write(tmp_path / "flat.mp4", steady(30), [Sound(tone(1.2))])
    compare(turn(flat, tmp_path / "turned.mp4", 90))


def test_a_lower_rate_causes_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(100))
    warnings = outline_clip(path, fps=4.0, max_frames=4).warnings
    assert any("`max_frames`" in sentence for sentence in warnings)
    assert any("sound" in sentence for sentence in warnings)
    assert not any("`max_frames`" in s for s in outline_clip(path, fps=4.0).warnings)


def test_refusals(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(10))
    with pytest.raises(UsageError, match="track 3"):
        outline_clip(path, audio_track=3)
    (tmp_path / "b.mp4").write_bytes(b"nothing")
    with pytest.raises(MediaError):
        outline_clip(tmp_path / "b.mp4")


def test_synthetic_clip() -> None:
    clip = synthetic_clip(8.0, sizing=SMALL)
    assert clip.frames is not None
    assert clip.frames.shape[:1] == (16,)
    assert clip.fps == pytest.approx(2.0)
    assert clip.audio_s == 8.0
    assert clip.facts.width == clip.frames.shape[2]
    assert clip.frames.std() > 20
    silent = synthetic_clip(1.0, sizing=SMALL, audio=False)
    assert silent.audio is None
    with pytest.raises(UsageError):
        synthetic_clip(0.0)
