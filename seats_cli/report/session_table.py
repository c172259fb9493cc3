"""Questions of a session as a table, as JSON and as rows of CSV."""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from seats_cli.report.columns import Column, table
from seats_cli.report.phrases import NOT_AVAILABLE, format_bytes, format_factor, time_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from seats_cli.results import Profile, SessionRun


_WIDEST = 34  # letters of a question beside the times, in 80 columns


def questions_report(
    questions: Sequence[str], sessions: Sequence[SessionRun], room: int
) -> list[RenderableType]:
    """First-token times of all questions, `room` settings beside each other.

    Nothing where no session was measured.
    """
    ran = [run for run in sessions if run.error is None]
    parts: list[RenderableType] = []
    for start in range(0, len(ran), room):
        parts += [Text(), _beside(questions, ran[start : start + room])]
    if sessions:
        parts += [Text(), Text("The first question includes media decode, processor and encoders.")]
    parts += [
        Text(f"{run.label}: no session. {run.error}", style="yellow")
        for run in sessions
        if run.error is not None
    ]
    return parts


def _beside(questions: Sequence[str], runs: Sequence[SessionRun]) -> RenderableType:
    """A column for each run; a row is a label and what to show of a run."""

    def first_token(number: int, run: SessionRun) -> str:
        return time_words(run.first_tokens[number].median_s)

    def further(run: SessionRun) -> str:
        return NOT_AVAILABLE if run.further is None else time_words(run.further.median_s)

    rows: list[tuple[str, Callable[[SessionRun], str]]] = [
        (_short(f"{number + 1} {question}"), partial(first_token, number))
        for number, question in enumerate(questions)
    ]
    rows += [
        ("further ones, median", further),
        ("first / further", lambda run: format_factor(run.ratio)),
        ("held by the session", lambda run: format_bytes(run.session_bytes)),
    ]

    def column(run: SessionRun) -> Column:
        return Column(run.label, lambda row: row[1](run))

    columns = (Column("First token of", itemgetter(0), text=True), *map(column, runs))
    return table(columns, rows, bold=lambda row: row[0] == "first / further")


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3].rstrip()}..."


def session_keys(profile: Profile) -> dict[str, Any]:
    """What sessions add to the document of a profile; nothing where none was measured."""
    if not profile.questions:
        return {}
    return {
        "questions": [
            {
                "question": question,
                "first_token": [
                    {"label": run.label, **vars(run.first_tokens[number])}
                    for run in profile.sessions
                    if run.error is None
                ],
            }
            for number, question in enumerate(profile.questions)
        ],
        "sessions": [
            {
                "label": run.label,
                "method": run.method,
                "retain": run.retain,
                "first_question_s": run.first_tokens[0].median_s if run.first_tokens else None,
                "further_questions_s": None if run.further is None else run.further.median_s,
                "first_over_further": run.ratio,
                "session_bytes": run.session_bytes,
                "error": run.error,
            }
            for run in profile.sessions
        ],
    }


def session_rows(profile: Profile) -> Iterator[dict[str, Any]]:
    """Rows for the CSV of a profile: first-token times of each question and of further ones."""
    for run in profile.sessions:
        facts = {"label": run.label, "method": run.method, "retain": run.retain}
        if run.further is None:
            yield {**facts, "error": run.error}
            continue
        for number, value in enumerate(run.first_tokens, start=1):
            yield {**facts, "stage": f"first_token_of_question_{number}", **vars(value)}
        yield {**facts, "stage": "first_token_of_further_questions", **vars(run.further)}
