"""What a batch asks: items of a JSONL manifest, or the same questions about several files.

An item is `{id?, media, question | questions, start?, end?, choices?, answer?}`. Its questions and
those of other items about the same part of the same file form a `ClipGroup`, which is read, encoded
and prefilled once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seats_cli.errors import MediaError, UsageError
from seats_cli.evaluate.jsonl import (
    check_order,
    choices_of,
    letter_of,
    read_objects,
    text_of,
    time_of,
)
from seats_cli.evaluate.questions import Item
from seats_cli.media.clip import refuse_index
from seats_cli.media.container import local_file
from seats_cli.media.fetch import is_url

KEYS = ("id", "media", "question", "questions", "choices", "answer", "start", "end")
MANIFESTS = (".jsonl", ".ndjson")
# What a folder is searched for. Anything else can be named: what a file holds decides, not its
# name.
_SUFFIXES = (
    "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts mts wmv flv 3gp ogv gif apng "
    "mp3 wav m4a aac flac ogg oga opus wma aiff aif amr ac3"
)
EXTENSIONS = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())

Key = tuple[str, int]  # what names a result: the item's id, and the place of its question


@dataclass(frozen=True)
class BatchQuestion:
    """One question of an item: what one line of the results answers."""

    id: str  # of the item
    index: int  # place among the item's questions, from 0
    media: str  # as the manifest or the command line names it
    question: str | None  # None asks nothing, for a model that describes what it is given
    choices: tuple[str, ...] = ()
    # The right answer: a letter where there are choices, its own or those of the run, else a text;
    # None where there is nothing to score.
    expected: str | None = None
    # Range of the file in seconds; None for what the run says, by default all of it.
    start_s: float | None = None
    end_s: float | None = None

    @property
    def key(self) -> Key:
        """What names its result."""
        return self.id, self.index

    @property
    def fingerprint(self) -> str:
        """Tells whether a result is about this very question: equal for equal contents."""
        content = (
            *(self.media, self.question, self.choices, self.expected),
            *(self.start_s, self.end_s),
        )
        return _digest(content)


@dataclass(frozen=True)
class ClipGroup:
    """The questions about one part of one file, in order."""

    path: str  # the file as this machine finds it, or an http(s) URL
    questions: tuple[BatchQuestion, ...]  # at least one; range and `media` are those of the first

    @property
    def media(self) -> str:
        """The clip as the first of its items names it."""
        return self.questions[0].media


@dataclass(frozen=True)
class Manifest:
    """Everything that a batch asks."""

    name: str
    groups: tuple[ClipGroup, ...]  # in the order of their first questions
    warnings: tuple[str, ...] = ()  # what was found and is not used

    @property
    def questions(self) -> tuple[BatchQuestion, ...]:
        """All questions in the order in which they are asked."""
        return tuple(question for group in self.groups for question in group.questions)


def read_manifest(
    path: str | Path, questions: Sequence[str | None] = (), choices: Sequence[str] = ()
) -> Manifest:
    """Read a manifest in JSON lines.

    Parameters
    ----------
    path : str or Path
        Paths in it are relative to its folder. Times are seconds or clock times. `answer` is one
        for `question`, and a list (null where there is none) for `questions`; with `choices` a
        letter or the text of an option.
    questions : sequence of str or None
        What is asked about items that name no question.
    choices : sequence of str
        Options of items that name none.

    Raises
    ------
    UsageError
        If the file cannot be read, or a line is not an item; the sentence names the line.
    """
    source = Path(path)
    lines = read_objects(source, KEYS)
    asked: list[tuple[str, BatchQuestion]] = []
    first_seen: dict[str, int] = {}
    missing: dict[str, int] = {}
    for number, values in lines.objects:
        where = lines.where(number)
        found = _questions(values, where, questions, tuple(choices))
        before = first_seen.setdefault(found[0].id, number)
        if before != number:
            named = values.get("id") is not None
            what = f"the id {found[0].id!r} was already used in" if named else "it repeats"
            raise UsageError(f"{where}: {what} line {before}.")
        try:
            media = str(local_file(found[0].media))
            refuse_index(media)
        except (MediaError, UsageError) as error:
            raise UsageError(f"{where}: {error}") from error
        if not is_url(media):
            media = str(source.parent / media)
            if not Path(media).exists():
                missing.setdefault(media, number)
        asked += [(media, question) for question in found]
    if not asked:
        raise UsageError(f"{source} holds no items.")
    warnings = [*lines.warnings]
    if missing:
        media, number = next(iter(missing.items()))
        more = f", nor are {len(missing) - 1} other files" if len(missing) > 1 else ""
        warnings.append(
            f"{lines.where(number)}: the file {media} is not there{more}; paths are relative to "
            f"{source.name}."
        )
    return Manifest(source.name, _grouped(asked), tuple(warnings))


def manifest_of_files(names: Sequence[str], questions: Sequence[str | None]) -> Manifest:
    """The same questions about each of several files; the id of a file is its name as given.

    Parameters
    ----------
    names : sequence of str
        Files, http(s) URLs, and folders, in which everything is taken that is video or sound by
        its extension, in folders below as well, but for hidden files.
    questions : sequence of str or None
        At least one.

    Raises
    ------
    UsageError
        If there is no question, a folder cannot be read, or nothing to ask about was found.
    """
    if not questions:
        raise UsageError("There is no question to ask about the files.")
    found: dict[str, None] = {}
    left: list[str] = []
    for name in names:
        if is_url(name) or not Path(name).is_dir():
            found[name] = None
            continue
        for file in _files_in(Path(name)):
            if file.suffix.lower() in EXTENSIONS:
                found[str(file)] = None
            else:
                left.append(str(file))
    if not found:
        raise UsageError(f"{', '.join(names)}: no video or sound was found there.")
    warnings: tuple[str, ...] = ()
    if left:
        more = f" and {len(left) - 1} other files" if len(left) > 1 else ""
        warnings = (
            f"{left[0]}{more} left out: not video or sound by the extension; name a file to ask "
            "about it all the same.",
        )
    asked: list[tuple[str, BatchQuestion]] = []
    for name in found:
        path = name if is_url(name) else str(local_file(name))
        refuse_index(path)
        for index, question in enumerate(questions):
            asked.append((path, BatchQuestion(name, index, name, question)))
    title = names[0] if len(names) == 1 else f"{len(found)} files"
    return Manifest(title, _grouped(asked), warnings)


def _questions(
    values: Mapping[str, Any],
    where: str,
    usual: Sequence[str | None],
    usual_choices: tuple[str, ...],
) -> list[BatchQuestion]:
    """The questions of one item."""
    start, end = time_of(values, "start", where), time_of(values, "end", where)
    check_order(start, end, where)
    choices = choices_of(values, where)
    media = text_of(values, "media", where)
    texts = _texts(values, where, usual)
    answers = _answers(values, len(texts), where)
    name = values.get("id")
    if name is None:
        # Stable whatever is added around it, and readable.
        content = (media, start, end, texts, choices)
        name = f"{Path(media).stem}-{_digest(content)}"
    else:
        name = text_of(values, "id", where)
    found = []
    options = choices or usual_choices
    for index, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        if answer is not None:
            answer = letter_of(answer, options) if options else answer
            try:
                Item(name, media, text or "nothing", answer, options)
            except UsageError as error:
                # "Item <id>: ..." says where, and the line says it better.
                raise UsageError(f"{where}: {str(error).removeprefix(f'Item {name}: ')}") from error
        found.append(BatchQuestion(name, index, media, text, choices, answer, start, end))
    return found


def _texts(values: Mapping[str, Any], where: str, usual: Sequence[str | None]) -> list[str | None]:
    several = values.get("questions")
    if values.get("question") is not None:
        if several is not None:
            raise UsageError(f"{where}: give either 'question' or 'questions'.")
        return [text_of(values, "question", where).strip()]
    if several is None:
        if not usual:
            raise UsageError(f"{where}: 'question' is missing.")
        return list(usual)
    texts = isinstance(several, list) and all(
        isinstance(text, str) and text.strip() for text in several
    )
    if not texts or not several:
        raise UsageError(f"{where}: 'questions' must be a list of one or more non-empty strings.")
    return [text.strip() for text in several]


def _answers(values: Mapping[str, Any], count: int, where: str) -> list[str | None]:
    given = values.get("answer")
    if given is None:
        return [None] * count
    if not isinstance(given, list):
        if count > 1:
            raise UsageError(
                f"{where}: 'answer' must be a list of {count}, one for each question, null where "
                "there is none."
            )
        given = [given]
    if len(given) != count:
        raise UsageError(f"{where}: there are {count} questions and {len(given)} answers.")
    return [
        None if answer is None else text_of({"answer": answer}, "answer", where) for answer in given
    ]


def _grouped(asked: Sequence[tuple[str, BatchQuestion]]) -> tuple[ClipGroup, ...]:
    """Questions about the same part of the same file side by side."""
    groups: dict[tuple[str, float | None, float | None], list[BatchQuestion]] = {}
    paths: dict[str, str] = {}
    for path, question in asked:
        same = path if is_url(path) else os.path.abspath(path)
        paths.setdefault(same, path)
        groups.setdefault((same, question.start_s, question.end_s), []).append(question)
    return tuple(ClipGroup(paths[same], tuple(found)) for (same, _, _), found in groups.items())


def _files_in(folder: Path) -> Iterator[Path]:
    """The files of a folder and of those below it, by name; nothing that is hidden."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}.") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():  # which may lead back
                yield from _files_in(entry)
        else:
            yield entry


def _digest(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
