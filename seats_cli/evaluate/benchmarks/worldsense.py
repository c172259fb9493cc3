"""WorldSense (arXiv 2502.04326): 26 tasks on videos with a soundtrack that matters.

Layout of the published data (honglyhly/WorldSense), from the benchmark's reader in VLMEvalKit::

    worldsense_qa.json     object: video name -> {duration, domain, sub_category, audio_class, ...,
                           task0: {question, candidates (list), answer (letter), task_type,
                           task_domain}, task1: ...}
    videos/<name>.mp4      from worldsense_videos_*.zip

The copy that the evaluation code of the SEATS paper reads (lmms-lab/WorldSense, Parquet with one
row for each question and video_path) is read too, where a test-*.parquet is found and no
worldsense_qa.json. The prompt lists the options and asks for the letter, as that code does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks.annotations import (
    Row,
    find_file,
    find_folder,
    protocol,
    question_set,
    read_json,
    read_rows,
    video_file,
)
from seats_cli.evaluate.questions import Item, QuestionSet

PROTOCOL = protocol(
    128,
    options_label="Options:",
    instruction="Reply directly with the letter of the option you choose.",
)


def read(root: Path) -> QuestionSet:
    """Read the benchmark; see the module for the layout.

    Raises
    ------
    UsageError
        If something is missing or not in this layout.
    """
    source = find_file(root, "worldsense_qa.json", "**/test-*.parquet")
    if source.suffix == ".parquet":
        items = [
            _item(Row(values, f"{source.name}, row {number}"), root, number)
            for number, values in enumerate(read_rows(source))
        ]
    else:
        items = list(_nested(read_json(source), source.name, find_folder(root, "videos")))
    return question_set("worldsense", root, items, PROTOCOL)


def _nested(content: Any, name: str, videos: Path) -> Iterator[Item]:
    """Items of the published JSON: an object for each video with an object for each task."""
    if not isinstance(content, dict):
        raise UsageError(f"{name} must hold an object with one entry for each video.")
    number = 0
    for video, facts in content.items():
        if not isinstance(facts, dict):
            raise UsageError(f"{name}, {video}: this entry is no object.")
        for task, values in facts.items():
            if not task.startswith("task") or not isinstance(values, dict):
                continue
            row = Row({**facts, **values, "video": video}, f"{name}, {video}, {task}")
            yield _item(row, videos, number)
            number += 1


def _item(row: Row, folder: Path, number: int) -> Item:
    path = row.text("video_path", default="")
    media = str(folder / path) if path else video_file(folder, row.text("video"))
    return Item(
        id=f"worldsense-{number:04d}",
        media=media,
        question=row.text("question"),
        answer=row.text("answer").strip(),
        choices=row.choices("candidates"),
        family=row.text("task_type", default=""),
        kind=row.text("domain", default=""),
        meta={"duration": row.text("duration", default="")},
    )
