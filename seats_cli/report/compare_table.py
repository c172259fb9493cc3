"""A comparison as a table for the terminal and as one in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.report.format import format_bytes, format_percent, format_seconds, format_si

if TYPE_CHECKING:
    from seats_cli.results import ComparedRun, Comparison


HEADERS = ("", "same", "1st", "KL", "agree", "kept", "FLOPs", "prefill", "total", "memory")
MEANINGS = (
    "same: the text equals the unpruned answer. 1st: so does the likeliest first token. "
    "KL: divergence of the first token's distribution, in nats. agree: share of equal tokens. "
    "kept: audio-visual tokens, mean over layers. FLOPs: LLM prefill. prefill: with selection."
)
NOTHING_TO_COMPARE = "The unpruned model does not fit: there is no answer to compare with."


def comparison_report(comparison: Comparison) -> RenderableType:
    """Numbers first, then the answers: both in 80 columns."""
    numbers = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for number, header in enumerate(HEADERS):
        numbers.add_column(header, justify="left" if number == 0 else "right", no_wrap=True)
    for run in comparison.runs:
        numbers.add_row(*(Text(cell) for cell in cells(run)))
    answers = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    answers.add_column("", no_wrap=True)
    answers.add_column("Answer", overflow="fold")
    for run in comparison.runs:
        answers.add_row(Text(run.label), answer_text(run))
    heading = Text(f"{comparison.question}  ({comparison.model.id})", style="bold")
    parts: list[RenderableType] = [heading, Text(), numbers, Text(), answers, Text()]
    if not comparison.unpruned_fits:
        parts += [Text(NOTHING_TO_COMPARE, style="yellow")]
    return Group(*parts, Text(MEANINGS, style="dim"))


def answer_text(run: ComparedRun) -> Text:
    """The answer, or why there is none."""
    if run.error is not None:
        return Text(f"could not run: {run.error}", style="yellow")
    assert run.answer is not None
    return Text(run.answer.text or "(empty)")


def cells(run: ComparedRun) -> list[str]:
    """The numbers of a run, one for each of `HEADERS`; dashes where it could not run."""
    answer = run.answer
    if answer is None:
        return [run.label, *["-"] * (len(HEADERS) - 1)]
    cost = answer.cost
    peak = cost.peak_host_bytes if cost.peak_gpu_bytes is None else cost.peak_gpu_bytes
    return [
        run.label,
        _yes(run.same_answer),
        _yes(run.same_first_token),
        "-" if run.first_token_kl_nats is None else f"{run.first_token_kl_nats:.3f}",
        "-" if run.token_agreement is None else f"{100 * run.token_agreement:.0f} %",
        format_percent(answer.trace.average_retention()[2]),
        format_si(cost.prefill_flops),
        format_seconds(run.prefill_and_selection_s),
        format_seconds(answer.timing.total_s),
        format_bytes(peak),
    ]


def comparison_markdown(comparison: Comparison) -> str:
    """One Markdown table with the answers in the last column."""
    headers = ("run", *HEADERS[1:], "answer")
    lines = [
        _markdown_row(headers),
        _markdown_row(["---", *["---:"] * (len(HEADERS) - 1), "---"]),
    ]
    for run in comparison.runs:
        lines.append(_markdown_row([*cells(run), answer_text(run).plain]))
    return "\n".join(lines)


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def _markdown_row(texts: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(" ".join(text.replace("|", "\\|").split()) for text in texts) + " |"
