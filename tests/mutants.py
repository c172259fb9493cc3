"""Media files damaged in seeded ways, for `tests.fuzz_media`."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.media.build import Sound, steady, tone, write

ASSETS = Path(__file__).parents[1] / "assets"
_HEADER = 4096  # bytes at both ends of a file where containers keep their facts
# Numbers at which sizes, counts and rates tend to be read wrongly.
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def sources(folder: Path) -> list[Path]:
    """The shipped clips, and a short file of every other common container."""
    made = [
        write(folder / "a.mkv", steady(40), [Sound(tone(1.6))]),
        write(folder / "a.ts", steady(40), [Sound(tone(1.6))]),
        write(folder / "a.mov", steady(40), [Sound(tone(1.6)), Sound(tone(1.6, 880))]),
        write(
            folder / "fragments.mp4",
            steady(40),
            [Sound(tone(1.6))],
            {"movflags": "frag_keyframe+empty_moov"},
        ),
        write(folder / "a.wmv", steady(40, codec="wmv2", options={}), [_mp3(1.6)]),
        write(folder / "a.avi", steady(40, codec="mpeg4", options={}), [_mp3(1.6)]),
        write(folder / "a.flv", steady(40, codec="flv", options={}), [_mp3(1.6)]),
        write(
            folder / "a.webm",
            steady(20, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"}),
            [Sound(tone(0.8), codec="libopus")],
        ),
        write(folder / "a.gif", steady(6, codec="gif", options={}, pix_fmt="rgb8")),
        write(folder / "a.png", steady(1, codec="png", options={}, pix_fmt="rgb24")),
        write(folder / "a.jpg", steady(1, codec="mjpeg", options={}, pix_fmt="yuvj420p")),
        write(folder / "a.h264", steady(20)),
        write(folder / "a.mp3", sounds=[_mp3(1.0)]),
        write(folder / "a.flac", sounds=[Sound(tone(1.0, 440, 16_000), 16_000, codec="flac")]),
        write(folder / "a.ogg", sounds=[Sound(tone(1.0), codec="libopus")]),
        write(folder / "a.aac", sounds=[Sound(tone(1.0))]),
        write(folder / "a.m4a", sounds=[Sound(tone(1.0))]),
    ]
    shipped = [path for path in sorted(ASSETS.iterdir()) if path.suffix in (".mp4", ".wav")]
    return shipped + made


def _mp3(seconds: float) -> Sound:
    return Sound(tone(seconds, 440, 44_100), 44_100, codec="libmp3lame")


def mutant(data: bytes, others: list[bytes], rng: random.Random) -> tuple[bytes, str]:
    """A damaged copy of a file, and the names of the damages."""
    names = rng.choices(list(_DAMAGES), k=rng.choice([1, 1, 1, 2, 3]))
    for name in names:
        data = _DAMAGES[name](data, others, rng)
    return data, "+".join(names)


def _flip_bits(data: bytes, _others: list[bytes], rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 4, 32, 256])):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _scramble(data: bytes, _others: list[bytes], rng: random.Random) -> bytes:
    """A stretch of noise or of zeros."""
    begin = rng.randrange(len(data))
    size = min(rng.choice([16, 512, 8192]), len(data) - begin)
    noise = rng.randbytes(size) if rng.random() < 0.5 else bytes(size)
    return data[:begin] + noise + data[begin + size :]


def _truncate(data: bytes, _others: list[bytes], rng: random.Random) -> bytes:
    return data[: max(1, rng.randrange(len(data)))]


def _behead(data: bytes, _others: list[bytes], rng: random.Random) -> bytes:
    return data[rng.randrange(min(len(data), 10_000)) :]


def _cut_out(data: bytes, _others: list[bytes], rng: random.Random) -> bytes:
    begin = rng.randrange(len(data))
    return (data[:begin] + data[begin + rng.choice([1, 100, 5000]) :]) or b"\0"


def _repeat(data: bytes, _others: list[bytes], rng: random.Random) -> bytes:
    begin = rng.randrange(len(data))
    piece = data[begin : begin + rng.choice([100, 5000])]
    return data[:begin] + piece * rng.choice([2, 20]) + data[begin:]


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The beginning of this file and the end of another."""
    other = rng.choice(others)
    return data[: rng.randrange(1, len(data) + 1)] + other[rng.randrange(len(other)) :]


def _edit_header(data: bytes, _others: list[bytes], rng: random.Random) -> bytes:
    """Extreme numbers where the container's facts are."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 2, 8])):
        at = rng.randrange(min(_HEADER, len(changed)))
        if rng.random() < 0.5:  # MP4 keeps its index at the end unless told otherwise
            at = len(changed) - 1 - at
        size = rng.choice([1, 2, 4, 8])
        value = rng.choice([*_EXTREMES, rng.getrandbits(32)]) % (1 << 8 * size)
        changed[at : at + size] = value.to_bytes(size, rng.choice(["big", "little"]))
    return bytes(changed)


def _edit_box(data: bytes, _others: list[bytes], rng: random.Random) -> bytes:
    """A number in one of the boxes or chunks that a name of four letters introduces."""
    letters = np.frombuffer(data, np.uint8)
    small = ((letters >= 97) & (letters <= 122)).astype(np.int8)
    starts = np.flatnonzero(small[:-3] + small[1:-2] + small[2:-1] + small[3:] == 4)
    if len(starts) == 0:
        return _edit_header(data, _others, rng)
    changed = bytearray(data)
    at = int(rng.choice(starts)) + rng.choice([-4, 4, 8, 12, 16, 20, 24])
    value = rng.choice([*_EXTREMES, rng.getrandbits(32)])
    changed[max(at, 0) : max(at, 0) + 4] = value.to_bytes(4, "big")
    return bytes(changed)


_DAMAGES: dict[str, Callable[[bytes, list[bytes], random.Random], bytes]] = {
    "bits": _flip_bits,
    "scramble": _scramble,
    "truncate": _truncate,
    "behead": _behead,
    "cut-out": _cut_out,
    "repeat": _repeat,
    "splice": _splice,
    "header": _edit_header,
    "box": _edit_box,
}
