"""Reading plain dataclasses back from JSON, refusing whatever does not fit them exactly."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class MisfitError(ValueError):
    """A value that its place does not take; the message names the place."""


def build(cls: type[T], value: Any, where: str) -> T:
    """A dataclass from a JSON object.

    Parameters
    ----------
    cls : dataclass type
        With fields of plain types, tuples of one type, optional ones, and such dataclasses.
    value : object
        What `json.loads` gave.
    where : str
        The place, for messages.

    Raises
    ------
    MisfitError
        If a key is missing or unknown, or a value has the wrong type.
    """
    if not isinstance(value, Mapping):
        raise MisfitError(f"{where} is no object")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    exact_keys(value, names, where)
    return cls(**{name: _fit(hints[name], value[name], f"{where}.{name}") for name in names})


def exact_keys(value: Mapping[str, Any], names: typing.Collection[str], where: str) -> None:
    """Refuse an object that does not have just these keys.

    Raises
    ------
    MisfitError
    """
    missing = [name for name in names if name not in value]
    unknown = [name for name in value if name not in names]
    if missing:
        raise MisfitError(f"{where} lacks {missing[0]!r}")
    if unknown:
        raise MisfitError(f"{where} has an unknown {str(unknown[0])[:40]!r}")


def _fit(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # only "X or None" occurs
        if value is None:
            return None
        return _fit(next(kind for kind in arguments if kind is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise MisfitError(f"{where} is no list")
        return tuple(_fit(arguments[0], item, f"{where}[{at}]") for at, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where)
    return fit_plain(hint, value, where)


def fit_plain(kind: Any, value: Any, where: str) -> Any:
    """A str, bool, int or finite float as it is; a whole number may stand for a float.

    Raises
    ------
    MisfitError
        For any other value.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise MisfitError(f"{where} must be {kind.__name__}, not {str(value)[:40]!r}")
    return value
