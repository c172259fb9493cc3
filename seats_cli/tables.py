"""Flat tables in TOML or JSON files, chosen by the file's extension."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from seats_cli.errors import ConfigError


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".json"):
        raise ConfigError(f"{path} must end in .toml or .json.")
    return suffix


def _parse_toml(text: str) -> Any:
    for name in ("tomllib", "tomli"):  # tomllib is in the standard library from Python 3.11
        try:
            return import_module(name).loads(text)
        except ModuleNotFoundError:
            continue
    raise ConfigError("Reading TOML needs Python 3.11 or the package tomli; a .json file works.")


def read_table(path: Path) -> dict[str, Any]:
    """Read a table.

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
        If the file cannot be read, is malformed, or holds no table.
    """
    suffix = _suffix(path)
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path} is not a regular file.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} cannot be read: {reason}.") from error
    try:
        table = json.loads(text) if suffix == ".json" else _parse_toml(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
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
