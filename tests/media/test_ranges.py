"""A range read alone is what reading the whole file gives there, in every container and codec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from seats_cli.media import SAMPLE_RATE, Clip, FrameSizing, read_clip
from seats_cli.media import audio as sound_module
from seats_cli.media import survey as survey_module
from tests.media.build import Picture, Sound, number_of, numbered, sweep, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
SECONDS, FPS = 6, 25
MPEG = {"g": "12", "bf": "2"}
X264 = {"qp": "12", "preset": "ultrafast", "g": "25"}
OPEN = {"qp": "12", "preset": "fast", "x264-params": "keyint=25:open-gop=1:bframes=3:b-adapt=0"}
X265 = {"x265-params": "log-level=none:keyint=25:open-gop=1:bframes=3", "preset": "ultrafast"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}


@dataclass(frozen=True)
class Kind:
    """How a file is made: codecs of picture and sound, and what they need."""

    picture: str | None = None
    options: dict[str, str] = field(default_factory=dict, hash=False)
    sound: str | None = None
    rate: int = 48_000
    muxer: dict[str, str] = field(default_factory=dict, hash=False)
    pix_fmt: str = "yuv420p"
    ticks: int = 60_000
    size: tuple[int, int] = (96, 64)
    bit_rate: dict[str, str] = field(default_factory=dict, hash=False)
    change: Callable[[bytes], bytes] | None = None


def no_keyframe_list(data: bytes) -> bytes:
    """As cheap recorders write it: without the list of keyframes, all count as such."""
    return data.replace(b"stss", b"free")


def no_frame_count(data: bytes) -> bytes:
    """An MP3 of variable bit rate without the frame that counts the others."""
    at = data.index(b"Xing") if b"Xing" in data else data.index(b"Info")
    return data[:at] + bytes(4) + data[at + 4 :]


def wrong_byte_rate(data: bytes) -> bytes:
    """A WAV whose header gives four times its bytes per second."""
    at = data.index(b"fmt ") + 16
    return (
        data[:at]
        + (4 * int.from_bytes(data[at : at + 4], "little")).to_bytes(4, "little")
        + (data[at + 4 :])
    )


def no_index(data: bytes) -> bytes:
    """An AVI that was never closed: its index is not there."""
    return data.replace(b"idx1", b"JUNK")


KINDS = {
    "a.mp4": Kind("libx264", X264, "aac"),
    "open_groups.mp4": Kind("libx264", OPEN, "aac"),
    "recorder.mp4": Kind("libx264", X264, "aac", change=no_keyframe_list),
    "fragments.mp4": Kind("libx264", X264, "aac", muxer=FRAGMENTS),
    "hevc.mp4": Kind("libx265", X265, "aac"),
    "a.mov": Kind("prores_ks", {}, "pcm_s16le", pix_fmt="yuv422p10le"),
    "a.mkv": Kind("libx264", OPEN, "aac"),
    "live.mkv": Kind("libx264", X264, "libopus", muxer={"live": "1"}),
    "a.webm": Kind("libvpx", {"deadline": "realtime", "g": "25"}, "libopus"),
    "a.ts": Kind("libx264", OPEN, "aac"),
    "hevc.ts": Kind("libx265", X265, "aac"),
    "a.mpg": Kind("mpeg2video", MPEG, "mp2", ticks=25),
    "a.vob": Kind("mpeg2video", MPEG, "ac3", ticks=25),
    "mpeg1.mpg": Kind("mpeg1video", MPEG, "mp2", ticks=25),
    "a.avi": Kind("mpeg4", {"g": "25"}, "libmp3lame", 44_100, ticks=25),
    "no_index.avi": Kind("mpeg4", {"g": "25"}, "pcm_s16le", ticks=25, change=no_index),
    "a.flv": Kind("flv", {"g": "25"}, "libmp3lame", 44_100),
    "a.wmv": Kind("wmv2", {"g": "25"}, "wmav2", 44_100, bit_rate={"b": "96k"}),
    "a.3gp": Kind("h263", {"g": "12"}, "libopencore_amrnb", 8_000, size=(176, 144), ticks=25),
    "a.nut": Kind("mpeg4", {"g": "25"}, "mp2"),
    "a.mxf": Kind("mpeg2video", MPEG, "pcm_s16le", ticks=25),
    "a.gif": Kind("gif", {}, pix_fmt="rgb8"),
    "a.h264": Kind("libx264", X264),
    "ordered.h264": Kind("libx264", OPEN),
    "a.hevc": Kind("libx265", X265),
    "a.m2v": Kind("mpeg2video", MPEG, ticks=25),
    "a.mjpeg": Kind("mjpeg", {}, pix_fmt="yuvj420p"),
    "a.ivf": Kind("libvpx", {"deadline": "realtime", "g": "25"}),
    "a.aac": Kind(sound="aac"),
    "a.mp3": Kind(sound="libmp3lame", rate=44_100),
    "uncounted.mp3": Kind(sound="libmp3lame", rate=44_100, change=no_frame_count),
    "a.mp2": Kind(sound="mp2"),
    "a.ac3": Kind(sound="ac3"),
    "opus.ogg": Kind(sound="libopus"),
    "a.flac": Kind(sound="flac", rate=44_100),
    "a.tta": Kind(sound="tta", rate=44_100),
    "a.wv": Kind(sound="wavpack", rate=44_100),
    "alac.m4a": Kind(sound="alac", rate=44_100),
    "a.w64": Kind(sound="pcm_s16le", rate=44_100),
    "rf64.wav": Kind(sound="pcm_s16le", rate=44_100, muxer={"rf64": "always"}),
    "adpcm.wav": Kind(sound="adpcm_ima_wav", rate=22_050),
    "rated.wav": Kind(sound="adpcm_ms", rate=22_050, change=wrong_byte_rate),
    "a.aiff": Kind(sound="pcm_s16be", rate=44_100),
    "a.caf": Kind(sound="alac", rate=44_100),
    "a.amr": Kind(sound="libopencore_amrnb", rate=8_000),
    "a.wma": Kind(sound="wmav2", rate=44_100, bit_rate={"b": "96k"}),
}
RANGES = [(2.52, 3.2), (4.36, 5.6)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Clip]]:
    """Each file, written once, and all of it."""
    folder = tmp_path_factory.mktemp("kinds")

    @cache
    def make(name: str) -> tuple[Path, Clip]:
        kind = KINDS[name]
        picture = None
        if kind.picture is not None:
            frames = [numbered(k, *kind.size) for k in range(SECONDS * FPS)]
            times = [k / FPS for k in range(len(frames))]
            picture = Picture(frames, times, kind.picture, kind.options, kind.pix_fmt)
            picture.ticks = kind.ticks
        sounds = []
        if kind.sound is not None:
            samples = sweep(SECONDS, kind.rate)
            sounds = [Sound(samples, kind.rate, codec=kind.sound, options=kind.bit_rate)]
        path = write(folder / name, picture, sounds, kind.muxer)
        if kind.change is not None:
            path.write_bytes(kind.change(path.read_bytes()))
        return path, read_clip(path, sizing=SMALL, fps=FPS)

    return make


def check_range(path: Path, whole: Clip, begin: float, end: float, *, exact: bool = True) -> None:
    """Read a range and compare it with the same range of the whole."""
    part = read_clip(path, sizing=SMALL, fps=FPS, start=begin, end=end)
    if whole.frames is not None:
        assert whole.frame_times is not None
        assert part.frames is not None
        assert part.frame_times is not None
        assert len(part.frames) == pytest.approx((end - begin) * FPS, abs=2.1)
        at = np.searchsorted(whole.frame_times, part.frame_times + begin + 1e-3, "right") - 1
        seen = np.array([number_of(frame) for frame in part.frames])
        # Sampled by time, an instant may be one frame's end here and the next one's start there.
        assert np.abs(seen - [number_of(whole.frames[k]) for k in at]).max() <= 1
        assert np.all(np.diff(seen) >= 0)
        all_of_it = {number_of(frame): frame for frame in whole.frames}
        for number, frame in zip(seen.tolist(), part.frames, strict=True):
            assert np.array_equal(frame, all_of_it.get(number, frame))
    if whole.audio is not None:
        assert part.audio is not None
        first, last = round(begin * SAMPLE_RATE), round(end * SAMPLE_RATE)
        expected_sound = whole.audio[first:last]
        assert len(part.audio) == pytest.approx(len(expected_sound), abs=2)
        length = min(len(part.audio), len(expected_sound))
        if exact:
            assert np.array_equal(part.audio[:length], expected_sound[:length])
        else:
            assert _lag(part.audio[:length], expected_sound[:length]) <= SAMPLE_RATE // 1000
    assert not [w for w in part.warnings if "amaged" in w or "decoded" in w or "leap" in w]


def _lag(sound: np.ndarray, other: np.ndarray) -> int:
    """By how many samples two pieces of the same sound are apart."""
    best = []
    for lag in range(-40, 41):
        here = sound[40 + lag : len(sound) - 40 + lag]
        best.append((float(np.corrcoef(here, other[40:-40])[0, 1]), abs(lag)))
    likeness, lag = max(best)
    assert likeness > 0.95
    return lag


@pytest.mark.parametrize("name", KINDS)
def test_a_range_is_what_the_whole_has_there(
    made: Callable[[str], tuple[Path, Clip]], name: str
) -> None:
    path, whole = made(name)
    assert len(whole.warnings) <= 1, whole.warnings  # no picture, or no sound
    if whole.frames is not None:
        seen = [number_of(frame) for frame in whole.frames]
        assert seen[:-1] == sorted(seen[:-1])
        assert len(set(seen)) >= 0.97 * SECONDS * FPS
    if whole.audio is not None:
        assert whole.audio_s == pytest.approx(SECONDS, abs=0.15)
    assert whole.facts.duration_s == pytest.approx(SECONDS, abs=0.15)
    for begin, end in RANGES:
        check_range(path, whole, begin, end)


@pytest.mark.parametrize("name", KINDS)
def test_the_same_where_files_are_long(
    made: Callable[[str], tuple[Path, Clip]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long files are read: by the index, if there is one, and from a little ahead."""
    path, whole = made(name)
    monkeypatch.setattr(survey_module, "_SMALL_BYTES", 0)
    monkeypatch.setattr(sound_module, "_EXACT_S", 0.0)
    monkeypatch.setattr(sound_module, "_LEAD_IN_S", 1.0)
    for begin, end in RANGES[1:]:
        check_range(path, whole, begin, end, exact=False)
