"""Bounds on what a file may cost: memory, and pictures embedded in it."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import IO

import av.container.core

from seats_cli.errors import MediaError

# A 16,384 x 8,192 picture in RGBA, and the index of a video of 27 million frames. FFmpeg's own
# bound is 2 GiB, which a file of a kilobyte can make it fill.
_MAX_ALLOCATION = 5 << 27
# Below this it takes a minute at worst: a quarter of an hour of 1080p, 750 frames of 8192 x 8192.
_HARMLESS_PIXELS = 5e10
# Of a black film there are a few dozen bytes per frame: 80,000 pixels per byte at 4K.
_PIXELS_PER_BYTE = 5e5

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PACKED_CHUNKS = (b"zTXt", b"iCCP")  # those that FFmpeg unpacks
_MAX_UNPACKED = 1 << 24  # 16 MiB; the largest colour profiles in use have 3
_MAX_CHUNKS = 1_000_000  # 8 GB of picture in the usual pieces
_BLOCK = 1 << 20


@cache
def bound_allocations() -> None:
    """Let no single allocation of PyAV's FFmpeg exceed 640 MiB, from now on.

    PyAV does not offer this; where its FFmpeg is out of reach, FFmpeg's own bound stays.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(av.container.core.__file__)  # FFmpeg is among what this links to
        library.av_max_alloc(ctypes.c_size_t(_MAX_ALLOCATION))


def check_decoded_size(name: str, file_bytes: int, frames: int, width: int, height: int) -> None:
    """Refuse a video whose frames cannot be what the file is about: a decompression bomb.

    Raises
    ------
    MediaError
        If there are more pixels to a byte than in any real film, and many of them.
    """
    pixels = float(frames) * width * height
    if pixels > _HARMLESS_PIXELS and pixels > _PIXELS_PER_BYTE * file_bytes:
        raise MediaError(
            f"{name} would unpack to {frames:,} frames of {width} x {height} pixels from next to "
            "nothing, as no real video does; scale it down first."
        )


def check_png(file: IO[bytes], name: str) -> None:
    """Refuse a PNG with notes that are a decompression bomb; leaves the file at its start.

    Pillow's bounds do not replace this: its `open` and `verify` pass over notes that stand
    behind the picture, and FFmpeg unpacks those too.

    Raises
    ------
    MediaError
        If notes and colour profile unpack to more than any real ones.
    """
    if file.read(len(_PNG_SIGNATURE)) == _PNG_SIGNATURE:
        unpacked = 0
        for count, (kind, body) in enumerate(_chunks(file)):
            if count > _MAX_CHUNKS:
                raise MediaError(f"{name} is a PNG in over {_MAX_CHUNKS:,} pieces; save it anew.")
            unpacked += _unpacked_size(body) if kind in _PACKED_CHUNKS else 0
            if unpacked > _MAX_UNPACKED:
                raise MediaError(
                    f"{name} holds notes that unpack to over {_MAX_UNPACKED >> 20} MiB, more than "
                    "any real picture's; save the picture anew without them."
                )
    file.seek(0)


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and bodies; the bodies of what cannot be a bomb are passed over."""
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        packed = kind in _PACKED_CHUNKS
        yield kind, file.read(length) if packed else b""
        file.seek(4 if packed else length + 4, 1)


def _unpacked_size(body: bytes) -> int:
    """Bytes that a chunk's packed part gives, counted up to just above the limit."""
    packed = body[body.find(b"\0") + 2 :]  # after a keyword and one byte for the method
    unpacker, size = zlib.decompressobj(), 0
    try:
        while packed and size <= _MAX_UNPACKED:
            size += len(unpacker.decompress(packed, _BLOCK))
            packed = unpacker.unconsumed_tail
    except zlib.error:
        pass  # broken notes are FFmpeg's to pass over
    return size
