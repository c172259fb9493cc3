"""A comparison as a table for the terminal and as one in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from seats_cli.report.columns import Column, markdown, table
from seats_cli.report.documents import compared_row
from seats_cli.report.phrases import (
    format_bytes,
    format_percent,
    format_seconds,
    format_si,
    name_phrase,
)

if TYPE_CHECKING:
    from seats_cli.results import Comparison


MEANINGS = (
    "same: the text equals the unpruned answer. 1st: so does the likeliest first token. "
    "KL: divergence of the first token's distribution, in nats. agree: share of equal tokens. "
    "kept: audio-visual tokens, mean over layers. FLOPs and prefill: with selection."
)
ENCODED = " enc.: FLOPs of the encoders against those of encoding everything."
_MEMORY = "memory"
NOTHING_TO_COMPARE = "The unpruned model does not fit: there is no answer to compare with."


def comparison_report(comparison: Comparison) -> RenderableType:
    """Numbers first, then the answers: both in 80 columns."""
    rows = [compared_row(run) for run in comparison.runs]
    heading = Text(f"{comparison.question}  ({name_phrase(comparison.model)})", style="bold")
    skips = _skips(rows)
    # What the encoders were spared takes the place of the memory: 80 columns hold one of them.
    columns = [one for one in _numbers(skips=skips) if not (skips and one.header == _MEMORY)]
    parts: list[RenderableType] = [heading, Text(), table(columns, rows, gap=1)]
    answers = (_label(""), Column("Answer", _answer, text=True, wraps=True))
    parts += [Text(), table(answers, rows), Text()]
    if not comparison.unpruned_fits:
        parts += [Text(NOTHING_TO_COMPARE, style="yellow")]
    return Group(*parts, Text(MEANINGS + ENCODED * skips, style="dim"))


def comparison_markdown(comparison: Comparison) -> str:
    """One Markdown table with the answers in the last column."""
    rows = [compared_row(run) for run in comparison.runs]
    answer = Column("answer", _answer, text=True)
    return markdown((*_numbers("run", skips=_skips(rows)), answer), rows)


def _numbers(label: str = "", *, skips: bool) -> tuple[Column, ...]:
    """The columns of numbers behind the run's label, read from the rows of JSON and CSV."""
    encoded = Column("enc.", _encoded, lambda share: f"{100 * share:.0f} %")
    return (
        _label(label),
        Column("same", itemgetter("same_answer"), _yes),
        Column("1st", itemgetter("same_first_token"), _yes),
        Column("KL", itemgetter("first_token_kl_nats"), "{:.3f}".format),
        Column("agree", itemgetter("token_agreement"), lambda share: f"{100 * share:.0f} %"),
        Column("kept", itemgetter("average_retention"), format_percent),
        *([encoded] if skips else []),
        Column("FLOPs", _flops, format_si),
        Column("prefill", itemgetter("prefill_and_selection_s"), format_seconds),
        Column("total", itemgetter("total_s"), format_seconds),
        Column(_MEMORY, _peak, format_bytes),
    )


def _label(header: str) -> Column:
    return Column(header, itemgetter("label"), text=True)


def _answer(row: Mapping[str, Any]) -> Text:
    """The answer, or why there is none."""
    if row["error"] is not None:
        return Text(f"could not run: {row['error']}", style="yellow")
    return Text(row["answer"] or "(empty)")


def _flops(row: Mapping[str, Any]) -> float | None:
    """Of prefill and selection; None where it could not run."""
    prefill: float | None = row["prefill_flops"]
    return None if prefill is None else prefill + row["selection_flops"]


def _encoded(row: Mapping[str, Any]) -> float | None:
    """Share of the encoders' FLOPs that was executed; None where there is nothing to encode."""
    return row["encoder_flops"] / row["full_encoder_flops"] if row["full_encoder_flops"] else None


def _skips(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether Stage 0 or encoder reuse spared any run a part of the encoders."""
    return any(_encoded(row) not in (None, 1.0) for row in rows)


def _peak(row: Mapping[str, Any]) -> int | None:
    """The largest amount of memory in use: the GPU's, where there is one."""
    on_gpu: int | None = row["peak_gpu_bytes"]
    return row["peak_host_bytes"] if on_gpu is None else on_gpu


def _yes(value: bool) -> str:
    return "yes" if value else "no"
