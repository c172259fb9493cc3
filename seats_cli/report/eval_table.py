"""An evaluation as tables for the terminal (80 columns) and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

from rich.console import Group as Renderables
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.evaluate.statistics import FEWEST
from seats_cli.report.columns import MISSING, Column, markdown, table
from seats_cli.report.phrases import format_bytes, format_percent, format_si, time_words

if TYPE_CHECKING:
    from seats_cli.evaluate.statistics import Estimate
    from seats_cli.evaluate.summary import SettingSummary, Summary


MEANINGS = (
    "right: accuracy in per cent, with 95 % bootstrap intervals over clips (none from fewer than "
    f"{FEWEST} questions). vs full: difference to the unpruned model in points, on the same "
    "questions. p: exact McNemar test. kept: accuracy over that of the unpruned model, in per cent."
)
# Of costs in the terminal and in Markdown, whose columns differ.
_FLOPS = (
    "the LLM's prefill and the selection, with the layers of trained methods and without the "
    "encoders"
)
_TIMES = "medians over clips and without the encoders, the prefill without selection."
COST_MEANINGS = (
    "kept: audio-visual tokens, mean over layers. video, audio: tokens, mean over layers. FLOPs: "
    f"{_FLOPS}, and their share of the unpruned prefill. Times are {_TIMES}"
)
MARKDOWN_COST_MEANINGS = (
    "tokens: audio-visual tokens kept, mean over layers. FLOPs: "
    f"{_FLOPS}, as a share of the unpruned prefill. prefill: seconds, {_TIMES}"
)
_WIDTH = 80  # columns of a terminal
_REASON = 240  # characters of an error that are shown


def points(estimate: Estimate, *, signed: bool = False) -> str:
    """A share as per cent with one decimal, or a difference in points with its sign."""
    return _number(estimate.value, signed)


def interval(estimate: Estimate, *, signed: bool = False) -> str:
    """The ends of an interval, `95.8-98.4` or `-5.9, -2.4`; a dash from too few questions."""
    if estimate.interval is None:
        return MISSING
    return (", " if signed else "-").join(_number(end, signed) for end in estimate.interval)


def _with_interval(estimate: Estimate, *, signed: bool = False) -> str:
    return f"{points(estimate, signed=signed)} ({interval(estimate, signed=signed)})"


def _number(share: float, signed: bool) -> str:
    text = f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"
    return {"+0.0": "0.0", "-0.0": "0.0", "100.0": "100"}.get(text, text)


def p_words(p: float) -> str:
    """A p value with two digits, `.04`, or `<.001`."""
    if p < 0.001:
        return "<.001"
    return "1" if p >= 0.995 else f"{p:.{2 if p >= 0.0995 else 3}f}".lstrip("0")


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"


# Columns whose rows are settings.
_P = Column("p", attrgetter("overall.p"), p_words)
_KEPT = Column("kept", attrgetter("cost.average_retention"), format_percent)
_FLOPS_RATIO = Column("", attrgetter("cost.flops_ratio"), _percent)
_PREFILL = Column("prefill", attrgetter("cost.prefill_s"), time_words)
_ERRORS = Column("errors", attrgetter("overall.errors"))
_ACCURACY = (
    Column("right", attrgetter("overall.accuracy"), points),
    Column("95 %", attrgetter("overall.accuracy"), interval, missing=""),
    Column("vs full", attrgetter("overall.difference"), partial(points, signed=True)),
    Column("95 %", attrgetter("overall.difference"), partial(interval, signed=True), missing=""),
    _P,
    Column("kept", attrgetter("overall.kept"), points),
)
_COSTS = (
    _KEPT,
    Column("video", attrgetter("cost.video_tokens"), "{:,.0f}".format),
    Column("audio", attrgetter("cost.audio_tokens"), "{:,.0f}".format),
    Column("FLOPs", attrgetter("cost.flops"), format_si),
    _FLOPS_RATIO,
    Column("KV cache", attrgetter("cost.kv_bytes"), format_bytes),
    _PREFILL,
    Column("1st token", attrgetter("cost.first_token_s"), time_words),
)


def _label(header: str) -> Column:
    return Column(header, attrgetter("label"), text=True, wraps=True)


def eval_report(
    summary: Summary,
    *,
    groups: bool = True,
    notes: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> RenderableType:
    """Accuracy and cost of every setting, and, with `groups`, accuracy per family and kind.

    `notes` are sentences on how the questions were asked, `left_out` on settings without a row.
    """
    heading = Text(
        f"{summary.name}: {summary.items:,} questions about {summary.clips:,} clips", style="bold"
    )
    parts: list[RenderableType] = [heading, *map(Text, notes)]
    if summary.settings:
        tables = [_accuracy(summary), table((_label(""), *_COSTS), summary.settings, gap=1)]
        tables += _group_tables(summary) if groups else ()
        parts += [part for found in tables for part in (Text(), found)]
        parts += [Text(), Text(MEANINGS, style="dim"), Text(COST_MEANINGS, style="dim")]
    parts += [Text(words, style="yellow") for words in (*error_lines(summary), *left_out)]
    return Renderables(*parts)


def error_lines(summary: Summary) -> Iterator[str]:
    """One line for each setting with errors, and their cause."""
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
    extra = [_ERRORS] if summary.errors else []
    if any(setting.overall.unparsed for setting in summary.settings):
        extra.insert(0, Column("unread", attrgetter("overall.unparsed")))
    columns = (_label(""), *_ACCURACY, *extra)
    return table(columns, summary.settings, gap=1, bold=lambda setting: setting is summary.full)


def _group_tables(summary: Summary) -> Iterator[Table]:
    """Families and kinds as rows; the unpruned model beside as many settings as fit."""
    names = [group.name for group in (*summary.settings[0].families, *summary.settings[0].kinds)]
    if not names:
        return
    full = [summary.full] if summary.full is not None else []
    room = _WIDTH - max(map(len, names)) - len(" 1,234") - len(" full") * len(full)
    others = [setting for setting in summary.settings if setting is not summary.full]
    for beside in _packed(others, room) or [[]]:
        shown = [*full, *beside]
        columns = (
            Column("", lambda groups: groups[0].name, text=True, wraps=True),
            Column("n", lambda groups: groups[0].asked, "{:,}".format),
            *(_accuracy_of(setting.label, at) for at, setting in enumerate(shown)),
        )
        rows = zip(*((*setting.families, *setting.kinds) for setting in shown), strict=True)
        yield table(columns, rows, gap=1)


def _accuracy_of(header: str, at: int) -> Column:
    """A column of accuracies; a row is a sequence of groups."""
    return Column(header, lambda groups: groups[at].accuracy, points)


def _packed(settings: Sequence[SettingSummary], room: int) -> list[list[SettingSummary]]:
    """Settings in groups whose columns fit into `room` characters; at least one in each."""
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


def eval_markdown(summary: Summary, notes: Sequence[str] = (), left_out: Sequence[str] = ()) -> str:
    """Markdown tables of accuracy and cost, and of the accuracy per family and kind of clip.

    Sentences are those of `eval_report`.
    """
    columns = [
        _label("setting"),
        Column("accuracy", attrgetter("overall.accuracy"), _with_interval),
        Column("vs full", attrgetter("overall.difference"), partial(_with_interval, signed=True)),
        _P,
        Column("kept", attrgetter("overall.kept"), _with_interval),
        replace(_KEPT, header="tokens"),
        replace(_FLOPS_RATIO, header="FLOPs"),
        _PREFILL,
        *([_ERRORS] if summary.errors else []),
    ]
    parts = [
        f"{summary.items:,} questions about {summary.clips:,} clips ({summary.name})",
        *notes,
        markdown(columns, summary.settings),
    ]
    for name, groups_of in (("family", attrgetter("families")), ("clips", attrgetter("kinds"))):
        rows = [(setting.label, *groups_of(setting)) for setting in summary.settings]
        if rows and rows[0][1:]:
            by = [Column(f"setting, by {name}", itemgetter(0), text=True)]
            for at, group in enumerate(rows[0][1:], 1):
                by.append(_accuracy_of(f"{group.name} ({group.asked})", at))
            parts.append(markdown(by, rows))
    meanings = (MEANINGS, MARKDOWN_COST_MEANINGS)
    return "\n\n".join([*parts, *meanings, *error_lines(summary), *left_out])
