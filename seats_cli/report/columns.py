"""Tables for people and for programs: one list of columns gives Rich, Markdown and CSV.

A report names its columns and how their values read once; a row is whatever its columns can
read, such as the flat mappings that are also written as JSON and CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

MISSING = "-"  # shown in tables where a value does not exist


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    header: str
    value: Callable[[Any], Any]  # the value of a row; None is shown as `missing`, a Text as it is
    show: Callable[[Any], str] = str  # formats the value for people
    # Whether the column holds text, aligned left, or numbers, aligned right and never wrapped.
    text: bool = False
    wraps: bool = False  # whether text may take several lines, so that it does not push numbers out
    missing: str = MISSING  # shown where there is no value
    style: str | None = None  # style of the cells in a terminal

    def cell(self, row: Any) -> str | Text:
        """The cell of a row."""
        value = self.value(row)
        if isinstance(value, Text):
            return value
        return self.missing if value is None else self.show(value)


def columns(first: str, *others: str, wraps: bool = False) -> tuple[Column, ...]:
    """Columns for rows that are sequences of cells: text first, then numbers."""
    numbers = (Column(header, itemgetter(at)) for at, header in enumerate(others, 1))
    return (Column(first, itemgetter(0), text=True, wraps=wraps), *numbers)


class FittingTable(Table):
    """A table that becomes one block of lines for each row where it would be cut.

    Labels and numbers stay whole in a narrow terminal: what a table of Rich does there is to end
    cells in an ellipsis.
    """

    def __init__(self, specification: Sequence[Column], gap: int) -> None:
        super().__init__(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
        self._specification = specification
        self._gap = gap
        self._texts: list[tuple[tuple[Text, ...], str | None]] = []
        for column in specification:
            self.add_column(
                column.header,
                justify="left" if column.text else "right",
                no_wrap=not column.wraps,
                overflow="fold" if column.wraps else "ellipsis",
                style=column.style,
            )

    def add_texts(self, texts: tuple[Text, ...], style: str | None) -> None:
        """Add a row."""
        self._texts.append((texts, style))
        self.add_row(*texts, style=style)

    def _narrowest(self) -> int:
        """The width at which nothing is cut yet."""
        total = self._gap * (len(self._specification) - 1)
        for place, column in enumerate(self._specification):
            cells = [Text(column.header), *(texts[place] for texts, _ in self._texts)]
            words = [Text(word) for cell in cells for word in cell.plain.split()]
            total += max((part.cell_len for part in (words if column.wraps else cells)), default=0)
        return total

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Itself where it fits, else a block for each row."""
        if options.max_width >= self._narrowest():
            yield from super().__rich_console__(console, options)
            return
        first, *others = self._specification
        if first.header:
            yield Text(first.header, style="bold")
        for (label, *cells), style in self._texts:
            shown = [
                (column.header, cell.plain)
                for column, cell in zip(others, cells, strict=True)
                if cell.plain
            ]
            widest = max((Text(header).cell_len for header, _ in shown), default=0)
            yield Text(label.plain, style=style or "")
            for header, value in shown:
                yield Text(f"  {header.ljust(widest)}  {value}", style=style or "")


def table(
    specification: Iterable[Column],
    rows: Iterable[Any],
    *,
    gap: int = 2,
    bold: Callable[[Any], bool] = lambda row: False,
) -> FittingTable:
    """The rows as a table without rules, with `gap` spaces between columns."""
    specification = tuple(specification)
    found = FittingTable(specification, gap)
    for row in rows:
        cells = (column.cell(row) for column in specification)
        texts = tuple(cell if isinstance(cell, Text) else Text(cell) for cell in cells)
        found.add_texts(texts, "bold" if bold(row) else None)
    return found


def facts(lines: Iterable[tuple[str, str]]) -> Table:
    """Names in bold, each with its text."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, line in lines:
        grid.add_row(name, Text(line))
    return grid


def markdown(specification: Iterable[Column], rows: Iterable[Any]) -> str:
    """The rows as a Markdown table."""
    specification = tuple(specification)

    def line(cells: Iterable[str | Text]) -> str:
        plain = (" ".join(str(cell).replace("|", "\\|").split()) for cell in cells)
        return f"| {' | '.join(plain)} |"

    lines = [
        line(column.header for column in specification),
        line("---" if column.text else "---:" for column in specification),
    ]
    return "\n".join(lines + [line(column.cell(row) for column in specification) for row in rows])


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as CSV with a header and no final newline."""
    target = io.StringIO()
    writer = csv.DictWriter(target, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue().rstrip("\n")
