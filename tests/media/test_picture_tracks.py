"""Which of several pictures is the film: what a player shows, and `video_track`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from av.stream import Disposition

from seats_cli.errors import UsageError
from seats_cli.media import Clip, FrameSizing, read_clip
from seats_cli.media.inspection import outline_clip
from seats_cli.media.probe import probe
from tests.media.build import Picture, Sound, number_of, plain, steady, tone, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)


def cover(value: int = 250, size: int = 192, **options: object) -> Picture:
    """One frame, larger than the film."""
    return Picture([plain(value, size, size)], [0.0], "mjpeg", {}, "yuvj420p", **options)  # type: ignore[arg-type]


def shows_the_film(clip: Clip) -> bool:
    assert clip.frames is not None
    first, second = (number_of(frame) for frame in clip.frames[:2])
    return first == 0 and second in (15, 16)  # AVI's ticks shift a frame


def choices(clip: Clip) -> list[str]:
    return [w for w in clip.warnings if "`video_track`" in w]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.avi"])
@pytest.mark.parametrize("first", [True, False])
def test_one_frame_beside_a_film_is_its_cover(tmp_path: Path, name: str, first: bool) -> None:
    """As of programs that cannot mark a cover: larger than the film, before or behind it."""
    film = steady(50)
    film.codec, film.options = "mpeg4", {}
    picture, other = (cover(), film) if first else (film, cover())
    clip = read_clip(write(tmp_path / name, picture, [Sound(tone(2))], more=[other]), sizing=SMALL)
    assert shows_the_film(clip)
    assert clip.facts.video_tracks == 2
    assert clip.facts.video_track == int(first)
    assert len(choices(clip)) == 1
    used, left = ("track 1 (mpeg4, 96x64)", "track 0 (mjpeg, 192x192, a single frame: its cover)")
    if not first:
        used, left = used.replace("1", "0", 1), left.replace("0", "1", 1)
    assert used in choices(clip)[0]
    assert left in choices(clip)[0]
    assert not [w for w in clip.warnings if "picture ends" in w or "claims" in w]


def test_a_cover_can_be_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(50), [Sound(tone(2))], more=[cover(200)])
    clip = read_clip(path, sizing=SMALL, video_track=1)
    assert clip.frames is not None
    assert np.abs(clip.frames.astype(int) - 200).max() < 3
    assert (clip.facts.video_codec, clip.facts.video_track) == ("mjpeg", 1)
    assert not choices(clip)
    assert shows_the_film(read_clip(path, sizing=SMALL, video_track=0))
    assert not choices(read_clip(path, sizing=SMALL, video_track=0))
    with pytest.raises(UsageError, match=r"no video track 2: a\.mp4 has tracks 0 to 1"):
        read_clip(path, sizing=SMALL, video_track=2)
    assert not choices(read_clip(path, video=False, video_track=7))


def test_the_default_picture_is_the_one_marked_as_such(tmp_path: Path) -> None:
    """A film with a larger, unmarked picture for another purpose, say a screen recording."""
    large = Picture([plain(30, 192, 128)] * 50, [k / 25 for k in range(50)], disposition=0)
    film = steady(50, disposition=Disposition.default.value)
    clip = read_clip(write(tmp_path / "a.mkv", large, more=[film]), sizing=SMALL)
    assert shows_the_film(clip)
    assert clip.facts.video_track == 1
    assert "not track 0 (h264, 192x128)" in choices(clip)[0]


def test_without_marks_the_largest_is_used(tmp_path: Path) -> None:
    small = Picture([plain(30, 48, 32)] * 50, [k / 25 for k in range(50)])
    clip = read_clip(write(tmp_path / "a.ts", small, more=[steady(50)]), sizing=SMALL)
    assert shows_the_film(clip)
    assert clip.facts.video_track == 1


def test_a_single_picture_over_a_sound_is_no_cover(tmp_path: Path) -> None:
    """A song under a still: a player shows the still for as long as the song lasts."""
    path = write(tmp_path / "a.mp4", cover(), [Sound(tone(2))])
    assert read_clip(path, sizing=SMALL).frames is not None


def test_a_marked_cover_is_passed_over_silently(tmp_path: Path) -> None:
    art = cover(disposition=Disposition.attached_pic.value)
    path = write(tmp_path / "a.mp4", steady(50), [Sound(tone(2))], more=[art])
    assert probe(path).pictures[1].is_marked_cover
    clip = read_clip(path, sizing=SMALL)
    assert shows_the_film(clip)
    assert clip.warnings == ()


def test_art_of_a_sound_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    art = cover(200, disposition=Disposition.attached_pic.value)
    path = write(tmp_path / "a.mp4", sounds=[Sound(tone(2))], more=[art])
    assert read_clip(path, sizing=SMALL).frames is None
    clip = read_clip(path, sizing=SMALL, video_track=0)
    assert clip.frames is not None
    assert np.abs(clip.frames.astype(int) - 200).max() < 3


def test_a_plan_says_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(50), [Sound(tone(2))], more=[cover()])
    clip, outline = read_clip(path, sizing=SMALL), outline_clip(path, sizing=SMALL)
    assert outline.facts.width == clip.facts.width
    assert outline.facts.video_track == clip.facts.video_track == 0
    assert choices(clip)[0] in outline.warnings
    assert json.dumps(outline.facts.video_tracks) == "2"
