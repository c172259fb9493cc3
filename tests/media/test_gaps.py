"""Time stamps that leap: parts are joined, pictures and sound alike, and real pauses stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seats_cli.media import SAMPLE_RATE, FrameSizing, read_clip
from seats_cli.media.inspection import outline_clip
from seats_cli.media.timeline import find_gaps, find_pauses
from tests.media.build import Picture, Sound, click, number_of, numbered, plain, tone, write
from tests.media.test_alignment import check, flash

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)


def leaping(times: list[float]) -> Picture:
    return Picture([numbered(k) for k in range(len(times))], times)


def test_a_recording_strung_together(tmp_path: Path) -> None:
    """The clock leaps by a day in the middle; flash and click after it still coincide."""
    day = 86_400.0
    times = [k / 25 + (day if k >= 100 else 0) for k in range(200)]
    picture = flash(8, day + 6.0, times=times)
    sounds = Sound(np.concatenate([click(4, 9.0), click(4, 2.0)], axis=1))
    path = write(tmp_path / "a.mkv", picture, [sounds], leap=(4.0, day))
    clip = read_clip(path, sizing=SMALL)
    check(clip, 6.0)
    assert clip.audio_s == pytest.approx(8, abs=0.15)
    assert clip.frames is not None
    assert len(clip.frames) == 16
    assert [w for w in clip.warnings if "leap 1 time" in w]
    outline = outline_clip(path, sizing=SMALL)  # what `seats plan` counts with
    assert outline.facts.frames_used == 16
    assert outline.facts.audio_used_s == pytest.approx(clip.audio_s, abs=0.1)
    assert [w for w in outline.warnings if "leap 1 time" in w]


def test_one_wild_stamp(tmp_path: Path) -> None:
    """A frame that claims to be shown in a week is one frame, not a week."""
    path = write(tmp_path / "a.mkv", leaping([k / 25 for k in range(99)] + [604_800.0]))
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert [number_of(f) for f in clip.frames[:-1]] == pytest.approx(
        [k * 99 / 7 for k in range(7)], abs=1
    )
    assert clip.fps == pytest.approx(2.0, rel=0.01)


def test_a_picture_that_claims_to_start_a_month_after_the_sound(tmp_path: Path) -> None:
    month = 30 * 86_400.0
    times = [month + k / 25 for k in range(100)]
    path = write(tmp_path / "a.mkv", leaping(times), [Sound(tone(4))])
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert len(clip.frames) < 20
    assert {number_of(f) // 25 for f in clip.frames} == {0, 1, 2, 3}
    assert clip.audio_s == pytest.approx(4, abs=0.1)
    assert [w for w in clip.warnings if "leap 1 time" in w]


def test_slides_over_a_talk_are_not_a_gap(tmp_path: Path) -> None:
    times = [0.0, 50.0, 200.0, 245.0]
    path = write(tmp_path / "a.mkv", leaping(times), [Sound(tone(250, 300, 8_000), 8_000)])
    clip = read_clip(path, sizing=SMALL, fps=0.2)
    assert clip.frames is not None
    assert not [w for w in clip.warnings if "leap" in w]
    shown = [number_of(f) for f in clip.frames]
    assert [shown.count(k) for k in range(3)] == pytest.approx([10, 30, 9], abs=2)
    assert clip.audio_s == pytest.approx(250, abs=0.2)


def test_silent_slides_are_no_gap(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", leaping([0.0, 100.0, 250.0, 290.0]))
    clip = read_clip(path, sizing=SMALL, fps=0.1)
    assert clip.frames is not None
    assert not [w for w in clip.warnings if "leap" in w]
    assert {number_of(f) for f in clip.frames} == {0, 1, 2, 3}


def test_a_speaker_muted_for_long_stays_in_step(tmp_path: Path) -> None:
    """No sound packets for 100 s while the picture goes on."""
    picture = Picture([plain(90)] * 131, [float(k) for k in range(131)])
    sound = Sound(click(130, 125.0, 8_000), 8_000)
    path = write(tmp_path / "a.mkv", picture, [sound], drop_between=(10.0, 110.0))
    clip = read_clip(path, sizing=SMALL)
    assert clip.audio is not None
    assert not [w for w in clip.warnings if "leap" in w]
    loud = np.flatnonzero(np.abs(clip.audio) > 0.15)
    assert loud[0] / SAMPLE_RATE == pytest.approx(125.0, abs=0.05)


def test_sound_behind_the_range_stays_there(tmp_path: Path) -> None:
    picture = Picture([plain(90)] * 200, [float(k) for k in range(200)])
    sound = Sound(tone(20, 440, 8_000), 8_000, start_s=150.0)
    path = write(tmp_path / "a.mkv", picture, [sound])
    early = read_clip(path, sizing=SMALL, end=5.0)
    assert early.audio is None
    assert [w for w in early.warnings if "No sound can be read in this range" in w]
    late = read_clip(path, sizing=SMALL, start=140.0, end=160.0)
    assert late.audio_s == pytest.approx(20.0, abs=0.05)
    assert np.abs(late.audio[: 9 * SAMPLE_RATE]).max() == 0
    assert read_clip(path, sizing=SMALL, max_audio=5.0).audio is None


def test_sound_alone_is_not_padded_by_hours(tmp_path: Path) -> None:
    sound = Sound(np.concatenate([tone(2, 440, 8_000), tone(2, 440, 8_000)], axis=1), 8_000)
    path = write(tmp_path / "a.mkv", sounds=[sound], leap=(2.0, 5_940.0))
    clip = read_clip(path)
    assert clip.audio_s == pytest.approx(4, abs=0.3)
    assert [w for w in clip.warnings if "leap 1 time" in w]


def test_gaps_are_closed_to_a_frame() -> None:
    picture = np.concatenate([np.arange(100) / 25, 10_000 + np.arange(100) / 25, [90_000.0]])
    gaps = find_gaps(picture, None, 10.0)
    assert len(gaps) == 2
    closed = gaps.close(picture)
    assert np.all(np.diff(closed) > 0.03)
    assert closed[-1] == pytest.approx(200 / 25, abs=0.1)
    assert not len(find_gaps(np.arange(5.0), None, None))
    assert not len(find_gaps(np.zeros(1), None, None))


def test_what_is_a_gap_and_what_a_pause() -> None:
    """A pause of minutes is one, unless the format's clock may leap or the header denies it."""
    picture = np.concatenate([np.arange(100) / 25, 300 + np.arange(100) / 25])
    sound = np.concatenate([np.arange(200) / 50, 300 + np.arange(200) / 50])
    assert not len(find_gaps(picture, sound, 304.0))
    assert not len(find_gaps(picture, sound, None))
    assert find_pauses(picture, sound) == [(pytest.approx(3.98), 300.0)]
    assert len(find_gaps(picture, sound, 8.0)) == 1
    assert len(find_gaps(picture, sound, 304.0, clock_may_leap=True)) == 1
    slides = np.arange(10) * 20.0
    assert not len(find_gaps(slides, None, None, clock_may_leap=True))
