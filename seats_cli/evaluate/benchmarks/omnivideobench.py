"""OmniVideoBench: 1,000 questions on 628 videos of up to 30 minutes.

Layout, from the authors' example data and loader (NJU-LINK/OmniVideoBench)::

    data.json              list: {video ("video_1"), video_type, duration ("03:28"), questions:
                           [{question, question_type, audio_type, options (list), correct_option
                           (letter), answer (text)}]}
    videos/<video>.mp4

The data set on the hub is said, by the evaluation code of the SEATS paper, to be data.parquet with
one row for each question and video "videos/video_1.mp4"; that file itself was not seen here, and
the reader takes it with these names. The prompt says what the authors' does: answer with the
letter, and choose the likeliest option where the video does not settle it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks.annotations import (
    Row,
    find_file,
    protocol,
    question_set,
    read_rows,
    video_file,
)
from seats_cli.evaluate.questions import Item, QuestionSet

PROTOCOL = protocol(
    256,
    preamble="Answer this question from what the video shows and plays.",
    question_label="Question:\n",
    options_label="Options:",
    instruction=(
        "Reply directly with the letter of one option. If you are not sure, choose the one that "
        "is likelier than the others; an explanation is not wanted."
    ),
)


def read(root: Path) -> QuestionSet:
    """Read the benchmark; see the module for the layout.

    Raises
    ------
    UsageError
        If something is missing or not in this layout.
    """
    source = find_file(root, "data.json", "data.parquet", "**/data.json", "**/*.parquet")
    rows = list(_rows(read_rows(source), source.name))
    items = [_item(row, root, number) for number, row in enumerate(rows)]
    return question_set("omnivideobench", root, items, PROTOCOL)


def _rows(entries: list[Mapping[str, Any]], name: str) -> Iterator[Row]:
    """One row for each question, whether they stand under their video or by themselves."""
    for number, entry in enumerate(entries, start=1):
        where = f"{name}, entry {number}"
        questions = entry.get("questions", [entry])
        if not isinstance(questions, list) or not all(isinstance(one, dict) for one in questions):
            raise UsageError(f"{where}: 'questions' must be a list of objects.")
        for place, values in enumerate(questions, start=1):
            yield Row({**entry, **values}, f"{where}, question {place}")


def _item(row: Row, root: Path, number: int) -> Item:
    video = row.text("video")
    media = root / video if Path(video).suffix else Path(video_file(root / "videos", video))
    return Item(
        id=f"omnivideobench-{number:04d}",
        media=str(media),
        question=row.text("question"),
        answer=row.text("correct_option").strip(),
        choices=row.choices("options"),
        family=row.text("question_type", default=""),
        kind=row.text("video_type", default=""),
        meta={
            "duration": row.text("duration", default=""),
            "audio_type": row.text("audio_type", default=""),
        },
    )
