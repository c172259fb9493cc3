"""Parsers for option values that plain int and float would let through wrongly."""

from __future__ import annotations

import math
from enum import Enum

import typer

from seats_cli.cli.question import is_text
from seats_cli.errors import UsageError


class Kv(str, Enum):
    """KV-cache policies."""

    LAYERWISE = "layerwise"
    SURVIVORS = "survivors"


class Allocation(str, Enum):
    """How the budget is spread over windows."""

    REFERENCE = "reference"
    ADAPTIVE = "adaptive"
    ADAPTIVE_CONTRAST = "adaptive-contrast"
    ADAPTIVE_FLOOR = "adaptive-floor"
    GLOBAL = "global"


class Format(str, Enum):
    """How a comparison or an evaluation is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


class Dtype(str, Enum):
    """Number formats of the weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Attention(str, Enum):
    """Attention implementations, under their transformers names where they have one."""

    SDPA = "sdpa"
    STOCK_SDPA = "stock-sdpa"
    EAGER = "eager"
    FLASH_ATTENTION_2 = "flash_attention_2"


def parse_ratio(text: str) -> float:
    """A share of tokens, `0.25` or `25%`, above 0 and at most 1."""
    cleaned = str(text).strip()
    percent = cleaned.endswith("%")
    number = _number(cleaned.rstrip("%").strip()) / (100 if percent else 1)
    if not 0 < number <= 1:
        raise typer.BadParameter(
            f"{cleaned!r} is no share of the tokens; write one above 0 and up to 1, 0.25 or 25%"
        )
    return number


def parse_positive(text: str) -> float:
    """A finite number above 0."""
    number = _number(str(text))
    if number <= 0:
        raise typer.BadParameter(f"{text!r} must be above 0")
    return number


def parse_temperature(text: str) -> float:
    """A finite number, 0 (greedy) or above."""
    number = _number(str(text))
    if number < 0:
        raise typer.BadParameter(f"{text!r} must be 0 or above")
    return number


def parse_top_p(text: str) -> float:
    """A probability mass above 0 and at most 1."""
    number = _number(str(text))
    if not 0 < number <= 1:
        raise typer.BadParameter(f"{text!r} must be above 0 and at most 1")
    return number


def parse_seed(text: str) -> int:
    """A seed that every random generator takes."""
    try:
        seed = int(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None
    if not 0 <= seed < 2**32:
        raise typer.BadParameter(f"{text!r} must be from 0 to {2**32 - 1}")
    return seed


def split_choices(text: str | None) -> tuple[str, ...]:
    """The options of `--choices "red, green"`; nothing when it was not given."""
    if text is None:
        return ()
    choices = tuple(part.strip() for part in text.split(","))
    if len(choices) < 2 or "" in choices or len(set(choices)) < len(choices) or not is_text(text):
        raise UsageError(
            f"--choices needs two or more different options between commas, not {text!r}."
        )
    return choices


def parse_range(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    """`--start` and `--end` in seconds, in order."""
    if start is None and end is None:
        return None, None
    from seats_cli.media import parse_time

    seconds: list[float | None] = []
    for name, text in (("--start", start), ("--end", end)):
        try:
            seconds.append(None if text is None else parse_time(text))
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
    first, last = seconds
    if first is not None and last is not None and first >= last:
        raise UsageError(f"--start {start} is not before --end {end}.")
    return first, last


def parse_seconds(option: str, text: str | None) -> float | None:
    """A length of time above 0, written like `--start`."""
    if text is None:
        return None
    from seats_cli.media import parse_time

    try:
        seconds = parse_time(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    if seconds <= 0:
        raise UsageError(f"{option} must be above 0, not {text}.")
    return seconds


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number
