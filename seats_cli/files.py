"""Writing files, never over something that this program did not make; tables of settings."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seats_cli.errors import ConfigError, UsageError

TRACE_EXTENSIONS = (".json", ".safetensors")


MARK = "seats show"  # part of every page, picture and film
_MARKS = (MARK.encode(), b"seats-trace", b"seats-conversation")
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
        If the folder is missing or not writable, or the file exists and was not made by this
        program.
    """
    check_writable(path, option)
    try:
        if path.exists() and not (path.is_file() and _is_ours(path)):
            raise UsageError(
                f"{option} {path} exists and was not made by seats, so it is not "
                "overwritten: choose another name or remove it."
            )
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {error.strerror}.") from error


def check_writable(path: Path, option: str) -> None:
    """Refuse a file that could not be made or replaced, before anything is computed.

    Raises
    ------
    UsageError
        If the folder is missing, or it or the file may not be written.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: the folder does not exist.")
    if path.is_file() and not os.access(path, os.W_OK):
        raise UsageError(f"{option} {path} may not be written; check its permissions.")
    _check_room(folder, f"{option} {path}")


def check_folder(path: Path, option: str) -> None:
    """Refuse a folder for results that could not be made or written to.

    Raises
    ------
    UsageError
        If it is a file, or the first folder above it that exists may not be written.
    """
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{option} {path}: {place} is a file, not a folder.")
    _check_room(place, f"{option} {path}")


def _check_room(folder: Path, what: str) -> None:
    """Make a file there and remove it: permissions, read-only and full disks show only so."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".seats-"):
            pass
    except OSError as error:
        raise UsageError(f"{what} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def replacing(
    path: Path, option: str = "", check: Callable[[Path, str], None] = check_target
) -> Iterator[Path]:
    """A temporary name to write to; the file replaces `path` only when it is complete.

    Parameters
    ----------
    option : str
        Name of the option that asked for it, for messages; "" for none.
    check : callable
        Refuses a path and an option.

    Raises
    ------
    UsageError
        If it cannot be written, and as `check`.
    """
    check(path, option)
    target = path.resolve()
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        what = f"{option} {path}".lstrip()
        raise UsageError(f"{what} cannot be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _is_ours(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(_LOOK)
        file.seek(max(0, path.stat().st_size - _LOOK))
        ends = head + file.read(_LOOK)
    return any(mark in ends for mark in _MARKS)


# ------------------------------------------------------ tables of settings


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".json"):
        raise ConfigError(f"{path} must end in .toml or .json.")
    return suffix


def _parse_toml(text: str) -> Any:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def read_table(path: Path) -> dict[str, Any]:
    """Read a table of settings.

    Parameters
    ----------
    path : Path
        A .toml or .json file.

    Returns
    -------
    dict
        Its top-level keys and values.

    Raises
    ------
    ConfigError
        If the file cannot be read, is malformed, or does not hold a table.
    """
    suffix = _suffix(path)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is not a regular file.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a BOM in front
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {reason}.") from error
    try:
        table = json.loads(text) if suffix == ".json" else _parse_toml(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid {suffix[1:].upper()}: {error}.") from error
    if not isinstance(table, dict):
        raise ConfigError(f"{path} must hold a table of settings.")
    return table


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """Write a flat table of strings, numbers and lists of numbers.

    Parameters
    ----------
    path : Path
        A .toml or .json file; it is replaced.
    table : mapping
        Keys and values.

    Raises
    ------
    ConfigError
        If the extension is neither, or the file cannot be written.
    """
    if _suffix(path) == ".json":
        text = json.dumps(dict(table), indent=2) + "\n"
    else:
        # JSON's notation of these values is valid TOML.
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
