"""What the options of the commands are declared with: parsers of their values, and panels."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from typing import Any

import typer
from typer.models import OptionInfo

from seats_cli.cli.question import is_text
from seats_cli.errors import UsageError
from seats_cli.media.timecode import parse_time


def parse_ratio(text: str) -> float:
    """A share of tokens, `0.25` or `25%`, above 0 and at most 1."""
    cleaned = str(text).strip()
    percent = cleaned.endswith("%")
    number = _number(cleaned.rstrip("%").strip()) / (100 if percent else 1)
    if not 0 < number <= 1:
        raise typer.BadParameter(
            f"{cleaned!r} is not a share of the tokens: write one above 0, up to 1, as 0.25 or 25%"
        )
    return number


OFF = "off"


def parse_cosine(text: str) -> float:
    """A cosine from 0 to 1; "off" is 1, above which none is."""
    cleaned = str(text).strip().lower()
    number = 1.0 if cleaned == OFF else _number(cleaned)
    if not 0 <= number <= 1:
        raise typer.BadParameter(f"{text!r} is neither 'off' nor a cosine, 0 to 1")
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


def parse_clock(text: str) -> float:
    """Seconds, written as `parse_time` reads them."""
    try:
        return parse_time(str(text))
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error


def parse_text(text: object) -> str:
    """Words for the model; bytes that are not UTF-8 arrive as lone surrogates and are refused."""
    if not isinstance(text, str):  # a settings file has types of its own
        raise typer.BadParameter(f"{text!r} is not text: put it in quotes")
    if not is_text(text):
        raise typer.BadParameter("it is not UTF-8 text")
    return text


def split_choices(text: str | None) -> tuple[str, ...]:
    """The options of `--choices 'red,"green, not blue"'`, a line of CSV; nothing without it."""
    if text is None:
        return ()
    try:
        rows = list(csv.reader(text.split("\n"), skipinitialspace=True, strict=True))
    except csv.Error:  # a quote that is not closed
        rows = []
    choices = tuple(part.strip() for row in rows for part in row)
    if (
        len(rows) != 1
        or len(choices) < 2
        or "" in choices
        or len(set(choices)) < len(choices)
        or not is_text(text)
    ):
        raise UsageError(
            f"--choices needs two or more different options between commas, not {text!r}; one that "
            "holds a comma stands in double quotes: --choices 'red,\"green, not blue\"'."
        )
    return choices


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


_PARSERS = {
    "TIME": parse_clock,
    "RATE": parse_positive,
    "SECONDS": parse_positive,
    "SHARE": parse_ratio,
    "COSINE": parse_cosine,
    "T": parse_temperature,
    "P": parse_top_p,
    "TEXT": parse_text,
}


def _panel(name: str) -> Callable[..., OptionInfo]:
    """What declares the options of a panel of the help.

    It takes the flags and the metavar in one string ("--model -m MODEL") and the help; `shown`
    is what the help calls the default; the rest goes to `typer.Option`. Some metavars have a
    parser.
    """

    def option(usage: str, text: str, *, shown: str | bool = True, **more: Any) -> OptionInfo:
        words = usage.split()
        metavar = None if words[-1].startswith("-") else words.pop()
        if metavar in _PARSERS:
            more["parser"] = _PARSERS[metavar]
        found: OptionInfo = typer.Option(
            *words, metavar=metavar, help=text, show_default=shown, rich_help_panel=name, **more
        )
        return found

    return option


input_option = _panel("Input")
budget_option = _panel("Budget")
model_option = _panel("Model")
output_option = _panel("Output")
cluster_option = _panel("Cluster")
server_option = _panel("Server")
