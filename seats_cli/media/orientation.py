"""Mirrored pictures, which PyAV's rotation in degrees cannot express.

`frame.rotation` gives a mirrored picture as one that is upside down. FFmpeg attaches the whole
matrix to frames, but reading it crashes PyAV 18 (`frame.side_data` with an ICC profile), so the few
bytes are read from the file itself.
"""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import IO

_MATRIX_AT = {0: 40, 1: 52}  # in a track's header, by its version; the track's number before
_NUMBER_AT = {0: 12, 1: 20}
# Quarter turns anticlockwise after mirroring left to right, by EXIF's number.
_ORIENTATION = 0x112
_MAX_HEAD = 1 << 23  # EXIF and its thumbnail take 64 KiB, other notes and profiles some more
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
        Anticlockwise quarter turns after mirroring left to right; None if it is not mirrored.
    """
    size = file.seek(0, 2)
    with suppress(Exception):  # damaged: taken for not mirrored
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
    from PIL import Image  # only photos need it

    file.seek(0)
    head = BytesIO(file.read(_MAX_HEAD))  # Pillow keeps every segment that it finds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures: `probe` has its own bound
        with Image.open(head, formats=["JPEG"]) as picture:
            exif = Image.Exif()
            # Not `getexif`, which also looks into XMP, where FFmpeg does not.
            exif.load(picture.info.get("exif", b""))
    return _BY_EXIF.get(exif.get(_ORIENTATION, 1))
