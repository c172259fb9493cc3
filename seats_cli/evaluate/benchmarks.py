"""Question sets by name: readers of public benchmarks, whose annotations and videos the user has.

A reader takes the folder that holds the annotations as published, and the videos beside them. All
follow the settings of the SEATS paper: 2 frames per second, an upper bound on the frames of each
benchmark, 128 to 144 merged tokens per temporal grid, greedy answers of one letter. What a prompt
says follows the benchmark's own evaluation code, in other words.

Daily-Omni (arXiv 2505.17862; layout from the authors' README and test scripts)::

    qa.json                        list of objects with Question, Choice (list), Answer (letter),
                                   video_id, Type, video_category, video_duration
    Videos/<id>/<id>_video.mp4     the paper's code has this folder in lower case

WorldSense (arXiv 2502.04326; layout from the benchmark's reader in VLMEvalKit)::

    worldsense_qa.json     object: video name -> {duration, domain, sub_category, audio_class, ...,
                           task0: {question, candidates (list), answer (letter), task_type,
                           task_domain}, task1: ...}
    videos/<name>.mp4      from worldsense_videos_*.zip
    test-*.parquet         in place of the JSON: one row for each question, and video_path, as in
                           the copy that the paper's code reads (lmms-lab/WorldSense)

OmniVideoBench (layout from the authors' example data and loader, NJU-LINK/OmniVideoBench)::

    data.json              list: {video ("video_1"), video_type, duration ("03:28"), questions:
                           [{question, question_type, audio_type, options (list), correct_option
                           (letter), answer (text)}]}
    videos/<video>.mp4
    data.parquet           in place of the JSON, by the paper's code: one row for each question, and
                           video "videos/video_1.mp4"; that file itself was not seen here

Video-MME (arXiv 2405.21075; the hub's layout from its data card and its reader in lmms-eval, the
JSON from the README of BradyFU/Video-MME). Questions are asked without subtitles: the model hears
the sound::

    videomme/test-*.parquet    one row for each question: video_id, duration, domain, sub_category,
                               url, videoID, question_id, task_type, question, options (list),
                               answer (letter)
    data/<videoID>.mp4         from videos_chunked_*.zip; also .MP4 and .mkv
    *.json                     in place of Parquet, a list with video_id, duration_category,
                               video_category, url and questions [{question_id, task_type, question,
                               choices, answer}]; the video is named after the id at the end of the
                               url, or video_id

LVOmniBench (arXiv 2603.19217; layout from the authors' framework, KD-TAO/LVOmniBench). What else
an entry holds is from the paper's code, which reads a copy with the answer under "answer"; all of
it is optional here::

    data.json                 list: video_id, question, options (list), correct_option (letter), ...
    videos/<video_id>.mp4
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seats_cli.errors import UsageError
from seats_cli.evaluate.annotations import Row, find_file, find_folder, read_annotations, video_file
from seats_cli.evaluate.generated import (
    CLIP_KINDS,
    DEFAULT_COUNT,
    DEFAULT_SEED,
    SYNTHETIC,
    synthetic_set,
)
from seats_cli.evaluate.jsonl import read_jsonl
from seats_cli.evaluate.questions import EvalProtocol, Item, QuestionSet
from seats_cli.world.wording import FAMILIES


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's layout and how it is asked."""

    max_frames: int  # upper bound on the frames of a clip
    prompt: Mapping[str, Any]  # what differs from `EvalProtocol`'s defaults
    sources: tuple[str, ...]  # patterns of the file with the annotations, tried in order
    # Where the videos are, the first that is there; empty for the benchmark's own folder.
    folders: tuple[str, ...]
    video: Callable[[Row, Path], str]  # path of a row's video in that folder
    # Fields of a row, the first that is there.
    answer: tuple[str, ...]
    choices: tuple[str, ...]
    family: tuple[str, ...]
    kind: tuple[str, ...]
    meta: Mapping[str, tuple[str, ...]]  # more of them, to be stored with the answers
    # Fields; without `id`, questions are numbered.
    question: str = "question"
    id: str | None = None

    def read(self, name: str, root: Path) -> QuestionSet:
        """Read the benchmark from its folder.

        A video that is missing among others fails when its turn comes, and the run goes on.

        Raises
        ------
        UsageError
            If something is missing, not a single video is there, or the layout is another.
        """
        source = find_file(root, *self.sources)
        folder = find_folder(root, *self.folders) if self.folders else root
        rows = _rows(read_annotations(source), source.name)
        items = tuple(self._item(name, number, row, folder) for number, row in enumerate(rows))
        if not items:
            raise UsageError(f"{root} holds no questions of {name}.")
        paths = dict.fromkeys(item.media for item in items if isinstance(item.media, str))
        if not any(Path(path).is_file() for path in paths):
            raise UsageError(
                f"None of the {len(paths)} videos of {name} is there; expected is for example "
                f"{next(iter(paths))}."
            )
        return QuestionSet(name, items, self._protocol())

    def _item(self, name: str, number: int, row: Row, folder: Path) -> Item:
        return Item(
            id=f"{name}-{row.text(self.id) if self.id else f'{number:04d}'}",
            media=self.video(row, folder),
            question=row.text(self.question),
            answer=row.text(*self.answer).strip().upper(),
            choices=row.choices(*self.choices),
            family=row.text(*self.family, default=""),
            kind=row.text(*self.kind, default=""),
            meta={key: row.text(*fields, default="") for key, fields in self.meta.items()},
        )

    def _protocol(self) -> EvalProtocol:
        """The paper's settings, 128 to 144 tokens a grid among them."""
        return EvalProtocol(
            fps=2.0,
            max_frames=self.max_frames,
            min_tokens_per_grid=128,
            max_tokens_per_grid=144,
            **self.prompt,
        )


def _rows(content: Any, name: str) -> Iterator[Row]:
    """One row for each question: questions stand by themselves or below their video.

    Below their video they are a list under "questions", or objects under "task0", "task1" and so
    on in an object with an entry for each video.
    """
    if isinstance(content, dict):
        for video, facts in content.items():
            if not isinstance(facts, dict):
                raise UsageError(f"{name}, {video}: this entry is not an object.")
            for task, values in facts.items():
                if task.startswith("task") and isinstance(values, dict):
                    yield Row({**facts, **values, "video": video}, f"{name}, {video}, {task}")
        return
    for number, entry in enumerate(content, start=1):
        if "questions" not in entry:
            yield Row(entry, f"{name}, question {number}")
            continue
        where, questions = f"{name}, entry {number}", entry["questions"]
        if not isinstance(questions, list) or not all(isinstance(one, dict) for one in questions):
            raise UsageError(f"{where}: 'questions' must be a list of objects.")
        for place, values in enumerate(questions, start=1):
            yield Row({**entry, **values}, f"{where}, question {place}")


def _of_daily_omni(row: Row, folder: Path) -> str:
    video = row.text("video_id")
    return str(folder / video / f"{video}_video.mp4")


def _of_worldsense(row: Row, folder: Path) -> str:
    path = row.text("video_path", default="")
    return str(folder / path) if path else video_file(folder / "videos", row.text("video"))


def _of_omnivideobench(row: Row, folder: Path) -> str:
    video = row.text("video")
    return str(folder / video) if Path(video).suffix else video_file(folder / "videos", video)


def _of_video_mme(row: Row, folder: Path) -> str:
    if name := row.text("videoID", default=""):
        return video_file(folder, name)
    own = video_file(folder, row.text("video_id"))
    found = re.search(r"(?:v=|youtu\.be/|shorts/)([\w-]{11})", row.text("url", default=""))
    return own if found is None or Path(own).is_file() else video_file(folder, found[1])


BENCHMARKS = {
    "daily-omni": Benchmark(
        max_frames=128,
        prompt={
            "preamble": "Here is a multiple-choice question about the video. Choose the most "
            "accurate option.",
            "question_label": "Question: ",
            "options_label": "Choices:",
            "instruction": "Reply with the capital letter of your choice and no other text.",
        },
        sources=("qa.json", "QA_all.json", "**/qa.json"),
        folders=("Videos", "videos"),
        video=_of_daily_omni,
        question="Question",
        answer=("Answer",),
        choices=("Choice",),
        family=("Type",),
        kind=("video_duration",),
        meta={"category": ("video_category",)},
    ),
    "worldsense": Benchmark(
        max_frames=128,
        prompt={
            "options_label": "Options:",
            "instruction": "Reply directly with the letter of the option you choose.",
        },
        sources=("worldsense_qa.json", "**/test-*.parquet"),
        folders=(),
        video=_of_worldsense,
        answer=("answer",),
        choices=("candidates",),
        family=("task_type",),
        kind=("domain",),
        meta={"duration": ("duration",)},
    ),
    "omnivideobench": Benchmark(
        max_frames=256,
        prompt={
            "preamble": "Answer this question from what the video shows and plays.",
            "question_label": "Question:\n",
            "options_label": "Options:",
            "instruction": "Reply directly with the letter of one option. If you are not sure, "
            "choose the one that is likelier than the others; an explanation is not wanted.",
        },
        sources=("data.json", "data.parquet", "**/data.json", "**/*.parquet"),
        folders=(),
        video=_of_omnivideobench,
        answer=("correct_option",),
        choices=("options",),
        family=("question_type",),
        kind=("video_type",),
        meta={"duration": ("duration",), "audio_type": ("audio_type",)},
    ),
    "video-mme": Benchmark(
        max_frames=768,
        prompt={
            "preamble": "Choose the best option for this multiple-choice question about the "
            "video. Reply with the letter of that option only.",
            "instruction": "Best option:",  # the authors' text ends where the answer begins
            "max_new_tokens": 16,
        },
        sources=("videomme/test-*.parquet", "test-*.parquet", "**/test-*.parquet", "*.json"),
        folders=("data", "videos", "video"),
        video=_of_video_mme,
        id="question_id",
        answer=("answer",),
        choices=("options", "choices"),
        family=("task_type",),
        kind=("duration", "duration_category"),
        meta={
            "domain": ("domain", "video_category"),
            "sub_category": ("sub_category", "video_sub_category"),
        },
    ),
    "lvomnibench": Benchmark(
        max_frames=768,
        prompt={
            "question_label": "Question: ",
            "options_label": "Options:",
            "instruction": "Choose the best of these options. Reply with its letter alone, without "
            "the text of the option and without an explanation.",
        },
        sources=("data.json", "**/data.json", "**/test*.parquet"),
        folders=("videos",),
        video=lambda row, folder: video_file(folder, row.text("video_id")),
        answer=("correct_option", "answer"),
        choices=("options",),
        family=("question_type",),
        kind=("difficulty",),
        meta={
            name: (name,)
            for name in ("question_id", "audio_type", "video_category", "sub_category", "duration")
        },
    ),
}


def read_benchmark(name: str, root: str | Path) -> QuestionSet:
    """Read a benchmark from the folder in which it was unpacked.

    Parameters
    ----------
    name : str
        One of `BENCHMARKS`; case and the characters "-_ " do not matter.
    root : str or Path
        Folder with annotations and videos.

    Raises
    ------
    UsageError
        If the name is unknown, or something is missing or not in the published layout.
    """
    plain = {known.replace("-", ""): known for known in BENCHMARKS}
    found = plain.get(name.lower().translate(str.maketrans("", "", "-_ ")))
    if found is None:
        raise UsageError(f"There is no benchmark {name!r}; known are {', '.join(BENCHMARKS)}.")
    return BENCHMARKS[found].read(found, Path(root))


# ------------------------------------------------ sets by what the user calls them


def question_set(
    name: str,
    *,
    root: Path | None = None,
    limit: int | None = None,
    set_seed: int | None = None,
    only: Sequence[str] = (),
) -> QuestionSet:
    """Find a set.

    Parameters
    ----------
    name : str
        "synthetic", the name of a benchmark, or the path of a JSON lines file.
    root : Path, optional
        Folder of a benchmark's annotations and videos.
    limit : int, optional
        At most so many questions, the first ones; of "synthetic", which has no end, so many.
    set_seed : int, optional
        Of "synthetic": another one.
    only : sequence of str
        Families of questions or kinds of clips; all by default. "synthetic" knows every family of
        generated questions, and finds nothing of one that it leaves out.

    Raises
    ------
    UsageError
        There is no such set, it cannot be read, or it has no such family or kind.
    """
    if set_seed is not None and name != SYNTHETIC:
        raise UsageError("`set_seed` is for the generated set only.")
    if root is not None:
        found = read_benchmark(name, root)
    elif name in BENCHMARKS:
        raise UsageError(f"{name} needs `root`, the folder with its annotations and videos.")
    elif name == SYNTHETIC:
        _check_names(SYNTHETIC, (*FAMILIES, *CLIP_KINDS), only)
        return synthetic_set(
            DEFAULT_COUNT if limit is None else limit,
            seed=DEFAULT_SEED if set_seed is None else set_seed,
            only=only,
        )
    elif Path(name).suffix.lower() in (".jsonl", ".json"):
        found = read_jsonl(name)
    else:
        raise UsageError(
            f"There is no question set '{name}': give {SYNTHETIC}, a .jsonl file, "
            f"or one of {', '.join(BENCHMARKS)}."
        )
    return _of_kind(found, only).limited(limit)


def _of_kind(questions: QuestionSet, only: Sequence[str]) -> QuestionSet:
    """The questions whose family or kind of clip is among `only`."""
    if not only:
        return questions
    known = {name for item in questions.items for name in (item.family, item.kind) if name}
    _check_names(questions.name, known, only)
    return _among(questions, only)


def _check_names(title: str, known: Collection[str], only: Sequence[str]) -> None:
    for name in only:
        if name not in known:
            raise UsageError(
                f"{title} has no questions or clips of kind '{name}': "
                f"{', '.join(sorted(known)) or 'it names no kinds'}."
            )


def _among(questions: QuestionSet, only: Sequence[str]) -> QuestionSet:
    items = tuple(item for item in questions.items if {item.family, item.kind} & set(only))
    return replace(questions, items=items)
