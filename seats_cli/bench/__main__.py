"""`python -m seats_cli.bench`: the command line of the measurements, and their tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

import torch

from seats_cli import bench
from seats_cli.bench import Row
from seats_cli.bench.first_day import checkpoint, loading
from seats_cli.bench.processor import processor
from seats_cli.errors import SeatsError
from seats_cli.models.random_weights import KINDS


def _size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def _at_least_one(text: str) -> int:
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "model": {"help": "bundled, a folder, or a named shape, which gets random weights"},
    "--seconds": {"type": float, "default": 60.0, "help": "length of the clip (60)"},
    "--size": {"type": _size, "default": "280x168", "help": "WIDTHxHEIGHT of a frame (280x168)"},
    "--repeats": {"type": _at_least_one, "default": 7, "help": "of each way (7)"},
    "--retain": {"default": "10%", "help": "a preset (10%%)"},
    "--device": {"default": "auto"},
    "--dtype": {"default": "auto"},
    "--json": {"action": "store_true", "help": "print JSON instead of a table"},
    "checkpoint": {"metavar": "model", "help": "bundled, a folder, or a hub id in the local cache"},
    "--random": {"choices": list(KINDS), "help": "in place of a model: random weights are written"},
    "--megabytes": {"type": int, "default": 1000, "help": "of random weights (1000)"},
    "--assets": {"metavar": "DIR", "help": "folder of the clips (that of this checkout)"},
}
MEASUREMENTS = {
    bench.encoders: "model --size --repeats --device --dtype --seconds --json",
    bench.modules: "model --size --repeats --device --dtype --seconds --json",
    bench.selection: "model --size --repeats --retain --seconds --json",
    bench.positions: "--size --repeats --seconds --json",
    bench.lengths: "model --retain --device --dtype --seconds --json",
    processor: "model --size --repeats --device --dtype --seconds --json",
    bench.index: "model --repeats --retain --device --dtype --seconds --json",
    loading: "checkpoint --random --megabytes --device --dtype --json",
    checkpoint: "checkpoint --device --dtype --retain --assets",
}


def as_table(rows: Sequence[Row]) -> str:
    """Aligned columns, named as in the rows, with their units."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[name.replace("_", " ") for name in names]]
    lines += [[_cell(name, row.get(name)) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_cell(name, one) for one in value)
    if isinstance(value, float):
        style = {"ratio": ".2f", "difference": ".1e"}.get(name, ",.2f")
        return format(value, style) + "x" * (name == "ratio")
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The measurement that the arguments name, and its options."""
    parser = argparse.ArgumentParser(
        prog="python -m seats_cli.bench",
        description=bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="MEASUREMENT")
    for measure, names in MEASUREMENTS.items():
        words = (measure.__doc__ or "").split("\n\n")
        command = commands.add_parser(measure.__name__, help=words[0], description=" ".join(words))
        command.set_defaults(measure=measure)
        for name in names.split():
            settings = ARGUMENTS[name]
            if name == "checkpoint" and "--random" in names:
                settings = {**settings, "nargs": "?"}
            command.add_argument(name, **settings)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the arguments name, and print it."""
    options = parsed(arguments)
    try:
        with torch.inference_mode():
            found: list[Row] | str = options.measure(options)
    except SeatsError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(error.exit_code)
    if isinstance(found, str):
        text = found
    elif options.json:
        text = json.dumps({"threads": torch.get_num_threads(), "rows": found}, indent=1)
    else:
        text = as_table(found)
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    main()
