"""What cameras, phones and programs write: codecs, pictures, odd tracks, turned frames."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from seats_cli.media import FrameSizing, read_clip
from tests.media.build import (
    Picture,
    Sound,
    click,
    number_of,
    numbered,
    plain,
    steady,
    tone,
    turn,
    write,
)
from tests.media.test_alignment import check, flash

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
NO_SOUND = "The file has no sound track; only the picture is used."


def numbers(path: Path) -> list[int]:
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert clip.warnings == (NO_SOUND,)
    return [number_of(frame) for frame in clip.frames]


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("hevc.mp4", "libx265", "yuv420p", {"x265-params": "log-level=none", "crf": "10"}),
        ("hevc10.mkv", "libx265", "yuv420p10le", {"x265-params": "log-level=none", "crf": "10"}),
        ("av1.mp4", "libsvtav1", "yuv420p", {"preset": "12", "crf": "20"}),
        ("av1_10.webm", "libsvtav1", "yuv420p10le", {"preset": "12", "crf": "20"}),
        ("vp8.webm", "libvpx", "yuv420p", {"deadline": "realtime"}),
        ("prores.mov", "prores_ks", "yuv422p10le", {}),
        ("interlaced.mp4", "libx264", "yuv420p", {"flags": "+ilme+ildct", "qp": "8"}),
        ("variable.avi", "mpeg4", "yuv420p", {}),
        ("animation.mov", "qtrle", "rgb24", {}),
        ("moving.gif", "gif", "rgb8", {}),
    ],
)
def test_codecs(
    tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str]
) -> None:
    try:
        av.codec.Codec(codec, "w")
    except ValueError:
        pytest.skip(f"this PyAV cannot write {codec}")
    frames = [numbered(k) for k in range(10)]
    picture = Picture(frames, [k / 25 for k in range(10)], codec, options, pix_fmt)
    assert numbers(write(tmp_path / name, picture)) == [0, 3, 6, 9]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "gif", "webp"])
def test_pictures(tmp_path: Path, suffix: str) -> None:
    Image = pytest.importorskip("PIL.Image")
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(numbered(7)).save(path)
    assert numbers(path) == [7, 7]


@pytest.mark.parametrize(
    ("tag", "corner"), [(1, 0), (2, 1), (3, 2), (4, 3), (5, 0), (6, 1), (7, 2), (8, 3)]
)
def test_photos_are_turned(tmp_path: Path, tag: int, corner: int) -> None:
    Image = pytest.importorskip("PIL.Image")
    photo = Image.fromarray(_marked())
    exif = photo.getexif()
    exif[0x112] = tag
    photo.save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert _brightest_corner(tmp_path / "a.jpg") == corner


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((-1, 0, 0, 1), 1),  # left and right exchanged, as by a selfie camera
        ((1, 0, 0, -1), 3),  # top and bottom exchanged
        ((0, 1, 1, 0), 0),  # rows and columns exchanged
        ((0, -1, -1, 0), 2),
    ],
)
def test_mirrored_videos(tmp_path: Path, matrix: tuple[int, ...], corner: int) -> None:
    path = write(tmp_path / "a.mp4", Picture([_marked()] * 4, [k / 25 for k in range(4)]))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert _brightest_corner(path) == corner


def _marked() -> np.ndarray:
    pixels = plain(0, 96, 64)
    pixels[:16, :24] = 255  # top left
    return pixels


def _brightest_corner(path: Path) -> int:
    """0 for top left, then clockwise."""
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    frame = clip.frames[0].mean(axis=2)
    corners = [frame[:6, :6], frame[:6, -6:], frame[-6:, -6:], frame[-6:, :6]]
    return int(np.argmax([corner.mean() for corner in corners]))


def test_oblong_pixels_cause_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(64, 45)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(plain(90), format="rgb24")))
        container.mux(stream.encode(None))
    clip = read_clip(path, sizing=SMALL)
    assert [w for w in clip.warnings if "1.42 times as wide" in w and "narrower" in w]
    assert clip.pixel_shape == pytest.approx(64 / 45)
    upright = read_clip(turn(path, tmp_path / "turned.mp4", 90), sizing=SMALL)
    assert upright.facts.rotation_deg % 180 == 90
    assert upright.pixel_shape == pytest.approx(45 / 64)
    assert [w for w in upright.warnings if "0.703 times as wide" in w and "wider" in w]


@pytest.mark.parametrize(("name", "at_s"), [("a.mkv", 4.0), ("a.mp4", 3.5)])
def test_time_stamps_below_zero(tmp_path: Path, name: str, at_s: float) -> None:
    """Matroska's are shifted; MP4's edit list hides what lies before 0, as players do."""
    sound = Sound(click(8, 4.0), start_s=-0.5)
    path = write(tmp_path / name, flash(8, 3.5, starts_s=-0.5), [sound])
    check(read_clip(path, sizing=SMALL), at_s)


def test_frames_out_of_order_behind_an_edit_list(tmp_path: Path) -> None:
    options = {"qp": "8", "preset": "ultrafast", "bf": "3"}
    picture = flash(6, 3.0)
    picture.options = options
    path = write(tmp_path / "a.mp4", picture, [Sound(click(6, 3.0))])
    assert b"elst" in path.read_bytes()
    check(read_clip(path, sizing=SMALL), 3.0)


def test_a_tenth_of_a_second(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", steady(3), [Sound(tone(0.1))]), sizing=SMALL)
    assert clip.frames is not None
    assert len(clip.frames) == 2
    assert clip.audio_s == pytest.approx(0.1, abs=0.03)


def test_time_code_tracks_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "8"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.metadata["timecode"] = "01:00:00:00"
        for k in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(k), format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert [s.type for s in container.streams] == ["video", "data"]
    assert numbers(path) == [0, 3, 6, 9]
