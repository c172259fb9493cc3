"""An evaluation as tables for the terminal (80 columns) and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Group as Renderables
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.report.format import NOT_AVAILABLE, format_bytes, format_percent, format_si
from seats_cli.report.profile_table import time_words

if TYPE_CHECKING:
    from seats_cli.evaluate.statistics import Estimate
    from seats_cli.evaluate.summary import Group, SettingSummary, Summary


MEANINGS = (
    "right: accuracy in per cent, with 95 % bootstrap intervals over clips. vs full: difference to "
    "the unpruned model in points, on the same questions. p: exact McNemar test. kept: accuracy "
    "over that of the unpruned model, in per cent."
)
COST_MEANINGS = (
    "kept: audio-visual tokens, mean over layers. video, audio: tokens, mean over layers. FLOPs: "
    "LLM prefill, and its share of the unpruned one. Times are medians, the prefill without "
    "selection."
)
_WIDTH = 80  # columns of a terminal
_REASON = 240  # characters of an error that are shown


def eval_report(summary: Summary, *, groups: bool = True) -> RenderableType:
    """Accuracy and cost of every setting, and, with `groups`, accuracy per family and kind."""
    heading = Text(
        f"{summary.name}: {summary.items:,} questions about {summary.clips:,} clips", style="bold"
    )
    parts: list[RenderableType] = [heading]
    if summary.settings:
        parts += [Text(), _accuracy(summary), Text(), _costs(summary), Text()]
        if groups:
            parts += [part for table in _group_tables(summary) for part in (table, Text())]
        parts += [Text(MEANINGS, style="dim"), Text(COST_MEANINGS, style="dim")]
    parts += [Text(words, style="yellow") for words in error_lines(summary)]
    return Renderables(*parts)


def error_lines(summary: Summary) -> Iterator[str]:
    """One line for each setting with errors, and why they happened."""
    for setting in summary.settings:
        if setting.overall.errors:
            reasons = list(setting.error_reasons)
            first = reasons[0] if len(reasons[0]) <= _REASON else f"{reasons[0][:_REASON]}..."
            more = f" ({len(reasons) - 1} more reasons)" if len(reasons) > 1 else ""
            yield (
                f"{setting.label}: no answer to {setting.overall.errors} of "
                f"{setting.overall.asked} questions, not counted as wrong. {first}{more}"
            )


def _accuracy(summary: Summary) -> Table:
    table = _table("")
    unparsed = any(setting.overall.unparsed for setting in summary.settings)
    errors = summary.errors > 0
    headers = ["right", "95 %", "vs full", "95 %", "p", "kept"]
    for header in (*headers, *(["unread"] if unparsed else []), *(["errors"] if errors else [])):
        table.add_column(header, justify="right", no_wrap=True)
    for setting in summary.settings:
        group = setting.overall
        cells = [
            points(group.accuracy),
            interval(group.accuracy),
            points(group.difference, signed=True),
            interval(group.difference, signed=True),
            p_words(group.p),
            points(group.kept),
        ]
        cells += [str(group.unparsed)] if unparsed else []
        cells += [str(group.errors)] if errors else []
        style = "bold" if setting is summary.full else None
        table.add_row(Text(setting.label), *cells, style=style)
    return table


def _costs(summary: Summary) -> Table:
    table = _table("")
    names = ("kept", "video", "audio", "FLOPs", "", "KV cache", "prefill", "1st token")
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for setting in summary.settings:
        table.add_row(Text(setting.label), *cost_cells(setting))
    return table


def cost_cells(setting: SettingSummary) -> list[str]:
    """Tokens, FLOPs, bytes and seconds of a setting, "-" where there are none."""
    cost = setting.cost
    cells = [
        format_percent(cost.average_retention),
        NOT_AVAILABLE if cost.video_tokens is None else f"{cost.video_tokens:,.0f}",
        NOT_AVAILABLE if cost.audio_tokens is None else f"{cost.audio_tokens:,.0f}",
        format_si(cost.prefill_flops),
        NOT_AVAILABLE if cost.flops_ratio is None else f"{100 * cost.flops_ratio:.0f} %",
        format_bytes(cost.kv_bytes),
        *(
            NOT_AVAILABLE if seconds is None else time_words(seconds)
            for seconds in (cost.prefill_s, cost.first_token_s)
        ),
    ]
    return ["-" if cell == NOT_AVAILABLE else cell for cell in cells]


def _group_tables(summary: Summary) -> Iterator[Table]:
    """Families and kinds as rows; the unpruned model beside as many settings as fit."""
    names = [group.name for group in (*summary.settings[0].families, *summary.settings[0].kinds)]
    if not names:
        return
    full = [summary.full] if summary.full is not None else []
    room = _WIDTH - max(map(len, names)) - len(" 1,234") - len(" full") * len(full)
    others = [setting for setting in summary.settings if setting is not summary.full]
    for columns in _packed(others, room) or [[]]:
        table = _table("")
        table.add_column("n", justify="right", no_wrap=True)
        for setting in (*full, *columns):
            table.add_column(setting.label, justify="right", no_wrap=True)
        for part in ("families", "kinds"):
            for groups in zip(*(getattr(one, part) for one in (*full, *columns)), strict=True):
                cells = [points(group.accuracy) for group in groups]
                table.add_row(Text(groups[0].name), f"{groups[0].asked:,}", *cells)
        yield table


def _packed(settings: Sequence[SettingSummary], room: int) -> list[list[SettingSummary]]:
    """Settings in rows of columns no wider than `room` characters; at least one in each."""
    rows: list[list[SettingSummary]] = []
    left = 0
    for setting in settings:
        width = 1 + max(len(setting.label), len("100"))
        if not rows or width > left:
            rows.append([])
            left = room
        rows[-1].append(setting)
        left -= width
    return rows


def eval_markdown(summary: Summary) -> str:
    """Markdown tables of accuracy and cost, and of the accuracy per family and kind of clip."""
    lines = [f"{summary.items:,} questions about {summary.clips:,} clips ({summary.name})", ""]
    headers = ["setting", "accuracy", "vs full", "p", "kept", "tokens", "FLOPs", "prefill"]
    extra = ["errors"] if summary.errors else []
    rows = []
    for setting in summary.settings:
        group, cost = setting.overall, cost_cells(setting)
        cells = [
            setting.label,
            _with_interval(group.accuracy),
            _with_interval(group.difference, signed=True),
            p_words(group.p),
            _with_interval(group.kept),
            cost[0],
            cost[4],
            cost[6],
        ]
        rows.append([*cells, *([str(group.errors)] if extra else [])])
    lines += markdown_table([*headers, *extra], rows)
    for name, groups in (
        ("family", [setting.families for setting in summary.settings]),
        ("clips", [setting.kinds for setting in summary.settings]),
    ):
        if groups and groups[0]:
            lines += ["", *_markdown_groups(name, summary, groups)]
    lines += ["", MEANINGS]
    lines += [f"\n{words}" for words in error_lines(summary)]
    return "\n".join(lines)


def _markdown_groups(name: str, summary: Summary, groups: Sequence[Sequence[Group]]) -> list[str]:
    """One row for each setting and one column for each family or kind."""
    headers = [f"setting, by {name}", *(f"{one.name} ({one.asked})" for one in groups[0])]
    rows = [
        [setting.label, *(points(group.accuracy) for group in own)]
        for setting, own in zip(summary.settings, groups, strict=True)
    ]
    return markdown_table(headers, rows)


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are numbers."""

    def line(cells: Sequence[str]) -> str:
        return (
            "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
        )

    return [line(headers), line(["---", *["---:"] * (len(headers) - 1)]), *map(line, rows)]


def points(estimate: Estimate | None, *, signed: bool = False) -> str:
    """A share as per cent with one decimal, or a difference in points with its sign."""
    if estimate is None:
        return "-"
    return _number(estimate.value, signed)


def interval(estimate: Estimate | None, *, signed: bool = False) -> str:
    """The ends of an interval, `95.8-98.4` or `-5.9, -2.4`."""
    if estimate is None:
        return ""
    between = ", " if signed else "-"
    return f"{_number(estimate.low, signed)}{between}{_number(estimate.high, signed)}"


def _with_interval(estimate: Estimate | None, *, signed: bool = False) -> str:
    if estimate is None:
        return "-"
    return f"{points(estimate, signed=signed)} ({interval(estimate, signed=signed)})"


def _number(share: float, signed: bool) -> str:
    text = f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"
    return {"+0.0": "0.0", "-0.0": "0.0", "100.0": "100"}.get(text, text)


def p_words(p: float | None) -> str:
    """A p value with two digits, `.04`, or `<.001`."""
    if p is None:
        return "-"
    if p < 0.001:
        return "<.001"
    return "1" if p >= 0.995 else f"{p:.{2 if p >= 0.0995 else 3}f}".lstrip("0")


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")  # a long label must not push numbers out
    return table
