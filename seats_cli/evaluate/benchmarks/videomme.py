"""Video-MME (arXiv 2405.21075): 2,700 questions on 900 videos of 11 s to an hour.

Two layouts are published. The one on the hub (lmms-lab/Video-MME, from its data card and its reader
in lmms-eval)::

    videomme/test-*.parquet    one row for each question: video_id, duration, domain, sub_category,
                               url, videoID, question_id, task_type, question, options (list),
                               answer (letter)
    data/<videoID>.mp4         from videos_chunked_*.zip; also .MP4 and .mkv

and the authors' JSON (BradyFU/Video-MME, from the README): a list with video_id,
duration_category, video_category, url and questions [{question_id, task_type, question, choices,
answer}], where the video is named after the id at the end of the url, or video_id. Questions are
asked without subtitles: the model hears the sound. As in the authors' prompt the request comes
first and the text ends where the answer begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seats_cli.errors import UsageError
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
    preamble=(
        "Choose the best option for this multiple-choice question about the video. Reply with the "
        "letter of that option only."
    ),
    instruction="Best option:",
    max_new_tokens=16,
)
_YOUTUBE_ID = re.compile(r"(?:v=|youtu\.be/|shorts/)([\w-]{11})")


def read(root: Path) -> QuestionSet:
    """Read the benchmark; see the module for the layouts.

    Raises
    ------
    UsageError
        If something is missing or in neither layout.
    """
    source = find_file(
        root, "videomme/test-*.parquet", "test-*.parquet", "**/test-*.parquet", "*.json"
    )
    videos = find_folder(root, "data", "videos", "video")
    rows = _rows(read_rows(source), source.name)
    return question_set("video-mme", root, [_item(row, videos) for row in rows], PROTOCOL)


def _rows(entries: list[Mapping[str, Any]], name: str) -> Iterator[Row]:
    for number, entry in enumerate(entries, start=1):
        where = f"{name}, entry {number}"
        questions = entry.get("questions", [entry])
        if not isinstance(questions, list) or not all(isinstance(one, dict) for one in questions):
            raise UsageError(f"{where}: 'questions' must be a list of objects.")
        for values in questions:
            yield Row({**entry, **values}, f"{where}, {values.get('question_id', 'question')}")


def _item(row: Row, videos: Path) -> Item:
    return Item(
        id=f"video-mme-{row.text('question_id')}",
        media=video_file(videos, _video_name(row, videos)),
        question=row.text("question"),
        answer=row.text("answer").strip(),
        choices=row.choices("options", "choices"),
        family=row.text("task_type", default=""),
        kind=row.text("duration", "duration_category", default=""),
        meta={
            "domain": row.text("domain", "video_category", default=""),
            "sub_category": row.text("sub_category", "video_sub_category", default=""),
        },
    )


def _video_name(row: Row, videos: Path) -> str:
    """Name of the video's file without extension."""
    if name := row.text("videoID", default=""):
        return name
    own = row.text("video_id")
    found = _YOUTUBE_ID.search(row.text("url", default=""))
    if found is None or Path(video_file(videos, own)).is_file():
        return own
    return found[1]
