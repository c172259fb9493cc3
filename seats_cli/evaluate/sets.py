"""A question set by what the user calls it: the bundled one, a file, or a public benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks import BENCHMARKS, read_benchmark
from seats_cli.evaluate.generated import DEFAULT_COUNT, DEFAULT_SEED, synthetic_set
from seats_cli.evaluate.jsonl import read_jsonl
from seats_cli.evaluate.questions import QuestionSet

SYNTHETIC = "synthetic"


# Questions of the synthetic set that are searched for each one of a requested kind.
_SEARCHED = 50


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
        At most so many questions, the first ones; of the synthetic set, which has no end, so many.
    set_seed : int, optional
        Of the synthetic set.
    only : sequence of str
        Families of questions or kinds of clips; all by default.

    Raises
    ------
    UsageError
        There is no such set, it cannot be read, or it has no such family or kind.
    """
    if set_seed is not None and name != SYNTHETIC:
        raise UsageError("`set_seed` is for the synthetic set only.")
    if root is not None:
        found = read_benchmark(name, root)
    elif name in BENCHMARKS:
        raise UsageError(f"{name} needs `root`, the folder with its annotations and videos.")
    elif name == SYNTHETIC:
        limit = DEFAULT_COUNT if limit is None else limit
        count = limit * _SEARCHED if only else limit
        found = synthetic_set(count, seed=DEFAULT_SEED if set_seed is None else set_seed)
    elif Path(name).suffix.lower() in (".jsonl", ".json"):
        found = read_jsonl(name)
    else:
        raise UsageError(
            f"There is no question set '{name}': give {SYNTHETIC}, a .jsonl file, or one of "
            f"{', '.join(BENCHMARKS)}."
        )
    return _of_kind(found, only).limited(limit)


def _of_kind(questions: QuestionSet, only: Sequence[str]) -> QuestionSet:
    """The questions whose family or kind of clip is among `only`."""
    if not only:
        return questions
    known = {name for item in questions.items for name in (item.family, item.kind) if name}
    for name in only:
        if name not in known:
            raise UsageError(
                f"{questions.name} has no questions or clips of kind '{name}': "
                f"{', '.join(sorted(known)) or 'it names no kinds'}."
            )
    items = tuple(item for item in questions.items if {item.family, item.kind} & set(only))
    return replace(questions, items=items)
