"""Lengths that a header only estimates, or states wrongly: the packets tell the right one."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from seats_cli.errors import UsageError
from seats_cli.media import SAMPLE_RATE, FrameSizing, read_clip
from seats_cli.media.inspection import outline_clip
from tests.media.build import Picture, Sound, number_of, numbered, plain, steady, tone, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
RED, BLUE = (220, 20, 20), (20, 20, 220)


def noise(seconds: float, rate: int) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.uniform(-0.5, 0.5, (1, round(seconds * rate))).astype(np.float32)


def silence(seconds: float, rate: int) -> np.ndarray:
    return np.zeros((1, round(seconds * rate)), np.float32)


def loudness(path: Path, start: float, end: float) -> float:
    clip = read_clip(path, start=start, end=end)
    assert clip.audio is not None
    assert clip.audio_s == pytest.approx(end - start, abs=0.01)
    assert len(clip.warnings) == 1  # that there is no picture
    return float(np.sqrt((clip.audio**2).mean()))


@pytest.mark.parametrize("name", ["a.aac", "a.mp3"])
def test_a_byte_rate_is_no_length(tmp_path: Path, name: str) -> None:
    """Dense at first and sparse later: by its first bytes the file would be far shorter."""
    rate = 44_100
    samples = np.concatenate([noise(4, rate), silence(20, rate), tone(6, 440, rate)], axis=1)
    codec = "aac" if name == "a.aac" else "libmp3lame"
    options = {} if name == "a.aac" else {"q": "2", "compression_level": "7"}
    path = write(tmp_path / name, sounds=[Sound(samples, rate, codec=codec, options=options)])
    if name == "a.mp3":
        data = path.read_bytes()
        path.write_bytes(data.replace(b"Xing", bytes(4)).replace(b"Info", bytes(4)))
    assert loudness(path, 1, 3) > 0.1
    assert loudness(path, 15, 19) < 0.01
    assert loudness(path, 26, 29) > 0.2
    whole = read_clip(path)
    assert whole.facts.duration_s == pytest.approx(30, abs=0.15)
    assert outline_clip(path).facts.duration_s == whole.facts.duration_s
    assert len(whole.warnings) == 1
    with pytest.raises(UsageError, match=r"file's end \(30\."):
        read_clip(path, start=40)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_a_recorder_with_a_wrong_byte_rate(tmp_path: Path, factor: float) -> None:
    rate = 22_050
    samples = np.concatenate([silence(10, rate), noise(10, rate)], axis=1)
    path = write(tmp_path / "a.wav", sounds=[Sound(samples, rate, codec="adpcm_ima_wav")])
    data = bytearray(path.read_bytes())
    at = data.index(b"fmt ") + 16
    stated = int.from_bytes(data[at : at + 4], "little")
    data[at : at + 4] = round(stated * factor).to_bytes(4, "little")
    path.write_bytes(data)
    assert loudness(path, 7, 9.5) < 0.001
    assert loudness(path, 11, 19) > 0.2
    assert read_clip(path).facts.duration_s == pytest.approx(20, abs=0.15)


@pytest.mark.parametrize("claimed_s", [1.5, 60.0])
def test_a_stale_length(tmp_path: Path, claimed_s: float) -> None:
    """A Matroska file whose header was not brought up to date."""
    path = write(tmp_path / "a.mkv", steady(150), [Sound(tone(6))])
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3
    data[at : at + 8] = struct.pack(">d", claimed_s * 1000)
    path.write_bytes(data)
    clip = read_clip(path, sizing=SMALL, start=3.0, end=5.0, fps=25)
    assert clip.frames is not None
    assert [number_of(frame) for frame in clip.frames[:4]] == [75, 76, 77, 78]
    assert clip.warnings == ()
    whole = read_clip(path, sizing=SMALL)
    assert whole.facts.duration_s == pytest.approx(6.0, abs=0.05)
    assert not [w for w in whole.warnings if "can be read" in w]
    assert len([w for w in whole.warnings if "says that it lasts 60.00 s" in w]) == (claimed_s > 6)
    with pytest.raises(UsageError, match=r"file's end \(6\.0"):
        read_clip(path, start=8)


def test_a_file_that_is_cut_off_is_still_told_from_that(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", steady(150), [Sound(tone(6))])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    clip = read_clip(path, sizing=SMALL)
    assert [w for w in clip.warnings if "lasts 6.0" in w and "can be read" in w]


def test_an_avi_that_counts_wrongly(tmp_path: Path) -> None:
    picture = steady(150, codec="mpeg4", options={"g": "25"})
    picture.ticks = 25
    path = write(tmp_path / "a.avi", picture, [Sound(tone(6), codec="pcm_s16le")])
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"avih", 24), (b"strh", 40)):  # frames in all, length of the stream
        at = data.index(mark) + offset
        data[at : at + 4] = (9_000).to_bytes(4, "little")
    path.write_bytes(data)
    clip = read_clip(path, sizing=SMALL)
    assert clip.facts.duration_s == pytest.approx(6.0, abs=0.1)
    assert not [w for w in clip.warnings if "can be read" in w]
    with pytest.raises(UsageError, match="file's end"):
        read_clip(path, start=20)


def test_one_segment_of_a_stream(tmp_path: Path) -> None:
    """DASH: the index is that of the whole film, the file holds its third segment."""
    frames = [plain(c) for c in (BLUE, BLUE, RED) for _ in range(20)]
    options = {"qp": "12", "preset": "ultrafast", "g": "20"}
    picture = Picture(frames, [k / 10 for k in range(60)], options=options, rate=10)
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof+global_sidx"}
    data = write(tmp_path / "whole.mp4", picture, [], flags).read_bytes()
    parts = data.split(b"moof")
    head, last = parts[0][:-4], parts[3]
    path = tmp_path / "third.mp4"
    path.write_bytes(head + parts[2][-4:] + b"moof" + last)
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert np.abs(clip.frames.mean(axis=(0, 1, 2)) - RED).max() < 10
    assert clip.facts.duration_s == pytest.approx(2.0, abs=0.05)
    assert not [w for w in clip.warnings if "can be read" in w or "leap" in w]


@pytest.mark.parametrize("suffix", ["h264", "hevc"])
def test_a_stream_without_time_stamps(tmp_path: Path, suffix: str) -> None:
    """At the rate that the codec states, in ranges too."""
    codec, options = {
        "h264": ("libx264", {"qp": "12", "preset": "ultrafast", "x264-params": "force-cfr=1"}),
        "hevc": ("libx265", {"x265-params": "log-level=none", "preset": "ultrafast"}),
    }[suffix]
    frames = [plain(RED if k < 35 else BLUE) for k in range(60)]
    picture = Picture(frames, [k / 10 for k in range(60)], codec, options, rate=10, ticks=10)
    path = write(tmp_path / f"a.{suffix}", picture)
    clip = read_clip(path, sizing=SMALL, start=1.0, end=3.0)
    assert clip.frames is not None
    assert np.abs(clip.frames.mean(axis=(0, 1, 2)) - RED).max() < 10
    late = read_clip(path, sizing=SMALL, start=4.0, end=5.5)
    assert late.frames is not None
    assert np.abs(late.frames.mean(axis=(0, 1, 2)) - BLUE).max() < 10
    assert late.facts.duration_s == pytest.approx(6.0)


def test_a_camcorder_with_rare_keyframes(tmp_path: Path) -> None:
    """MPEG-PS is searched by time stamps alone: a landing may be in the middle of a group."""
    frames = [plain(RED if k < 200 else BLUE) for k in range(300)]
    picture = Picture(frames, [k / 25 for k in range(300)], "mpeg2video", {"g": "75", "bf": "2"})
    picture.ticks = 25
    path = write(tmp_path / "a.mpg", picture, [Sound(tone(12), codec="mp2")])
    for start, end in ((1.0, 3.0), (5.0, 7.0)):
        clip = read_clip(path, sizing=SMALL, start=start, end=end)
        assert clip.frames is not None
        assert np.abs(clip.frames.mean(axis=(0, 1, 2)) - RED).max() < 10
        assert clip.audio_s == pytest.approx(2.0, abs=0.01)
        assert clip.warnings == ()


def test_a_recorder_that_marks_every_frame_as_a_keyframe(tmp_path: Path) -> None:
    """Only the decoder tells that a landing is none; what is decoded for nothing is named."""
    options = {"qp": "12", "preset": "ultrafast", "g": "1000"}
    frames = [numbered(k) for k in range(450)]
    picture = Picture(frames, [k / 5 for k in range(450)], options=options)
    path = write(tmp_path / "a.mp4", picture, [Sound(tone(90, 440, 8_000), 8_000)])
    path.write_bytes(path.read_bytes().replace(b"stss", b"free"))
    clip = read_clip(path, sizing=SMALL, start=80.0, end=82.0, fps=5)
    assert clip.frames is not None
    assert {number_of(frame) for frame in clip.frames} <= set(range(400, 411))
    assert [w for w in clip.warnings if "the 80 s before it were decoded too" in w]
    early = read_clip(path, sizing=SMALL, start=30.0, end=32.0, fps=5)
    assert early.warnings == ()
    assert early.audio_s == pytest.approx(2.0, abs=1 / SAMPLE_RATE)
