"""What the readers share: finding files, reading JSON and Parquet, and taking fields."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seats_cli.errors import UsageError

_EXTENSIONS = (".mp4", ".MP4", ".mkv", ".webm")
_LETTER = re.compile(r"^\s*\(?([A-Z])\s*[.:)]\s*")


@dataclass(frozen=True)
class Row:
    """One annotation, with words for where it stands."""

    values: Mapping[str, Any]
    where: str

    def text(self, *names: str, default: str | None = None) -> str:
        """The first of some fields that is there, as text.

        Raises
        ------
        UsageError
            If none is there and there is no default.
        """
        for name in names:
            value = self.values.get(name)
            if value is not None and not isinstance(value, list | tuple | dict):
                return str(value)
        if default is None:
            raise UsageError(f"{self.where}: {names[0]!r} is missing.")
        return default

    def choices(self, *names: str) -> tuple[str, ...]:
        """Options without their letters.

        Raises
        ------
        UsageError
            If the field is missing, is not a list, or its letters are not A, B, C and so on.
        """
        value = next((self.values[name] for name in names if name in self.values), None)
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise UsageError(f"{self.where}: {names[0]!r} must be a list of strings.")
        return without_letters(value, self.where)


def without_letters(options: Sequence[str], where: str) -> tuple[str, ...]:
    """Options without the letters "A.", "(B)", "C:" that all of them begin with, if they do.

    Raises
    ------
    UsageError
        If the letters are not in order, since an answer would then name another option.
    """
    matches = [_LETTER.match(option) for option in options]
    if not all(matches):
        return tuple(option.strip() for option in options)
    letters = "".join(match[1] for match in matches if match)
    if letters != "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(letters)]:
        raise UsageError(f"{where}: the options have the letters {letters}, out of order.")
    return tuple(_LETTER.sub("", option, count=1).strip() for option in options)


def find_file(root: Path, *patterns: str) -> Path:
    """The first file that matches one of some patterns, which are tried in order.

    Raises
    ------
    UsageError
        If there is none.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder; it should hold annotations and videos.")
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_file()):
            return found[0]
    raise UsageError(f"{root} holds no annotations; expected is {' or '.join(patterns)}.")


def find_folder(root: Path, *names: str) -> Path:
    """The first of some folders that is there.

    Raises
    ------
    UsageError
        If there is none.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UsageError(f"{root} holds no folder {' or '.join(names)} with the videos.")


def read_annotations(path: Path) -> Any:
    """Annotations of a Parquet or JSON file: a list of objects, or one object of objects.

    Raises
    ------
    UsageError
        If the file cannot be read, or pyarrow is needed and not installed.
    """
    content = read_parquet(path) if path.suffix == ".parquet" else read_json(path)
    rows = content if isinstance(content, list) else [content]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} must hold a list of annotations.")
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON.") from error


def read_parquet(path: Path) -> list[Any]:
    """The rows of a Parquet file.

    Raises
    ------
    UsageError
        If it cannot be read, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UsageError(
            f"{path.name} is a Parquet file, for which pyarrow is needed: "
            "pip install 'seats-cli[eval]'."
        ) from None
    try:
        rows: list[Any] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path} cannot be read as Parquet.") from error
    return rows


def video_file(folder: Path, name: str) -> str:
    """Path of a video by its name without extension; the usual one if no such file is there."""
    for extension in _EXTENSIONS:
        if (folder / f"{name}{extension}").is_file():
            return str(folder / f"{name}{extension}")
    return str(folder / f"{name}{_EXTENSIONS[0]}")
