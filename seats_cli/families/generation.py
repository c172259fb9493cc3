"""What a checkpoint says of how it answers: sampling, length, and whether it takes a question.

Read from generation_config.json and, where no file tells, from names; nothing here needs torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seats_cli.errors import UsageError

# A checkpoint that allows answers of this many tokens leaves room to think before answering.
ROOM_TO_THINK = 1024


# Scores divided by less would leave the range of float32, and nothing could be drawn.
LEAST_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Sampling:
    """How answer tokens are chosen, and how many there may be."""

    max_new_tokens: int = 128
    temperature: float = 0.0  # 0 takes the likeliest token
    top_p: float = 1.0  # probability mass of the likeliest tokens that are drawn from
    top_k: int = 0  # how many of the likeliest tokens are drawn from; 0: all of them

    def checked(self) -> Sampling:
        """These settings, if they make sense.

        Raises
        ------
        UsageError
        """
        if self.max_new_tokens < 1:
            raise UsageError(f"`max_new_tokens` must be at least 1, not {self.max_new_tokens}.")
        if self.temperature and not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise UsageError(
                f"`temperature` must be 0 or at least {LEAST_TEMPERATURE:g}, "
                f"not {self.temperature:g}."
            )
        if not 0.0 < self.top_p <= 1.0:
            raise UsageError(f"`top_p` must be in (0, 1], not {self.top_p}.")
        if self.top_k < 0:
            raise UsageError(f"`top_k` must be 0 (off) or larger, not {self.top_k}.")
        return self

    def with_given(self, **given: float | None) -> Sampling:
        """These settings with those that are not None in their place.

        Raises
        ------
        UsageError
            If they make no sense.
        """
        chosen: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        return replace(self, **chosen).checked()


USUAL = Sampling()


def read_sampling(folder: Path) -> Sampling:
    """The sampling that a checkpoint folder asks for; greedy and 128 tokens where it asks nothing.

    Thinking checkpoints name a temperature without `do_sample`, which transformers reads as greedy;
    their model cards say to sample. So a temperature counts unless `do_sample` is false.
    """
    try:
        values = json.loads((folder / "generation_config.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return USUAL
    return sampling_of(values) if isinstance(values, dict) else USUAL


def sampling_of(values: Mapping[str, Any]) -> Sampling:
    """The same from the contents of generation_config.json; values that make no sense are passed
    over."""
    names = ["max_new_tokens"]
    if values.get("do_sample") is not False and values.get("temperature"):
        names += ["temperature", "top_p", "top_k"]
    found = USUAL
    for name in names:
        value, whole = values.get(name), name in ("max_new_tokens", "top_k")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            continue
        try:
            found = replace(found, **{name: value}).checked()
        except UsageError:
            continue
    return found


def is_captioner(name: str, folder: Path) -> bool:
    """Whether a checkpoint describes sound without being asked, like Qwen3-Omni's Captioner.

    Its files are those of a Thinking checkpoint: only the name tells.

    Parameters
    ----------
    name : str
        As the user gave it, a hub id or a path.
    folder : Path
        Where it lies, in the cache of the hub "models--owner--name/snapshots/commit".
    """
    folder = folder.absolute()
    cached = folder.parents[1].name if folder.parent.name == "snapshots" else ""
    return any("captioner" in word.lower() for word in (Path(name).name, folder.name, cached))
