"""LVOmniBench (arXiv 2603.19217): 1,014 questions on 275 videos of 10 to 90 minutes.

Layout, from the authors' evaluation framework (KD-TAO/LVOmniBench, OmniEval)::

    data.json                 list: video_id, question, options (list), correct_option (letter), ...
    videos/<video_id>.mp4

What else an entry holds (question_id, question_type, audio_type, difficulty, video_category) is
from the evaluation code of the SEATS paper, which reads a copy with the answer under "answer"; all
of it is optional here. The prompt says what the authors' does: choose the best option, reply with
its letter, without the option's text or an explanation.
"""

from __future__ import annotations

from pathlib import Path

from seats_cli.evaluate.benchmarks.annotations import (
    Row,
    find_file,
    find_folder,
    protocol,
    question_set,
    read_rows,
    video_file,
)
from seats_cli.evaluate.questions import Item, QuestionSet

PROTOCOL = protocol(
    768,
    question_label="Question: ",
    options_label="Options:",
    instruction=(
        "Choose the best of these options. Reply with its letter alone, without the text of the "
        "option and without an explanation."
    ),
)


def read(root: Path) -> QuestionSet:
    """Read the benchmark; see the module for the layout.

    Raises
    ------
    UsageError
        If something is missing or not in this layout.
    """
    source = find_file(root, "data.json", "**/data.json", "**/test*.parquet")
    videos = find_folder(root, "videos")
    items = [
        _item(Row(values, f"{source.name}, question {number + 1}"), videos, number)
        for number, values in enumerate(read_rows(source))
    ]
    return question_set("lvomnibench", root, items, PROTOCOL)


def _item(row: Row, videos: Path, number: int) -> Item:
    return Item(
        id=f"lvomnibench-{number:04d}",
        media=video_file(videos, row.text("video_id")),
        question=row.text("question"),
        answer=row.text("correct_option", "answer").strip().upper(),
        choices=row.choices("options"),
        family=row.text("question_type", default=""),
        kind=row.text("difficulty", default=""),
        meta={
            name: row.text(name, default="")
            for name in ("question_id", "audio_type", "video_category", "sub_category", "duration")
        },
    )
