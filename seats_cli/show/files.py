"""Writing files, never over something that this program did not make."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from seats_cli.errors import UsageError

TRACE_EXTENSIONS = (".json", ".safetensors")


MARK = "seats show"  # part of every page, picture and film
_MARKS = (MARK.encode(), b"seats-trace")
_LOOK = 1 << 16  # bytes at either end of a file that may hold a mark


def check_target(path: Path, option: str) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Parameters
    ----------
    option : str
        Name of the option that asked for it, for messages.

    Raises
    ------
    UsageError
        If the folder is missing, or the file exists and was not made by this program.
    """
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path}: the folder does not exist.")
    try:
        if path.exists() and not (path.is_file() and _is_ours(path)):
            raise UsageError(
                f"{option} {path} exists and was not made by seats, so it is not "
                "overwritten: choose another name or remove it."
            )
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {error.strerror}.") from error


@contextlib.contextmanager
def replacing(path: Path, option: str) -> Iterator[Path]:
    """A temporary name to write to; the file replaces `path` only when it is complete.

    Raises
    ------
    UsageError
        If it cannot be written, and as `check_target`.
    """
    check_target(path, option)
    target = path.resolve()
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        yield part
        os.replace(part, target)
    except OSError as error:
        raise UsageError(
            f"{option} {path} cannot be written: {error.strerror or error}."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _is_ours(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(_LOOK)
        file.seek(max(0, path.stat().st_size - _LOOK))
        ends = head + file.read(_LOOK)
    return any(mark in ends for mark in _MARKS)
