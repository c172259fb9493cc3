"""Readers of public benchmarks, whose annotations and videos lie on the user's disk.

A reader takes the folder that holds the annotations as published, and the videos beside them. All
follow the settings of the SEATS paper: 2 frames per second, an upper bound on the frames of each
benchmark, 128 to 144 merged tokens per temporal grid, greedy answers of one letter. What a prompt
says follows the benchmark's own evaluation code, in other words; each module names its source.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks import (
    daily_omni,
    lvomnibench,
    omnivideobench,
    videomme,
    worldsense,
)
from seats_cli.evaluate.questions import QuestionSet

READERS: dict[str, Callable[[Path], QuestionSet]] = {
    "daily-omni": daily_omni.read,
    "worldsense": worldsense.read,
    "omnivideobench": omnivideobench.read,
    "video-mme": videomme.read,
    "lvomnibench": lvomnibench.read,
}


def read_benchmark(name: str, root: str | Path) -> QuestionSet:
    """Read a benchmark from the folder in which it was unpacked.

    Parameters
    ----------
    name : str
        One of `READERS`; case and the characters "-_ " do not matter.
    root : str or Path
        Folder with annotations and videos.

    Raises
    ------
    UsageError
        If the name is unknown, or something is missing or not in the published layout.
    """
    plain = {known.replace("-", ""): known for known in READERS}
    found = plain.get(name.lower().translate(str.maketrans("", "", "-_ ")))
    if found is None:
        raise UsageError(f"There is no benchmark {name!r}; known are {', '.join(READERS)}.")
    return READERS[found](Path(root))
