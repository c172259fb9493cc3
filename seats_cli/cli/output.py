"""Reports that are themselves the result: to stdout, plain where it is no terminal."""

from __future__ import annotations

import sys

from rich.console import Console, RenderableType

from seats_cli.cli.console import print_document

_WIDTH = 80  # of a pipe or a file


def print_report(report: RenderableType) -> None:
    """Print a report on stdout; into a pipe, without the blanks that tables end lines with."""
    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        width=None if terminal else _WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )
    if terminal:
        console.print(report)
        return
    with console.capture() as captured:
        console.print(report)
    print_document("\n".join(line.rstrip() for line in captured.get().rstrip().split("\n")))
