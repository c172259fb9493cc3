"""Small files with large claims: little time, little memory, one sentence or what is there."""

from __future__ import annotations

import builtins
import resource
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seats_cli.media import FrameSizing, read_clip
from tests.media.build import Picture, Sound, numbered, steady, tone, write
from tests.media.test_damage import refusal

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
MOST_MIB = 600  # above what the process had before


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Every case in here: a few seconds, and no more than one allowed allocation."""
    began = time.monotonic()
    before = _peak_mib()
    yield
    assert time.monotonic() - began < 10
    assert _peak_mib() - before < MOST_MIB


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def png(
    *chunks: tuple[bytes, bytes], width: int = 8, height: int = 8, behind: bool = False
) -> bytes:
    """A picture with these chunks before its pixels, or behind them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(8 * 25))
    data = b"\x89PNG\r\n\x1a\n"
    middle = ((b"IDAT", pixels), *chunks) if behind else (*chunks, (b"IDAT", pixels))
    for kind, body in ((b"IHDR", header), *middle, (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_notes_that_unpack_to_gigabytes(tmp_path: Path, kind: bytes, behind: bool) -> None:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(b"A" * (1 << 20)) for _ in range(20)) + packer.flush()
    (tmp_path / "a.png").write_bytes(png((kind, b"note\0\0" + packed), behind=behind))
    assert "unpack" in refusal(tmp_path / "a.png")
    harmless = [(kind, b"note\0\0" + zlib.compress(b"A" * 1000))] * 50
    (tmp_path / "b.png").write_bytes(
        png(*harmless, (b"zTXt", b"broken\0\0nothing"), (b"tEXt", b""))
    )
    assert read_clip(tmp_path / "b.png", sizing=SMALL).frames is not None


@pytest.mark.parametrize(("frames", "fine"), [(20, True), (3_000, False)])
def test_a_large_picture_thousands_of_times(tmp_path: Path, frames: int, fine: bool) -> None:
    """A GIF of 8192 x 8192 pixels in which one pixel changes at a time."""
    data = b"GIF89a" + struct.pack("<HHBBB", 8192, 8192, 0x80, 0, 0) + bytes(3) + b"\xff" * 3
    for number in range(frames):
        data += b"!\xf9\x04\x04\x02\0\0\0"
        data += b"," + struct.pack("<HHHHB", number, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    (tmp_path / "a.gif").write_bytes(data + b";")
    if fine:
        assert read_clip(tmp_path / "a.gif", sizing=SMALL).frames is not None
    else:
        assert "3,000 frames of 8192 x 8192" in refusal(tmp_path / "a.gif")


@pytest.mark.parametrize("side", [11_586, 50_000, 1_000_000_000])
def test_pictures_of_absurd_size(tmp_path: Path, side: int) -> None:
    (tmp_path / "a.png").write_bytes(png(width=side, height=side))
    refusal(tmp_path / "a.png")
    head = b"BM" + struct.pack(
        "<IIIIiiHHIIiiII", 54, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0
    )
    (tmp_path / "a.bmp").write_bytes(head + bytes(1000))
    refusal(tmp_path / "a.bmp")


def test_a_moving_picture_of_absurd_size(tmp_path: Path) -> None:
    head = b"YUV4MPEG2 W1000000000 H1000000000 F25:1 Ip A1:1 C420\nFRAME\n"
    (tmp_path / "a.y4m").write_bytes(head + bytes(1000))
    refusal(tmp_path / "a.y4m")
    path = write(tmp_path / "a.mkv", steady(4, codec="ffv1", options={}))
    data = path.read_bytes()
    # PixelWidth and PixelHeight, one byte each, become two.
    for tag, value in ((b"\xb0\x81\x60", b"\xb0\x82\xff\xff"), (b"\xba\x81\x40", b"\xba\x81\xff")):
        assert data.count(tag) == 1
        data = data.replace(tag, value)
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize("rate", [1_000_000, 60_000])
def test_a_million_frames_per_second(tmp_path: Path, rate: int) -> None:
    frames = [numbered(k) for k in range(40)]
    picture = Picture(frames, [k / 1000 for k in range(40)], "ffv1", {}, "yuv420p", rate)
    clip = read_clip(write(tmp_path / "a.mkv", picture), sizing=SMALL)
    assert clip.frames is not None
    assert len(clip.frames) == 4
    head = b"YUV4MPEG2 W16 H16 F%d:1 Ip A1:1 C420\n" % rate
    (tmp_path / "a.y4m").write_bytes(head + (b"FRAME\n" + bytes(384)) * 2000)
    clip = read_clip(tmp_path / "a.y4m", sizing=SMALL)
    assert clip.frames is not None
    assert len(clip.frames) <= 4


@pytest.mark.parametrize("count", [900, 10_000])
def test_thousands_of_streams(tmp_path: Path, count: int) -> None:
    """An AVI's list of streams, with the first one over and over."""
    data = write(tmp_path / "a.avi", steady(10, codec="mpeg4", options={})).read_bytes()
    begin = data.index(b"strl") - 8
    stream = data[begin : begin + 8 + int.from_bytes(data[begin + 4 : begin + 8], "little")]
    many = bytearray(data[:begin] + stream * count + data[begin:])
    at = data.index(b"LIST") + 4
    size = int.from_bytes(data[at : at + 4], "little") + len(stream) * count
    many[at : at + 4] = size.to_bytes(4, "little")
    many[4:8] = (len(many) - 8).to_bytes(4, "little")
    (tmp_path / "b.avi").write_bytes(many)
    if count < 1000:
        assert read_clip(tmp_path / "b.avi", sizing=SMALL).frames is not None
    else:
        refusal(tmp_path / "b.avi")


@pytest.mark.parametrize("count", [1_000_000, 80_000_000, 0xFFFFFFFF])
def test_an_index_of_frames_that_are_not_there(tmp_path: Path, count: int) -> None:
    """All tables of an MP4 say `count` in a few bytes; FFmpeg writes them out in memory."""
    path = write(tmp_path / "a.mp4", steady(10), container_options={"movflags": "faststart"})
    data = bytearray(path.read_bytes())
    for box, fields in (
        (b"stsz", (1, count)),
        (b"stsc", (1, 1, count, 1)),
        (b"stts", (1, count, 2400)),
    ):
        at = data.index(box) + 8
        data[at : at + 4 * len(fields)] = struct.pack(f">{len(fields)}I", *fields)
    at = data.index(b"stss")
    data[at : at + 4] = b"free"
    path.write_bytes(data)
    refusal(path)


def test_a_sound_that_claims_a_day(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", sounds=[Sound(tone(1), codec="pcm_s16le")])
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = (0xFFFFFF00).to_bytes(4, "little")
    path.write_bytes(data)
    clip = read_clip(path)
    assert clip.audio_s == pytest.approx(1.0, abs=0.01)
    # A header that claims 23 hours in a file that has a second.
    path = write(tmp_path / "a.mkv", steady(25), [Sound(tone(1))])
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3
    data[at : at + 8] = struct.pack(">d", 23 * 3600 * 1000.0)
    path.write_bytes(data)
    clip = read_clip(path, sizing=SMALL)
    assert clip.audio_s == pytest.approx(1.0, abs=0.05)
    assert [w for w in clip.warnings if "82800.00 s" in w]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for another user than root, for whom permissions count."""
    path = write(tmp_path / "a.mp4", steady(4))
    real = builtins.open

    def locked(name: Any, *rest: Any, **options: Any) -> Any:
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied", str(name))
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "open", locked)
    assert "permissions" in refusal(path)
