"""Broken, hostile and odd files: what is readable, or one sentence."""

from __future__ import annotations

import os
import random
import struct
import time
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from seats_cli.errors import MediaError, SeatsError
from seats_cli.media import FrameSizing, read_clip
from tests.media.build import Picture, Sound, number_of, plain, steady, tone, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
ASSETS = Path(__file__).parents[2] / "assets"


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(MediaError) as caught:
        read_clip(path, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 s with sound, its index in front, keyframes every second."""
    options = {"qp": "20", "preset": "ultrafast", "g": "25"}
    path = tmp_path_factory.mktemp("damage") / "movie.mp4"
    picture = steady(100, options=options)
    return write(path, picture, [Sound(tone(4))], {"movflags": "faststart"})


def test_what_is_not_media(tmp_path: Path) -> None:
    assert "no file" in refusal(tmp_path / "absent.mp4")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "empty.mp4").touch()
    assert "empty" in refusal(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("This is not a video.\n" * 5)
    assert "text.mp4 is not a video" in refusal(tmp_path / "text.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert "regular" in refusal(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    refusal(tmp_path / "loop.mp4")
    refusal(Path("nul\0byte.mp4"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "a.mp4").chmod(0)
    assert "permissions" in refusal(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    "name",
    ["\N{SNOWMAN} Überblick.mp4", "n" * 250 + ".mp4", "a:b?%03d.mp4", "-", "http:", "\udcff.mp4"],
)
def test_any_name(tmp_path: Path, movie: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(movie.read_bytes())
    assert read_clip(path, sizing=SMALL, audio=False).frames is not None
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_clip(str(link), sizing=SMALL, audio=False).frames is not None


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{}'\n",
    ],
)
@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x.ts", "other.ts"])
def test_playlists_open_nothing(tmp_path: Path, movie: Path, text: str, target: str) -> None:
    write(tmp_path / "other.ts", steady(10))
    for name in ("list.mp4", "list.m3u8", "list.ffconcat"):
        (tmp_path / name).write_text(text.format(target))
        refusal(tmp_path / name)


def test_cut_off_files_give_what_is_there(tmp_path: Path, movie: Path) -> None:
    data = movie.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    clip = read_clip(tmp_path / "cut.mp4", sizing=SMALL)
    assert clip.frames is not None
    assert 1 < clip.audio_s < 3.5
    seen = [number_of(frame) for frame in clip.frames]
    assert seen == sorted(seen)
    assert 30 < seen[-1] < 90
    assert [w for w in clip.warnings if "of 100 frames" in w]
    assert [w for w in clip.warnings if "lasts 4.0" in w]


@pytest.mark.parametrize("name", ["a.wav", "a.avi"])
def test_cut_off_files_that_seem_whole(tmp_path: Path, name: str) -> None:
    """FFmpeg reads the length of these from the size of the file."""
    picture = steady(25, codec="mpeg4", options={}) if name == "a.avi" else None
    path = write(tmp_path / name, picture, [Sound(tone(1), codec="pcm_s16le")])
    assert not [w for w in read_clip(path, sizing=SMALL).warnings if "cut off" in w]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    clip = read_clip(path, sizing=SMALL)
    assert 0.2 < clip.audio_s < 0.8
    assert [w for w in clip.warnings if f"should have {len(data):,} bytes" in w]


def test_an_index_that_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", steady(50))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.index(b"moov") - 4])
    assert "table of contents (moov) is missing" in refusal(tmp_path / "cut.mp4")


def test_bits_that_flipped(tmp_path: Path, movie: Path) -> None:
    data = bytearray(movie.read_bytes())
    rng = random.Random(5)
    for at in range(len(data) // 2, len(data) * 3 // 4, 97):
        data[at] = rng.randrange(256)
    (tmp_path / "a.mp4").write_bytes(data)
    clip = read_clip(tmp_path / "a.mp4", sizing=SMALL)
    assert clip.frames is not None
    assert len(clip.frames) == 8
    assert [w for w in clip.warnings if "damaged" in w or "could not be decoded" in w]


def test_a_picture_that_is_all_broken_leaves_the_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", steady(50), [Sound(tone(2))])
    data = bytearray(path.read_bytes())
    at = data.index(b"V_MPEG4/ISO/AVC")
    data[at : at + 15] = b"V_UNKNOWN/CODEC"
    path.write_bytes(data)
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is None
    assert clip.audio_s == pytest.approx(2, abs=0.05)
    assert clip.warnings


def test_claims_of_absurd_sizes(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    for side in (20_000, 1_000_000_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        image = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        image += chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(image)
        refusal(tmp_path / "a.png")


def test_a_claim_of_one_sample_per_second(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", sounds=[Sound(tone(1), codec="pcm_s16le")])
    data = bytearray(path.read_bytes())
    data[24:28] = (1).to_bytes(4, "little")
    path.write_bytes(data)
    assert "neither" in refusal(path)


def test_time_stamps_that_leap(tmp_path: Path) -> None:
    """A day between two frames must cost neither memory nor time."""
    times = [k / 25 for k in range(25)] + [86_400 + k / 25 for k in range(25)]
    picture = Picture([plain(90)] * 50, times)
    path = write(tmp_path / "a.mkv", picture, [Sound(tone(1)), Sound(tone(1), start_s=86_400)])
    began = time.monotonic()
    for track in (0, 1):
        clip = read_clip(path, sizing=SMALL, audio_track=track)
        assert clip.frames is not None
        assert len(clip.frames) <= 768
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("late_s", [2, 6, 10_000])
def test_one_frame_out_of_place_is_not_ten_lost(tmp_path: Path, late_s: int) -> None:
    """The offset from decoding to showing of one frame of an MP4 is damaged."""
    if late_s > 1000 and av.library_versions["libavformat"] < (62,):
        pytest.skip("FFmpeg before 8 leaves out all offsets where one of them is that large")
    options = {"qp": "8", "preset": "ultrafast", "bf": "2", "g": "50"}
    path = write(tmp_path / "a.mp4", steady(200, options=options))
    whole = read_clip(path, sizing=SMALL)
    data = bytearray(path.read_bytes())
    at = data.index(b"ctts") + 12 + 8 * 40  # the 41st entry: how many frames, their offset
    with av.open(str(path)) as container:
        ticks = round(late_s / container.streams.video[0].time_base)
    data[at + 4 : at + 8] = struct.pack(">i", ticks)
    path.write_bytes(data)
    clip = read_clip(path, sizing=SMALL)
    assert whole.frames is not None
    assert clip.frames is not None
    seen, wanted = ([number_of(f) for f in c.frames] for c in (clip, whole))  # type: ignore[union-attr]
    assert len(seen) == len(wanted)
    assert sum(abs(a - b) > 1 for a, b in zip(seen, wanted, strict=True)) <= 1


def test_mutants_give_a_clip_or_a_sentence(tmp_path: Path, movie: Path) -> None:
    rng = random.Random(2024)
    sources = [movie.read_bytes()]
    for name in ("a.mkv", "a.ts"):
        sources.append(write(tmp_path / name, steady(20), [Sound(tone(1))]).read_bytes())
    sources.append(
        write(tmp_path / "a.wav", sounds=[Sound(tone(1), codec="pcm_s16le")]).read_bytes()
    )
    target = tmp_path / "mutant"
    for turn in range(60):
        data = bytearray(rng.choice(sources))
        span = len(data) if turn % 2 else min(len(data), 2000)
        for _ in range(rng.choice([1, 10, 100])):
            data[rng.randrange(span)] = rng.randrange(256)
        target.write_bytes(data[: rng.randrange(1, len(data))] if turn % 5 == 0 else data)
        began = time.monotonic()
        try:
            clip = read_clip(target, sizing=SMALL)
        except SeatsError as error:
            assert str(error).endswith(".")  # noqa: PT017
        else:
            assert clip.frames is not None or clip.audio is not None
            assert clip.audio is None or np.isfinite(clip.audio).all()
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("name", "frames", "seconds"),
    [
        ("cards_words_beeps_12s.mp4", 24, 12.0),
        ("sees_cat_says_dog.mp4", 8, 4.0),
        ("bbb_360p_stereo.mp4", 10, 5.0),
        ("sintel_15s_640.mp4", 30, 15.0),
        ("jfk.wav", 0, 11.0),
    ],
)
def test_shipped_clips(name: str, frames: int, seconds: float) -> None:
    clip = read_clip(ASSETS / name)
    assert (0 if clip.frames is None else len(clip.frames)) == frames
    assert clip.audio_s == pytest.approx(seconds, abs=0.05)
    assert clip.warnings == (
        ("The file has no picture; only its sound is used.",) if not frames else ()
    )


def test_a_webp_of_twenty_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    path.write_bytes(b"RIFF\x0c\0\0\0WEBPVP8X\0\0\0\0")
    refusal(path)


def test_a_file_url_is_read_by_the_library(tmp_path: Path) -> None:
    path = write(tmp_path / "a b.avi", steady(20, codec="mpeg4", options={}))
    clip = read_clip(path.as_uri())
    assert clip.frames is not None
    assert len(clip.frames) == len(read_clip(path).frames)  # type: ignore[arg-type]
