"""Question sets in JSON lines: `id, media, question, choices?, answer, start?, end?, family?`.

A multiple-choice answer may be the letter or the option's text. Times are seconds or clock times
("1:15.5"). Paths are relative to the file. Options are listed in the prompt by letter; the bundled
model has not learned to answer with a letter and needs `choice_style="likelihood"`.

`python -m seats_cli.evaluate.jsonl FOLDER` writes the bundled set so, with its clips as files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seats_cli.errors import MediaError, UsageError
from seats_cli.evaluate.questions import LETTERS, EvalProtocol, Item, QuestionSet
from seats_cli.media import parse_time
from seats_cli.media.clip import refuse_index
from seats_cli.media.container import local_file

_ORDER = ("id", "media", "question", "choices", "answer", "start", "end", "family", "kind")
_KNOWN = frozenset(_ORDER)
# Keys of other formats that mean one of ours. Where ours is absent the question would silently be
# another one: open instead of multiple choice, about the whole file instead of a range.
_ALIASES = {
    "options": "choices",
    "candidates": "choices",
    "start_s": "start",
    "start_time": "start",
    "video_start": "start",
    "end_s": "end",
    "end_time": "end",
    "video_end": "end",
    "video": "media",
    "video_path": "media",
    "audio": "media",
    "path": "media",
    "file": "media",
    "query": "question",
    "prompt": "question",
    "label": "answer",
    "ground_truth": "answer",
    "question_id": "id",
}


def read_jsonl(path: str | Path, protocol: EvalProtocol | None = None) -> QuestionSet:
    """Read a question set.

    Parameters
    ----------
    path : str or Path
        One JSON object in each line; empty lines are skipped. Other keys than the known ones are
        kept as `meta` and named in the set's `warnings`, as are clips that are not there.
    protocol : EvalProtocol, optional
        How to read clips and ask; by default the model's own sizes and options by letter.

    Raises
    ------
    UsageError
        If the file cannot be read, or a line is not an item; the sentence names the line.
    """
    source = Path(path)
    items: list[Item] = []
    first_seen: dict[str, int] = {}
    lines = read_objects(source, _ORDER)
    for number, values in lines.objects:
        where = lines.where(number)
        item = _item(values, source.parent, where)
        if item.id in first_seen:
            raise UsageError(
                f"{where}: the id {item.id!r} was already used in line {first_seen[item.id]}."
            )
        first_seen[item.id] = number
        items.append(item)
    if not items:
        raise UsageError(f"{source} holds no questions.")
    warnings = (*lines.warnings, *_about_files(source, items, first_seen))
    return QuestionSet(source.stem, tuple(items), protocol or EvalProtocol(), warnings=warnings)


@dataclass(frozen=True)
class JsonLines:
    """The objects of a file in JSON lines."""

    name: str  # of the file, for messages
    objects: tuple[tuple[int, Mapping[str, Any]], ...]  # line number, from 1, and the object
    warnings: tuple[str, ...]  # names keys that are not read

    def where(self, number: int) -> str:
        """A line, for messages."""
        return f"{self.name}, line {number}"


def read_objects(source: Path, known: Sequence[str]) -> JsonLines:
    """Read one JSON object per line; empty lines are skipped.

    Parameters
    ----------
    known : sequence of str
        Keys that the caller reads. Others are named in `warnings`.

    Raises
    ------
    UsageError
        If the file cannot be read, a line is no object, or an unknown key means one that is known
        and absent; the sentence names the line.
    """
    try:
        # Only "\n" ends a line: texts may hold U+2028 and its like, which `splitlines` cuts at.
        lines = source.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} cannot be read as text: {_reason(error)}.") from error
    objects = []
    unknown: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        line = line.strip("\ufeff \t\r")  # a BOM stands in front of each file of those joined
        if not line:
            continue
        where = f"{source.name}, line {number}"
        values = _object(line, where)
        for name in values.keys() - set(known):
            unknown.setdefault(name, number)
            meant = _ALIASES.get(name)
            if meant is not None and values.get(meant) is None:
                raise UsageError(f"{where}: the key {name!r} is unknown; did you mean {meant!r}?")
        objects.append((number, values))
    warnings: tuple[str, ...] = ()
    if unknown:
        keys = ", ".join(f"{name!r} (line {number})" for name, number in sorted(unknown.items()))
        warnings = (
            f"{source.name} has keys that are not read: {keys}; known are {', '.join(known)}.",
        )
    return JsonLines(source.name, tuple(objects), warnings)


def _about_files(source: Path, items: list[Item], lines: Mapping[str, int]) -> Iterator[str]:
    """A warning that names the first clip that is not there; what is there is asked about."""
    missing = [item for item in items if not Path(str(item.media)).exists()]
    if missing:
        others = len(missing) - 1
        more = f", nor are those of {others} other questions" if others > 1 else ""
        more = ", nor is that of another question" if others == 1 else more
        yield (
            f"{source.name}, line {lines[missing[0].id]}: the file {missing[0].media} is not "
            f"there{more}; paths are relative to {source.name}."
        )


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "unknown error") if isinstance(error, OSError) else "not UTF-8"


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        what = error.msg if isinstance(error, json.JSONDecodeError) else what
        raise UsageError(f"{where}: this is not JSON ({what}).") from error
    if not isinstance(values, dict):
        raise UsageError(f"{where}: an item must be a JSON object.")
    return values


def _item(values: Mapping[str, Any], folder: Path, where: str) -> Item:
    start, end = time_of(values, "start", where), time_of(values, "end", where)
    check_order(start, end, where)
    choices = choices_of(values, where)
    answer = text_of(values, "answer", where)
    try:
        media = str(folder / local_file(text_of(values, "media", where)))
        refuse_index(media)
        return Item(
            id=text_of(values, "id", where),
            media=media,
            question=text_of(values, "question", where),
            answer=letter_of(answer, choices) if choices else answer,
            choices=choices,
            family=text_of(values, "family", where, default=""),
            kind=text_of(values, "kind", where, default=""),
            start_s=start,
            end_s=end,
            meta={name: value for name, value in values.items() if name not in _KNOWN},
        )
    except (UsageError, MediaError) as error:
        # "Item <id>: ..." says where, and the line says it better.
        reason = str(error).removeprefix(f"Item {values.get('id')}: ")
        raise UsageError(f"{where}: {reason}") from error


def check_order(start: float | None, end: float | None, where: str) -> None:
    """Refuse a range that ends before it starts.

    Raises
    ------
    UsageError
    """
    if start is not None and end is not None and end <= start:
        raise UsageError(f"{where}: end ({end:g} s) must be after start ({start:g} s).")


def letter_of(answer: str, choices: tuple[str, ...]) -> str:
    """Letter of an answer that is given as a letter or as the text of an option.

    What is neither comes back as it is, for `Item` to refuse.
    """
    letters = LETTERS[: len(choices)]
    if answer in choices:
        return letters[choices.index(answer)]
    return answer.upper() if len(answer) == 1 else answer


def text_of(values: Mapping[str, Any], name: str, where: str, default: str | None = None) -> str:
    """A string of an object; an "id" or "answer" may be a number. Without a default it is needed.

    Raises
    ------
    UsageError
        If it is missing, empty or no string; the sentence begins with `where`.
    """
    value = values.get(name, default)
    if value is None:
        raise UsageError(f"{where}: {name!r} is missing.")
    if isinstance(value, int | float) and not isinstance(value, bool) and name in ("id", "answer"):
        return str(value)
    if not isinstance(value, str):
        raise UsageError(f"{where}: {name!r} must be a string, not {json.dumps(value)[:40]}.")
    if default is None and not value.strip():
        raise UsageError(f"{where}: {name!r} is empty.")
    return value


def choices_of(values: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The options of a question, nothing for an open one.

    Raises
    ------
    UsageError
        If they are not two or more different strings.
    """
    value = values.get("choices")
    if value is None:
        return ()
    texts = isinstance(value, list) and all(isinstance(option, str) for option in value)
    if not texts or len(value) < 2 or not all(option.strip() for option in value):
        raise UsageError(f"{where}: 'choices' must be a list of two or more non-empty strings.")
    if len(set(value)) < len(value):
        raise UsageError(f"{where}: two of the choices are the same.")
    return tuple(value)


def time_of(values: Mapping[str, Any], name: str, where: str) -> float | None:
    """Seconds that are given as a number or as a clock time; None where they are not given.

    Raises
    ------
    UsageError
        If it is neither.
    """
    value = values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UsageError(f"{where}: {name!r} must be seconds or a clock time.")
    try:
        return parse_time(str(value))
    except UsageError as error:
        raise UsageError(f"{where}: {name!r}: {error}") from error


def write_synthetic(folder: Path, count: int, *, seed: int | None = None) -> Path:
    """Write the bundled set with its clips as files, encoded with H.264 and AAC.

    Parameters
    ----------
    folder : Path
        Gets `questions.jsonl` and `clips/*.mp4`; clips that are there already are kept.
    count : int
        Number of questions.
    seed : int, optional
        Of the set; by default its own.

    Returns
    -------
    Path
        Of `questions.jsonl`, which `read_jsonl` and `seats eval` read.
    """
    # Whoever reads a file needs none of this.
    from seats_cli.evaluate.generated import DEFAULT_SEED, SyntheticClip, synthetic_set
    from seats_cli.world.clips import write_script

    clips = folder / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    lines = []
    for item in synthetic_set(count, seed=DEFAULT_SEED if seed is None else seed).items:
        maker = item.media
        assert isinstance(maker, SyntheticClip)
        path = clips / f"{maker.key.replace('/', '-')}.mp4"
        if not path.exists():
            unfinished = path.with_suffix(".part.mp4")
            write_script(unfinished, maker.script, scale=1)
            unfinished.replace(path)
        line = {
            "id": item.id,
            "media": str(path.relative_to(folder)),
            "question": item.question,
            "choices": list(item.choices),
            "answer": item.answer,
            "family": item.family,
            "kind": item.kind,
        }
        lines.append(json.dumps({key: value for key, value in line.items() if value}))
    questions = folder / "questions.jsonl"
    questions.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return questions


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the bundled set with its clips as files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=1500, help="number of questions")
    parser.add_argument("--set-seed", type=int, help="another set")
    options = parser.parse_args(arguments)
    print(write_synthetic(options.folder, options.limit, seed=options.set_seed))


if __name__ == "__main__":
    main()
