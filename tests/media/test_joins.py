"""Files of several parts, whose clocks start again: one timeline, and nothing of them is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seats_cli.errors import UsageError
from seats_cli.media import SAMPLE_RATE, Clip, FrameSizing, read_clip
from seats_cli.media.inspection import outline_clip
from tests.media.build import (
    Picture,
    Sound,
    click,
    number_of,
    numbered,
    plain,
    string_together,
    write,
)

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
FPS = 25
X264 = {"qp": "12", "preset": "fast", "x264-params": "keyint=25:bframes=3:b-adapt=0"}
MPEG = {"g": "12", "bf": "2"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
# Codecs of picture and sound, what they need, and the container's options.
KINDS: dict[str, tuple[str, dict[str, str], str, dict[str, str]]] = {
    "a.ts": ("libx264", X264, "aac", {}),
    "a.webm": ("libvpx", {"deadline": "realtime", "g": "25"}, "libopus", {}),
    "a.mkv": ("libx264", X264, "aac", {}),
    "live.mkv": ("libx264", X264, "aac", {"live": "1"}),
    "a.mp4": ("libx264", X264, "aac", FRAGMENTS),
    "a.vob": ("mpeg2video", MPEG, "ac3", {}),
    "a.flv": ("flv", {"g": "25"}, "aac", {}),
    "a.ogg": ("", {}, "libopus", {}),
}


def part(path: Path, kind: str, seconds: float, first: int, click_at: float | None) -> Path:
    """A file of numbered frames from `first` on, white at the time of a click in its sound."""
    codec, options, sound, muxer = KINDS[kind]
    count = round(seconds * FPS)
    picture = None
    if codec:
        frames = [numbered(first + k) for k in range(count)]
        if click_at is not None:
            at = round(click_at * FPS)
            frames[at : at + 5] = [plain(255)] * 5
        ticks = FPS if codec.startswith("mpeg") else 60_000
        picture = Picture(frames, [k / FPS for k in range(count)], codec, options)
        picture.ticks = ticks
    wave = click(seconds, -1.0 if click_at is None else click_at)
    return write(path, picture, [Sound(wave, codec=sound)] if sound else [], muxer)


def strung(tmp_path: Path, kind: str, lengths: list[float], clicks: list[float | None]) -> Path:
    """A file of parts, each of which starts its clock anew."""
    suffix = Path(kind).suffix
    parts, first = [], 0
    for k, (seconds, at) in enumerate(zip(lengths, clicks, strict=True)):
        parts.append(part(tmp_path / f"part{k}{suffix}", kind, seconds, first, at))
        first += round(seconds * FPS)
    return string_together(tmp_path / f"all{suffix}", *parts)


def flashes_and_clicks(clip: Clip) -> list[tuple[float, float]]:
    """When each white frame appears and each click is heard, in seconds from the start."""
    assert clip.frames is not None
    assert clip.frame_times is not None
    assert clip.audio is not None
    white = clip.frame_times[clip.frames.mean(axis=(1, 2, 3)) > 235]
    loud = np.flatnonzero(np.abs(clip.audio) > 0.2) / SAMPLE_RATE
    flashes = white[np.diff(white, prepend=-9.0) > 0.6]
    clicks = loud[np.diff(loud, prepend=-9.0) > 0.6]
    return list(zip(flashes.tolist(), clicks.tolist(), strict=True))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a.ogg"])
def test_parts_that_start_again(tmp_path: Path, kind: str) -> None:
    """Every frame and every second of three parts; picture and sound together at both seams."""
    path = strung(tmp_path, kind, [2.0, 3.0, 2.0], [1.6, 0.4, 0.2])
    clip = read_clip(path, sizing=SMALL, fps=FPS)
    assert clip.frames is not None
    dark = clip.frames[clip.frames.mean(axis=(1, 2, 3)) < 235]
    seen = {number_of(frame) for frame in dark}
    assert len(seen) >= 0.96 * (7 * FPS - 15)
    assert clip.audio_s == pytest.approx(7.0, abs=0.3)
    together = flashes_and_clicks(clip)
    assert [click_s for _, click_s in together] == pytest.approx([1.6, 2.4, 5.2], abs=0.3)
    for flash_s, click_s in together:
        assert abs(flash_s - click_s) <= 1.5 / FPS
    assert len([w for w in clip.warnings if "start again 2 times" in w]) == 1
    assert not [w for w in clip.warnings if "may not match" in w or "ends at" in w]
    # What is planned and shown has the same times.
    outline = outline_clip(path, sizing=SMALL, fps=FPS)
    assert outline.facts.duration_s == clip.facts.duration_s == pytest.approx(7.0, abs=0.3)
    assert outline.facts.frames_used == clip.facts.frames_used
    assert outline.facts.audio_used_s == pytest.approx(clip.facts.audio_used_s, abs=0.1)
    assert [w for w in outline.warnings if "start again 2 times" in w]
    # Ranges count on that timeline.
    late = read_clip(path, sizing=SMALL, fps=FPS, start=4.5, end=6.5)
    assert late.audio is not None
    begin = round(4.5 * SAMPLE_RATE)
    assert np.array_equal(late.audio, clip.audio[begin : begin + len(late.audio)])
    ((flash_s, click_s),) = flashes_and_clicks(late)
    assert click_s + 4.5 == pytest.approx(together[2][1], abs=0.001)
    assert abs(flash_s - click_s) <= 1.5 / FPS
    with pytest.raises(UsageError, match="file's end"):
        read_clip(path, sizing=SMALL, start=12.0)


@pytest.mark.parametrize("kind", ["a.ts", "a.webm", "a.mp4", "a.ogg"])
@pytest.mark.parametrize("only", ["picture", "sound"])
def test_one_track_alone(tmp_path: Path, kind: str, only: str) -> None:
    codec, options, sound, muxer = KINDS[kind]
    if only == "picture" and not codec:
        pytest.skip("sound only")
    parts = []
    for k in range(3):
        frames = [numbered(50 * k + j) for j in range(50)]
        picture = Picture(frames, [j / FPS for j in range(50)], codec, options)
        wave = Sound(click(2.0, 0.5 + 0.5 * k), codec=sound)
        name = tmp_path / f"part{k}{Path(kind).suffix}"
        found = picture if only == "picture" else None
        parts.append(write(name, found, [wave] if only == "sound" else [], muxer))
    path = string_together(tmp_path / kind, *parts)
    clip = read_clip(path, sizing=SMALL, fps=FPS)
    assert clip.facts.duration_s == pytest.approx(6.0, abs=0.2)
    assert [w for w in clip.warnings if "start again 2 times" in w]
    if only == "picture":
        assert clip.frames is not None
        assert len({number_of(frame) for frame in clip.frames}) >= 147
    else:
        assert clip.audio is not None
        loud = np.flatnonzero(np.abs(clip.audio) > 0.2) / SAMPLE_RATE
        clicks = loud[np.diff(loud, prepend=-9.0) > 0.5]
        assert clicks == pytest.approx([0.5, 3.0, 5.5], abs=0.15)


def test_a_part_without_sound(tmp_path: Path) -> None:
    """The sound of the third part stays with its picture, though the second has none."""
    codec, options, *_ = KINDS["a.ts"]
    silent = Picture([numbered(75 + k) for k in range(75)], [k / FPS for k in range(75)])
    silent.codec, silent.options = codec, options
    first = part(tmp_path / "1.ts", "a.ts", 3.0, 0, 1.0)
    second = write(tmp_path / "2.ts", silent)
    third = part(tmp_path / "3.ts", "a.ts", 3.0, 150, 1.0)
    path = string_together(tmp_path / "all.ts", first, second, third)
    clip = read_clip(path, sizing=SMALL, fps=FPS)
    together = flashes_and_clicks(clip)
    assert [flash_s for flash_s, _ in together] == pytest.approx([1.0, 7.0], abs=0.2)
    for flash_s, click_s in together:
        assert abs(flash_s - click_s) <= 1.5 / FPS


@pytest.mark.parametrize("gap_s", [20.0, 3_000.0])
def test_a_clock_that_leaps_ahead(tmp_path: Path, gap_s: float) -> None:
    """MPEG-TS: the second recording has later time stamps, as of the same receiver."""
    codec, options, sound, _ = KINDS["a.ts"]
    parts = []
    for k, offset in enumerate([0.0, gap_s]):
        frames = [plain(255 if 50 <= j < 55 else 60) for j in range(100)]
        times = [offset + j / FPS for j in range(100)]
        picture = Picture(frames, times, codec, options)
        wave = Sound(click(4.0, 2.0), codec=sound, start_s=offset)
        parts.append(write(tmp_path / f"{k}.ts", picture, [wave]))
    path = string_together(tmp_path / "all.ts", *parts)
    clip = read_clip(path, sizing=SMALL, fps=FPS)
    assert clip.facts.duration_s == pytest.approx(8.0, abs=0.3)
    assert [w for w in clip.warnings if "leap 1 time" in w]
    together = flashes_and_clicks(clip)
    assert len(together) == 2
    for flash_s, click_s in together:
        assert abs(flash_s - click_s) <= 1.5 / FPS


def test_the_clock_of_mpeg_wraps(tmp_path: Path) -> None:
    """33 bits at 90 kHz last for 26.5 hours; a recording across that instant goes on."""
    wrap = 2**33 / 90_000
    codec, options, sound, _ = KINDS["a.ts"]
    times = [wrap - 5.0 + k / FPS for k in range(200)]
    frames = [plain(255 if 150 <= k < 155 else 60) for k in range(200)]
    wave = Sound(click(8.0, 6.0), codec=sound, start_s=wrap - 5.0)
    path = write(tmp_path / "a.ts", Picture(frames, times, codec, options), [wave])
    clip = read_clip(path, sizing=SMALL, fps=FPS)
    assert clip.facts.duration_s == pytest.approx(8.0, abs=0.2)
    assert not [w for w in clip.warnings if "joined" in w]
    ((flash_s, click_s),) = flashes_and_clicks(clip)
    assert click_s == pytest.approx(6.0, abs=0.1)
    assert abs(flash_s - click_s) <= 1.5 / FPS


def test_a_pause_of_minutes_stays(tmp_path: Path) -> None:
    """A recorder that was paused: players show the pause, and times count with it."""
    times = [k / FPS for k in range(100)] + [100 + k / FPS for k in range(100)]
    picture = Picture([numbered(k) for k in range(200)], times)
    sound = Sound(np.concatenate([click(4, 1.0), click(4, 1.0)], axis=1))
    path = write(tmp_path / "a.mkv", picture, [sound], leap=(4.0, 96.0))
    clip = read_clip(path, sizing=SMALL, start=100.0, end=103.0, fps=FPS)
    assert clip.frames is not None
    seen = [number_of(frame) for frame in clip.frames]
    assert seen[0] == 100
    assert len(set(seen)) >= 74
    whole = read_clip(path, sizing=SMALL)
    assert whole.facts.duration_s == pytest.approx(104.0, abs=0.1)
    assert whole.audio_s == pytest.approx(104.0, abs=0.2)
    assert [w for w in whole.warnings if "neither picture nor sound" in w]


def test_a_part_with_other_tracks_is_not_lost_silently(tmp_path: Path) -> None:
    """MPEG-TS of another recorder: its packets carry other numbers, far behind the header."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 240, 320, 3), np.uint8)
    options = {"qp": "1", "preset": "ultrafast"}
    parts = []
    for k, (frames, first) in enumerate([(noise, "0x100"), (noise[:30], "0x200")]):
        picture = Picture(list(frames), [j / FPS for j in range(len(frames))], options=options)
        parts.append(write(tmp_path / f"{k}.ts", picture, [], {"mpegts_start_pid": first}))
    assert parts[0].stat().st_size > 6_000_000  # FFmpeg looks for tracks in the first 5 MB
    clip = read_clip(string_together(tmp_path / "all.ts", *parts), sizing=SMALL)
    assert clip.facts.duration_s == pytest.approx(90 / FPS, abs=0.1)
    assert [w for w in clip.warnings if "About 25% of the file" in w]


@pytest.mark.parametrize("suffix", ["mp4", "wav"])
def test_a_second_file_that_players_do_not_read(tmp_path: Path, suffix: str) -> None:
    picture = Picture([plain(90)] * 50, [k / FPS for k in range(50)]) if suffix == "mp4" else None
    sound = Sound(click(2.0, 1.0), codec="aac" if suffix == "mp4" else "pcm_s16le")
    one = write(tmp_path / f"one.{suffix}", picture, [sound])
    path = string_together(tmp_path / f"two.{suffix}", one, one)
    clip = read_clip(path, sizing=SMALL)
    assert clip.facts.duration_s == pytest.approx(2.0, abs=0.1)
    second = f"A second file begins at byte {one.stat().st_size:,}"
    assert [w for w in clip.warnings if w.startswith(second)]
    assert not [w for w in read_clip(one, sizing=SMALL).warnings if "second file" in w]
