"""A question set by what the user calls it: the bundled one, a file, or a public benchmark."""

from __future__ import annotations

from pathlib import Path

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks import READERS, read_benchmark
from seats_cli.evaluate.jsonl import read_jsonl
from seats_cli.evaluate.questions import QuestionSet
from seats_cli.evaluate.synthetic import DEFAULT_COUNT, DEFAULT_SEED, synthetic_set

SYNTHETIC = "synthetic"


def question_set(
    name: str, *, root: Path | None = None, limit: int | None = None, seed: int | None = None
) -> QuestionSet:
    """Find a set.

    Parameters
    ----------
    name : str
        "synthetic", the name of a benchmark, or the path of a JSON lines file.
    root : Path, optional
        Folder of a benchmark's annotations and videos.
    limit : int, optional
        Only the first questions; of the synthetic set, which has no end, so many.
    seed : int, optional
        Of the synthetic set.

    Raises
    ------
    UsageError
        There is no such set, or it cannot be read.
    """
    if seed is not None and name != SYNTHETIC:
        raise UsageError("--set-seed is for the synthetic set only.")
    if root is not None:
        return read_benchmark(name, root).limited(limit)
    if name in READERS:
        raise UsageError(f"{name} needs --root, the folder with its annotations and videos.")
    if name == SYNTHETIC:
        return synthetic_set(
            DEFAULT_COUNT if limit is None else limit, seed=DEFAULT_SEED if seed is None else seed
        )
    if Path(name).suffix.lower() not in (".jsonl", ".json"):
        raise UsageError(
            f"There is no question set '{name}': give {SYNTHETIC}, a .jsonl file, or one of "
            f"{', '.join(READERS)}."
        )
    return read_jsonl(name).limited(limit)
