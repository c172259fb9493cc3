"""Copying a stream into a file, up to a limit."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import IO, Protocol

from seats_cli.errors import MediaError

# 8 hours of 1080p from a phone or camera are more, but so is a temporary folder's room.
MAX_BYTES = 4 << 30
_BLOCK = 1 << 20

Progress = Callable[[int, int | None], None]  # bytes so far, bytes expected


class Readable(Protocol):
    """The part of a binary file that is needed."""

    def read1(self, size: int, /) -> bytes:
        """What is there, at most `size` bytes; nothing at the end."""


def copy_bounded(
    source: Readable,
    target: IO[bytes],
    what: str,
    *,
    limit: int = MAX_BYTES,
    expected: int | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Copy a stream to its end.

    Parameters
    ----------
    source, target
        Binary files.
    what : str
        The source's name in messages.
    limit : int
        Bytes at most.
    expected : int or None
        Bytes that will come, if known.
    on_progress : callable or None
        Called with the bytes so far and those expected.

    Returns
    -------
    int
        Bytes copied.

    Raises
    ------
    MediaError
        If there is more than `limit` allows or the disk is full.
    OSError
        If reading fails.
    """
    if expected is not None and expected > limit:
        raise MediaError(_too_large(what, limit))
    done = 0
    while block := source.read1(_BLOCK):
        done += len(block)
        if done > limit:
            raise MediaError(_too_large(what, limit))
        _write(target, block)
        if on_progress is not None:
            on_progress(done, expected)
    return done


def _write(target: IO[bytes], block: bytes) -> None:
    try:
        target.write(block)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise MediaError(
            "The folder for temporary files is full; free some room or set TMPDIR to another."
        ) from error


def _too_large(what: str, limit: int) -> str:
    size = f"{limit / (1 << 30):.3g} GiB" if limit >= 1 << 20 else f"{limit} bytes"
    return f"{what} is larger than {size}; save it to a file and name that instead."
