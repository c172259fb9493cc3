"""Daily-Omni (arXiv 2505.17862): everyday videos of 30 and 60 s, sound and picture together.

Layout, from the authors' README and test scripts (Lliar-liar/Daily-Omni)::

    qa.json                        list of objects with Question, Choice (list), Answer (letter),
                                   video_id, Type, video_category, video_duration
    Videos/<id>/<id>_video.mp4

The evaluation code of the SEATS paper has the folder in lower case; both are found. The prompt
says what the authors' does: choose the most accurate option, answer with a capital letter only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seats_cli.evaluate.benchmarks.annotations import (
    Row,
    find_file,
    find_folder,
    protocol,
    question_set,
    read_rows,
)
from seats_cli.evaluate.questions import Item, QuestionSet

PROTOCOL = protocol(
    128,
    preamble="Here is a multiple-choice question about the video. Choose the most accurate option.",
    question_label="Question: ",
    options_label="Choices:",
    instruction="Reply with the capital letter of your choice and no other text.",
)


def read(root: Path) -> QuestionSet:
    """Read the benchmark; see the module for the layout.

    Raises
    ------
    UsageError
        If something is missing or not in this layout.
    """
    source = find_file(root, "qa.json", "QA_all.json", "**/qa.json")
    videos = find_folder(root, "Videos", "videos")
    rows = [
        Row(values, f"{source.name}, question {number}")
        for number, values in enumerate(read_rows(source), start=1)
    ]
    return question_set("daily-omni", root, _items(rows, videos), PROTOCOL)


def _items(rows: list[Row], videos: Path) -> Iterator[Item]:
    for number, row in enumerate(rows):
        video = row.text("video_id")
        yield Item(
            id=f"daily-omni-{number:04d}",
            media=str(videos / video / f"{video}_video.mp4"),
            question=row.text("Question"),
            answer=row.text("Answer").strip(),
            choices=row.choices("Choice"),
            family=row.text("Type", default=""),
            kind=row.text("video_duration", default=""),
            meta={"category": row.text("video_category", default="")},
        )
