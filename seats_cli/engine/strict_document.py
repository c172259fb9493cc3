"""Objects from saved JSON, read strictly: a file may come from anybody.

A value is never converted to fit its place, but for whole numbers where any number may stand;
whatever is missing, unknown or of another type is refused with the place where it stands. Imports
no torch.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from seats_cli.errors import UsageError
from seats_cli.media.clip import MediaFacts

_MOST = 2**31 - 1  # of pixels, frames, samples per second
_MOST_S = 1e9  # thirty years
MOST_FPS = 1e5
T = TypeVar("T")


class MisfitError(ValueError):
    """A value that does not fit its place; the message names the place."""


def build(cls: type[T], value: Any, where: str, later: Mapping[str, Any] | None = None) -> T:
    """A dataclass from a JSON object with just its fields.

    Parameters
    ----------
    cls : dataclass type
        With fields of plain types, dicts, rows of numbers, tuples of one type, optional ones,
        and such dataclasses.
    where : str
        The place, for messages; "" for the whole.
    later : mapping, optional
        Fields that earlier releases did not save yet, and what they stand for.

    Raises
    ------
    MisfitError
        If a key is missing or unknown, a value has the wrong type, or the class refuses it.
    """
    if not isinstance(value, Mapping):
        raise MisfitError(f"{where} is not an object")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    value = with_later(value, later or {}, names)
    exact_keys(value, names, where)
    at = f"{where}." if where else ""
    fitted = {name: fit(hints[name], value[name], f"{at}{name}", later) for name in names}
    try:
        return cls(**fitted)
    except UsageError as error:  # of the class itself: an empty range
        raise MisfitError(f"{where}: {str(error).rstrip('.')}") from error


def with_later(
    value: Mapping[str, Any], later: Mapping[str, Any], names: Collection[str]
) -> Mapping[str, Any]:
    """The object with what earlier releases did not save yet."""
    return {**{name: later[name] for name in names if name in later}, **value}


def exact_keys(value: Mapping[str, Any], names: Collection[str], where: str) -> None:
    """Refuse an object with a key too many or too few.

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


def fit(hint: Any, value: Any, where: str, later: Mapping[str, Any] | None = None) -> Any:
    """The value as the type demands it: never converted, but a whole number may be a float.

    Raises
    ------
    MisfitError
        If it does not fit.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):  # only "X or None" occurs
        if value is None:
            return None
        return fit(next(kind for kind in arguments if kind is not type(None)), value, where, later)
    if origin is tuple:
        if not isinstance(value, list):
            raise MisfitError(f"{where} is not a list")
        return tuple(
            fit(arguments[0], item, f"{where}[{at}]", later) for at, item in enumerate(value)
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise MisfitError(f"{where} is not an object")
        return {
            key: fit(arguments[1], item, f"{where}.{key}", later) for key, item in value.items()
        }
    if origin is np.ndarray:
        return _numbers(value, np.dtype(typing.get_args(arguments[1])[0]), where)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where, later)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise MisfitError(f"{where} must be {hint.__name__}, not {str(value)[:40]!r}")
    return value


def _numbers(value: Any, dtype: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    """One row of whole numbers or of float32, from a list or an array."""
    if isinstance(value, list):
        kinds = (int,) if dtype.kind == "i" else (int, float, type(None))
        if not all(type(item) in kinds for item in value):
            raise MisfitError(f"{where} holds something that is not a number")
        try:
            with np.errstate(over="ignore"):
                value = np.array([np.nan if item is None else item for item in value], dtype)
        except OverflowError:
            raise MisfitError(f"{where} holds an impossible number") from None
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != 1:
        raise MisfitError(f"{where} is not a list of numbers")
    return value


def _acts_on_terminal(one: str) -> bool:
    return unicodedata.category(one) == "Cc" and one not in "\n\t"


def spelled_out(text: str) -> str:
    """The text with control characters as `repr` writes them, which no terminal acts on."""
    return "".join(repr(one)[1:-1] if _acts_on_terminal(one) else one for one in text)


def check_texts(value: Any) -> None:
    """Refuse texts that would act on a terminal.

    Raises
    ------
    MisfitError
    """
    if isinstance(value, str):
        if any(map(_acts_on_terminal, value)):
            raise MisfitError("it holds control characters")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            check_texts(key)
            check_texts(part)
    elif isinstance(value, list):
        for part in value:
            check_texts(part)


def check_media(media: MediaFacts, fps: float | None = None) -> None:
    """Refuse facts that are not of a media file, whatever it is: they are computed with.

    Parameters
    ----------
    fps : float or None
        Frames per second that were sampled.

    Raises
    ------
    MisfitError
    """
    for field in dataclasses.fields(media):
        value = getattr(media, field.name)
        if field.name == "rotation_deg":
            value = abs(value)
        most = _MOST if isinstance(value, int) else _MOST_S
        if isinstance(value, int | float) and not 0 <= value <= most:
            raise MisfitError(f"media.{field.name} is impossible")
    if media.end_s is not None and media.end_s < media.start_s:
        raise MisfitError("media.end_s is impossible")
    if fps is not None and not 0.0 < fps <= MOST_FPS:
        raise MisfitError("fps is impossible")
