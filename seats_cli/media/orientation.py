"""Pictures that are to be mirrored, which FFmpeg's turn in degrees cannot say.

It takes a mirrored picture for one on its head. FFmpeg knows better, but reading what it
attaches to frames crashes PyAV 18 (`frame.side_data` with an ICC profile), so the few bytes
are read from the file itself.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

_MATRIX_AT = {0: 40, 1: 52}  # in a track's header, by its version; the track's number before
_NUMBER_AT = {0: 12, 1: 20}
# Quarter turns anticlockwise after mirroring left to right, by EXIF's number.
_BY_EXIF = {2: 0, 4: 2, 5: 1, 7: 3}
_MAX_BOXES = 10_000


def mirrored_turns(file: IO[bytes], container: str, number: int) -> int | None:
    """How to make a mirrored picture upright.

    Parameters
    ----------
    file : binary file
        Is read from the start; the position afterwards is undefined.
    container : str
        FFmpeg's name of the format.
    number : int
        The stream's number in the file itself (`stream.id`).

    Returns
    -------
    int or None
        Anticlockwise quarter turns after mirroring left to right; None if it is not mirrored
        or does not say so.
    """
    size = file.seek(0, 2)
    with suppress(struct.error, LookupError):  # damaged: then it does not say so
        if "mp4" in container.split(","):
            return _in_mp4(file, size, number)
        if container == "jpeg_pipe":
            return _in_jpeg(file)
    return None


def _boxes(file: IO[bytes], begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of each box."""
    for _ in range(_MAX_BOXES):
        if begin + 8 > end:
            return
        file.seek(begin)
        size, name = struct.unpack(">I4s", file.read(8))
        content = begin + 8
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
            content += 8
        stop = end if size == 0 else begin + size
        if stop < content or stop > end:
            return
        yield name, content, stop
        begin = stop


def _in_mp4(file: IO[bytes], size: int, number: int) -> int | None:
    for name, begin, end in _boxes(file, 0, size):
        if name != b"moov":
            continue
        for track, first, last in _boxes(file, begin, end):
            for head, at, _ in _boxes(file, first, last) if track == b"trak" else ():
                if head != b"tkhd":
                    continue
                file.seek(at)
                header = file.read(100)
                version = header[0]
                if struct.unpack_from(">I", header, _NUMBER_AT[version])[0] != number:
                    continue
                # (x, y) is shown at (ax + cy, bx + dy), y pointing down.
                a, b, _, c, d = struct.unpack_from(">5i", header, _MATRIX_AT[version])
                if a * d - b * c < 0:
                    return round(-math.degrees(math.atan2(-b, -a)) / 90) % 4
                return None
    return None


def _in_jpeg(file: IO[bytes]) -> int | None:
    file.seek(2)
    for _ in range(100):
        marker, length = struct.unpack(">HH", file.read(4))
        if marker == 0xFFDA or length < 2:  # the picture itself begins
            return None
        body = file.read(length - 2)
        if marker == 0xFFE1 and body.startswith(b"Exif\0\0"):
            return _BY_EXIF.get(_exif_orientation(body[6:]))
    return None


def _exif_orientation(tiff: bytes) -> int:
    order = "<" if tiff.startswith(b"II") else ">"
    (at,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
        if tag == 0x112:
            return int(value)
    return 1
