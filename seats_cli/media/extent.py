"""How far a file reaches: parts that were strung together byte by byte, and files cut off.

FFmpeg reads MPEG-TS, MPEG-PS, Ogg and fragmented MP4 on across the seams of files that were
written one behind the other. Of Matroska, WebM and FLV it loses what comes behind a second
header: `whole_file` leaves the later headers out, so that it finds one long file.
"""

from __future__ import annotations

import mmap
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import BinaryIO

_EBML, _SEGMENT, _CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
_FLV = re.compile(rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09\x00\x00\x00\x00")
_MAX_HEADER = 1 << 24  # 16 MiB from a Matroska file's start to its first cluster
_RIFF_UNKNOWN = 0x7FFFFF00
_MAX_BOXES = 1_000_000

# Bytes of the file from and to, or bytes that stand in for others.
Piece = tuple[int, int] | bytes
StrPath = str | os.PathLike[str]


class SplicedFile:
    """A file as if some of its bytes were left out or others; for reading, with seeking."""

    def __init__(self, file: BinaryIO, pieces: tuple[Piece, ...]) -> None:
        self._file = file
        self._pieces = pieces
        lengths = [len(p) if isinstance(p, bytes) else p[1] - p[0] for p in pieces]
        self._starts = [0, *accumulate(lengths)]
        self._at = 0

    def read(self, count: int = -1) -> bytes:
        """The next bytes, fewer at the end and at the seams."""
        k = bisect_right(self._starts, self._at) - 1
        if k >= len(self._pieces):
            return b""
        inside = self._at - self._starts[k]
        left = self._starts[k + 1] - self._at
        count = left if count < 0 else min(count, left)
        piece = self._pieces[k]
        if isinstance(piece, bytes):
            data = piece[inside : inside + count]
        else:
            self._file.seek(piece[0] + inside)
            data = self._file.read(count)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As for any file."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        """As for any file."""
        return self._at


def whole_file(path: StrPath, file: BinaryIO) -> BinaryIO | SplicedFile:
    """The open file, or one without the headers of later parts that are strung together in it."""
    pieces = _pieces_now(path)
    return SplicedFile(file, pieces) if pieces else file


def is_strung_together(path: StrPath) -> bool:
    """Whether `whole_file` leaves out headers."""
    return bool(_pieces_now(path))


def _pieces_now(path: StrPath) -> tuple[Piece, ...]:
    status = os.stat(path)
    return _pieces(os.fspath(path), status.st_size, status.st_mtime_ns)


def is_cut_off(path: StrPath) -> bool | None:
    """Whether a file ends before its last element does; None where its format does not tell."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(64)
        if head.startswith(b"RIFF"):
            return missing_bytes(path) is not None
        if head[4:8] in (b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"sidx", b"free", b"wide"):
            return _boxes_cut_off(file, size)
        if head.startswith(_EBML):
            end = _segment_end(head, size)
            return None if end is None else end > size
    return None


def missing_bytes(path: StrPath) -> tuple[int, int] | None:
    """Bytes that a RIFF file (WAV, AVI) should have and has, if it is shorter than its header says.

    FFmpeg takes such a file's length from its size, so the loss would go unnoticed.
    """
    with open(path, "rb") as file:
        head = file.read(8)
        size = file.seek(0, 2)
    claimed = int.from_bytes(head[4:], "little") + 8
    # Programs that write to a pipe leave the largest number or 0 there.
    if not head.startswith(b"RIFF") or size + 1 >= claimed or claimed > _RIFF_UNKNOWN:
        return None
    return claimed, size


def has_frame_count(path: StrPath) -> bool:
    """Whether an MP3 says how many frames it has: in its first frame, behind the ID3 tag."""
    with open(path, "rb") as file:
        head = file.read(10)
        if head.startswith(b"ID3"):
            length = 0
            for byte in head[6:10]:
                length = length << 7 | byte & 0x7F
            file.seek(length, os.SEEK_CUR)
            head = b""
        head += file.read(256)
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


def second_file(path: StrPath) -> int | None:
    """The byte at which another MP4 or WAV begins that players, and FFmpeg, do not read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[4:8] == b"ftyp":
            begins = [at for kind, at, _ in _boxes(file, size) if kind == b"ftyp"]
            films = [at for kind, at, _ in _boxes(file, size) if kind == b"moov"]
            if len(begins) < 2 or len(films) < 2:
                return None
            file.seek(films[1])
            fragmented = b"mvex" in file.read(_MAX_HEADER)  # those are read, with their fragments
            return None if fragmented else begins[1]
        if head.startswith(b"RIFF") and head.endswith(b"WAVE"):
            end = 8 + int.from_bytes(head[4:8], "little")
            file.seek(end + end % 2)
            return end + end % 2 if file.read(4) == b"RIFF" else None
    return None


def _boxes_cut_off(file: BinaryIO, size: int) -> bool | None:
    """Whether the last box of an MP4 or MOV reaches beyond its end; None if that is no box."""
    end = 0
    for _, at, length in _boxes(file, size):
        if length == 0:  # to the end of the file
            return False
        end = at + length
    return end > size if end >= size else None


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """The kind, place and length of each outermost box of an MP4 or MOV, up to a broken one."""
    at = 0
    for _ in range(_MAX_BOXES):
        if at >= size:
            return
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:16], "big") if length == 1 else length
        if 0 < length < 8:
            return
        yield head[4:8], at, length
        if length == 0:
            return
        at += length


@lru_cache(maxsize=64)
def _pieces(path: str, size: int, _changed_ns: int) -> tuple[Piece, ...]:
    """The pieces of the file that is there now; none if it is to be read as it stands."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head.startswith(_EBML):
            end = _segment_end(head, size)
            find = _matroska_pieces if end is None or end < size else None
        else:
            find = _flv_pieces if _FLV.match(head) else None
        if find is None:
            return ()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return tuple(find(data))


def _flv_pieces(data: mmap.mmap) -> Iterator[Piece]:
    heads = [found.span() for found in _FLV.finditer(data)]
    if len(heads) > 1:
        ends = [begin for begin, _ in heads[1:]] + [len(data)]
        begins = [0] + [end for _, end in heads[1:]]
        yield from zip(begins, ends, strict=True)


def _matroska_pieces(data: mmap.mmap) -> Iterator[Piece]:
    """The first header with a segment of unknown size, and the clusters of all parts."""
    heads = []
    at = 0
    while (at := data.find(_EBML, at)) >= 0:
        if (body := _segment_body(data[at : at + 64])) is not None:
            heads.append((at, at + body))
        at += 4
    if len(heads) < 2 or heads[0][0] > 0:
        return
    ends = [begin for begin, _ in heads[1:]] + [len(data)]
    size_at = data.find(_SEGMENT) + 4
    width = heads[0][1] - size_at
    yield (0, size_at)
    yield ((1 << (7 * width + 1)) - 1).to_bytes(width, "big")  # unknown: to the end of the file
    yield (heads[0][1], ends[0])
    for (_, body), end in zip(heads[1:], ends[1:], strict=True):
        first = data.find(_CLUSTER, body, min(body + _MAX_HEADER, end))
        if first >= 0:
            yield (first, end)


def _number(data: bytes, at: int) -> tuple[int | None, int]:
    """A Matroska size, None for unknown, and the bytes it takes; 0 bytes if it is none."""
    if at >= len(data) or data[at] == 0:
        return None, 0
    width = 9 - data[at].bit_length()
    field = data[at : at + width]
    if len(field) < width:
        return None, 0
    value = int.from_bytes(field, "big") & ((1 << (7 * width)) - 1)
    return (None if value == (1 << (7 * width)) - 1 else value), width


def _segment_body(head: bytes) -> int | None:
    """Where the segment behind a Matroska header begins, if this is one."""
    length, width = _number(head, 4)
    if length is None or width == 0:
        return None
    segment = 4 + width + length
    if head[segment : segment + 4] != _SEGMENT:
        return None
    _, width = _number(head, segment + 4)
    return segment + 4 + width if width else None


def _segment_end(head: bytes, size: int) -> int | None:
    """Where the first segment of a Matroska file ends; None if it does not say."""
    body = _segment_body(head)
    if body is None:
        return size
    length, _ = _number(head, head.index(_SEGMENT) + 4)
    return None if length is None else body + length
