"""Questions with known answers, and how to get at their clips."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, permutations
from typing import Any, Literal, Protocol

import numpy as np

from seats_cli.cost.context import Need
from seats_cli.cost.fit import fit_file
from seats_cli.errors import UsageError
from seats_cli.families.base import Architecture
from seats_cli.media import Clip, FrameSizing, ReadOptions, read_clip

LETTERS = string.ascii_uppercase
ChoiceStyle = Literal["letters", "likelihood"]


@dataclass(frozen=True)
class EvalProtocol:
    """How a set is meant to be read and asked; a run may override each of them."""

    fps: float = 2.0  # frames per second to take
    max_frames: int = 768  # upper bound on the frames of a clip
    # Bounds on the merged tokens of one temporal grid (two frames); None for the model's own.
    min_tokens_per_grid: int | None = None
    max_tokens_per_grid: int | None = None
    # {"letters", "likelihood"}: multiple choice: list the options in the prompt and read a letter
    # from the answer, or ask the bare question and take the option that is likeliest as the answer.
    choice_style: ChoiceStyle = "letters"
    max_new_tokens: int | None = 32  # longest answer; None leaves it to the checkpoint
    # What stands before everything, before the question, before the options and after them in a
    # prompt with lettered options; see `seats_cli.evaluate.scoring`.
    preamble: str = ""
    question_label: str = ""
    options_label: str = ""
    instruction: str = "Answer with the letter of the right option only."
    system: str | None = None  # system turn in place of the chat template's own
    total_tokens: int | None = None  # bound on the merged tokens of a video; None: the model's own
    max_audio_s: float | None = None  # seconds of sound at most
    states_fps: bool = True  # whether the processor is told the frame rate
    as_published: bool = False  # whether `seats_cli.evaluate.published` has set this

    def sizing(self, model: FrameSizing) -> FrameSizing:
        """The model's frame sizes with this set's bounds put in."""
        area = model.factor * model.factor
        low, high = self.min_tokens_per_grid, self.max_tokens_per_grid
        return replace(
            model,
            min_pixels=model.min_pixels if low is None else low * area,
            max_pixels=model.max_pixels if high is None else high * area,
            total_pixels=(
                model.total_pixels if self.total_tokens is None else self.total_tokens * area
            ),
        )


class ClipMaker(Protocol):
    """A clip that is made when it is needed instead of being read from a file."""

    @property
    def key(self) -> str:
        """Names the clip; equal keys, equal clips."""
        ...

    def open(self, sizing: FrameSizing) -> Clip:
        """Make the clip, its frames as large as `sizing` lets them be."""
        ...


@dataclass(frozen=True)
class Item:
    """One question about one clip."""

    id: str  # unique in its set and the same every time the set is made
    media: str | ClipMaker  # path of a file, or what makes the clip
    question: str  # without options and instructions
    answer: str  # the letter of the right option, or a short text
    choices: tuple[str, ...] = ()  # options in order, without letters; empty for an open question
    family: str = ""  # kind of question, for tables
    kind: str = ""  # kind of clip (a length, a genre), for tables; may be empty
    # Range of the file, in seconds; None for its start or end.
    start_s: float | None = None
    end_s: float | None = None
    # Whatever else the set says about the item.
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what could never be asked or scored."""
        if not self.question.strip():
            raise UsageError(f"Item {self.id}: the question is empty.")
        if not self.answer.strip():
            raise UsageError(f"Item {self.id}: the answer is empty.")
        if not self.choices:
            return
        if len(self.choices) < 2 or len(self.choices) > len(LETTERS):
            raise UsageError(f"Item {self.id}: 2 to {len(LETTERS)} choices are possible.")
        if self.answer not in tuple(self.letters):
            raise UsageError(
                f"Item {self.id}: the answer must be one of the letters {self.letters[0]} to "
                f"{self.letters[-1]}, not {self.answer!r}."
            )

    @property
    def letters(self) -> str:
        """The letters of the options, "ABCD"; empty for an open question."""
        return LETTERS[: len(self.choices)]

    @property
    def answer_text(self) -> str:
        """The right answer in words, also of a multiple-choice question."""
        return self.choices[self.letters.index(self.answer)] if self.choices else self.answer

    @property
    def clip_key(self) -> str:
        """Names what is decoded; items with equal keys can share one clip and its encoding."""
        if not isinstance(self.media, str):
            return self.media.key
        if self.start_s is None and self.end_s is None:
            return self.media
        start = "" if self.start_s is None else f"{self.start_s:g}"
        return f"{self.media}#t={start},{'' if self.end_s is None else f'{self.end_s:g}'}"


@dataclass(frozen=True)
class QuestionSet:
    """Items in the order in which they are asked, those about one clip side by side."""

    name: str
    items: tuple[Item, ...]
    protocol: EvalProtocol = field(default_factory=EvalProtocol)
    warnings: tuple[str, ...] = ()  # what was found in the file and is not used

    def __post_init__(self) -> None:
        """Bring the items of each clip together and refuse ids that come twice."""
        seen: set[str] = set()
        for item in self.items:
            if item.id in seen:
                raise UsageError(f"{self.name}: the id {item.id!r} comes twice.")
            seen.add(item.id)
        first: dict[str, int] = {}
        for number, item in enumerate(self.items):
            first.setdefault(item.clip_key, number)
        ordered = sorted(self.items, key=lambda item: first[item.clip_key])
        object.__setattr__(self, "items", tuple(ordered))

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def clips(self) -> Iterator[tuple[str, tuple[Item, ...]]]:
        """Key and items of each clip."""
        for key, items in groupby(self.items, key=lambda item: item.clip_key):
            yield key, tuple(items)

    def limited(self, count: int | None) -> QuestionSet:
        """The first `count` items."""
        return self if count is None else replace(self, items=self.items[:count])


OPTIONS = 4  # of a question, or fewer where a family has fewer answers


def other_orders(rng: np.random.Generator, answer: str, names: Sequence[str]) -> Iterator[str]:
    """Wrong lists: the names in another order, then with another one in place of one of them."""
    listed = answer.split(", ")
    yield from in_random_order(rng, [", ".join(order) for order in permutations(listed)])
    absent = [name for name in names if name not in listed]
    for name in in_random_order(rng, absent):
        place = int(rng.integers(len(listed)))
        yield ", ".join([*listed[:place], name, *listed[place + 1 :]])


def in_random_order(rng: np.random.Generator, values: Sequence[str]) -> list[str]:
    """The values, shuffled."""
    return [values[index] for index in rng.permutation(len(values))]


def mixed_options(
    rng: np.random.Generator, answer: str, candidates: Iterable[str]
) -> tuple[str, tuple[str, ...]]:
    """Letter of the answer, and all options in random order.

    Wrong options are the first candidates that differ from it and from each other, `OPTIONS` in
    all at most.
    """
    wrong: list[str] = []
    for option in candidates:
        if option != answer and option not in wrong:
            wrong.append(option)
        if len(wrong) == OPTIONS - 1:
            break
    options = [answer, *wrong]
    options = [options[index] for index in rng.permutation(len(options))]
    return LETTERS[options.index(answer)], tuple(options)


def open_clip(
    item: Item,
    protocol: EvalProtocol,
    sizing: FrameSizing,
    room: tuple[Architecture, Need] | None = None,
) -> Clip:
    """Read or make the clip of an item.

    Parameters
    ----------
    item : Item
        Any of those that share the clip.
    protocol : EvalProtocol
        Frame rate and bounds.
    sizing : FrameSizing
        The model's own frame sizes.
    room : (Architecture, Need), optional
        The model that answers and what its questions take of the context: a file is read in a size
        that fits.

    Raises
    ------
    MediaError
        If a file cannot be read.
    UsageError
        If the item's range makes no sense.
    """
    bounds = protocol.sizing(sizing)
    if not isinstance(item.media, str):
        return item.media.open(bounds)
    options = ReadOptions(
        item.start_s,
        item.end_s,
        protocol.fps,
        protocol.max_frames,
        max_audio=protocol.max_audio_s,
    )
    notes: tuple[str, ...] = ()
    if room is not None:
        options, notes = fit_file(item.media, options, bounds, *room)
    clip = read_clip(item.media, options, sizing=bounds)
    clip = replace(clip, warnings=(*notes, *clip.warnings))
    return clip if protocol.states_fps else replace(clip, fps=None)
