"""One clip of a batch: read, every question about it asked, and a result for each.

Nothing here ends a run: what fails is a result with an `error`. Reading and asking are two
functions, so that the next clip can be read while the model works, or on another machine.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.batch.manifest import BatchQuestion, ClipGroup
from seats_cli.config import SeatsConfig
from seats_cli.cost.fit import fit_file
from seats_cli.engine.answer import ask
from seats_cli.engine.memory_stats import free_memory
from seats_cli.engine.session import ClipSession
from seats_cli.errors import (
    ADVICE,
    ConfigError,
    MediaError,
    ModelError,
    ResourceError,
    SeatsError,
    UsageError,
    out_of_memory_on,
)
from seats_cli.evaluate.questions import Item
from seats_cli.evaluate.scoring import Verdict, score
from seats_cli.media.clip import Clip, ReadOptions
from seats_cli.media.fetch import download, is_url
from seats_cli.media.reader import read_clip
from seats_cli.models import need_of
from seats_cli.report.documents import SCHEMA_VERSION, answer_document
from seats_cli.results import jsonable

if TYPE_CHECKING:
    from seats_cli.cost.context import Need
    from seats_cli.families.base import Architecture, FrameSizing
    from seats_cli.models import LoadedModel
    from seats_cli.results import Answer

Result = dict[str, Any]  # one line of the results


@dataclass(frozen=True)
class BatchSettings:
    """How every question of a batch is asked; plain data that can be sent to other machines."""

    config: SeatsConfig | None = None  # what to keep; None runs the model unpruned
    read: ReadOptions = field(default_factory=ReadOptions)  # items' own ranges win over its range
    system: str | None = None  # system turn in place of the chat template's own
    choices: tuple[str, ...] = ()  # options of questions that have none of their own
    # Parameters of `seats_cli.ask`: "max_new_tokens", "temperature", "top_p", "top_k", "seed".
    generation: Mapping[str, Any] = field(default_factory=dict)
    allow_local_urls: bool = False  # whether a URL may lead to this machine or its own network
    offline: bool = False  # refuse URLs

    def choices_of(self, question: BatchQuestion) -> tuple[str, ...]:
        """The options of a question, empty for an open one."""
        return question.choices or self.choices

    def to_dict(self) -> dict[str, Any]:
        """Plain values, by which an interrupted run knows whether it is the same."""
        config = None if self.config is None else self.config.to_dict()
        values = {**dataclasses.asdict(replace(self, config=None)), "config": config}
        plain: dict[str, Any] = jsonable(values)
        for name in ("allow_local_urls", "offline"):  # which change no answer
            del plain[name]
        return plain


@dataclass(frozen=True, eq=False)
class ClipRead:
    """A clip, or why there is none."""

    clip: Clip | None
    read_s: float = 0.0  # seconds that reading it took
    error: dict[str, str] | None = None  # as in a result


def group_need(loaded: LoadedModel, group: ClipGroup, settings: BatchSettings) -> Need:
    """What a group's questions take of the context, which decides how its clip is read."""
    return need_of(
        loaded,
        [question.question for question in group.questions],
        [settings.config],
        settings.generation.get("max_new_tokens"),
        [choice for question in group.questions for choice in settings.choices_of(question)],
        settings.system,
    )


def read_group(
    group: ClipGroup,
    settings: BatchSettings,
    sizing: FrameSizing,
    architecture: Architecture,
    need: Need,
    on_progress: Callable[[str, float], None] | None = None,
) -> ClipRead:
    """Read the clip of a group, in a size that fits the model's context.

    It needs the model's shapes but not its weights, and no torch.

    Parameters
    ----------
    sizing, architecture
        Of the model.
    need : Need
        Of all questions of the group, also of those that have been asked: their clip has the same
        size in a run that is resumed.
    on_progress : callable, optional
        As for `read_clip`; an exception of it ends the reading and comes through.
    """
    began = time.perf_counter()
    stopped: list[BaseException] = []

    def report(what: str, done: float) -> None:
        if on_progress is not None:
            try:
                on_progress(what, done)
            except BaseException as error:
                stopped.append(error)
                raise

    first = group.questions[0]
    try:
        start = settings.read.start if first.start_s is None else first.start_s
        end = settings.read.end if first.end_s is None else first.end_s
        options = replace(settings.read, start=start, end=end)
        with _local_copy(group.path, settings, report) as path:
            options, notes = fit_file(path, options, sizing, architecture, need)
            clip = read_clip(path, options, sizing=sizing, on_progress=report)
    except Exception as error:
        if stopped:  # not what reading has made of it
            raise stopped.pop() from None
        return ClipRead(None, error=failure(error))
    # Results name the clip as the manifest does, wherever it was found.
    facts = replace(clip.facts, path=group.media)
    clip = replace(clip, facts=facts, warnings=(*notes, *clip.warnings))
    return ClipRead(clip, time.perf_counter() - began)


def answer_group(
    loaded: LoadedModel,
    group: ClipGroup,
    settings: BatchSettings,
    read: ClipRead,
    questions: Sequence[BatchQuestion] | None = None,
) -> Iterator[Result]:
    """A result for each question of a group, as soon as it is there.

    Parameters
    ----------
    read : ClipRead
        From `read_group`.
    questions : sequence of BatchQuestion, optional
        Only these of the group: those that have no result yet.
    """
    asked = group.questions if questions is None else tuple(questions)
    if read.clip is None:
        for question in asked:
            yield failed_result(question, read.error or {})
        return
    clip = _OpenClip(loaded, read, settings, several=len(asked) > 1)
    for question in asked:
        try:
            answer = clip.ask(question)
            result = answered_result(question, answer, settings.choices_of(question))
        except Exception as error:  # one bad question must not end the run
            result = failed_result(question, failure(error), read.clip.warnings)
        # Not inside `except`: there the exception still holds the question's frames and tensors.
        if result["error"] is not None:
            clip.close()
            free_memory([loaded.model.device])
        yield result


class _OpenClip:
    """The clip of a group, ready for questions; what they share is made when it is needed."""

    def __init__(
        self, loaded: LoadedModel, read: ClipRead, settings: BatchSettings, *, several: bool
    ) -> None:
        assert read.clip is not None
        self._loaded, self._settings = loaded, settings
        self._clip, self._read_s = read.clip, read.read_s
        self._several = several
        self._session: ClipSession | None = None

    def ask(self, question: BatchQuestion) -> Answer:
        """The answer, with the warnings of the clip."""
        held = self._session is not None
        answer: Answer | None = None
        try:
            answer = self._ask(question)
        except Exception as error:
            if not held or out_of_memory_on(error) is None:
                raise
        # What is held for further questions may be what fills the memory. It is let go of behind
        # `except`, where the exception holds it no longer.
        if answer is None:
            self.close()
            free_memory([self._loaded.model.device])
            answer = self._ask(question)
        warnings = tuple(dict.fromkeys((*self._clip.warnings, *answer.warnings)))
        return replace(answer, warnings=warnings)

    def close(self) -> None:
        """Let go of what is held for further questions."""
        self._session = None

    def _ask(self, question: BatchQuestion) -> Answer:
        how: dict[str, Any] = {
            **self._settings.generation,
            "choices": self._settings.choices_of(question),
            "config": self._settings.config,
            "read_s": self._read_s,
        }
        system = self._settings.system
        if not self._several:  # nothing is kept for others
            return ask(self._loaded, self._clip, question.question, system=system, **how)
        if self._session is None:
            self._session = ClipSession(self._loaded, self._clip, system=system)
        return self._session.ask(question.question, **how)


def answered_result(question: BatchQuestion, answer: Answer, choices: Sequence[str] = ()) -> Result:
    """The line of an answer: what `ask --json` says, and which question it is about.

    Parameters
    ----------
    choices : sequence of str
        The options that it was asked with.
    """
    document = answer_document(answer)
    del document["versions"]  # the same in every line
    # A clip that several items name in different ways is read once.
    document["media"] = {**document["media"], "path": question.media}
    verdict = None if question.expected is None else _verdict(question, answer, tuple(choices))
    return _result(
        question,
        error=None,
        correct=None if verdict is None else verdict.correct,
        unparsed=None if verdict is None else verdict.unparsed,
        **document,
    )


def _verdict(question: BatchQuestion, answer: Answer, choices: tuple[str, ...]) -> Verdict:
    item = Item(
        *(question.id, question.media, question.question or "nothing", question.expected or ""),
        choices,
    )
    if not choices:
        return score(item, answer.text)
    # By its place: texts may read like letters of others, or differ in punctuation alone.
    letter = item.letters[choices.index(answer.text)]
    return Verdict(letter == item.answer, read_as=letter)


def failed_result(
    question: BatchQuestion, error: Mapping[str, str], warnings: Sequence[str] = ()
) -> Result:
    """The line of a question without an answer.

    Parameters
    ----------
    error : mapping
        From `failure`.
    warnings : sequence of str
        Of the clip, if it could be read.
    """
    return _result(
        question,
        error=dict(error),
        correct=None,
        unparsed=None,
        question=question.question or "",
        answer=None,
        warnings=warnings,
        media={"path": question.media},
    )


def _result(asked: BatchQuestion, /, **content: Any) -> Result:
    content.pop("schema_version", None)
    plain: Result = jsonable(
        {
            "schema_version": SCHEMA_VERSION,
            "id": asked.id,
            "question_index": asked.index,
            "fingerprint": asked.fingerprint,
            "expected": asked.expected,
            **content,
        }
    )
    return plain


_KINDS: tuple[tuple[type[SeatsError], str], ...] = (
    (ConfigError, "config"),
    (UsageError, "usage"),
    (MediaError, "media"),
    (ModelError, "model"),
    (ResourceError, "resource"),
)


def failure(error: Exception) -> dict[str, str]:
    """What a result says about an exception: `kind` and `sentence`.

    Kinds are "config", "usage", "media", "model", "resource" (memory or context), and "unexpected"
    for a defect.
    """
    for kind, name in _KINDS:
        if isinstance(error, kind):
            return {"kind": name, "sentence": str(error)}
    place = out_of_memory_on(error)
    if place is not None:
        return {"kind": "resource", "sentence": f"Out of memory on the {place}. {ADVICE}"}
    words = " ".join(str(error).split())[:300]
    name = type(error).__name__
    return {"kind": "unexpected", "sentence": f"{name}: {words}" if words else name}


@contextmanager
def _local_copy(
    path: str, settings: BatchSettings, on_progress: Callable[[str, float], None]
) -> Iterator[str]:
    """The file, fetched for the time of the block if it is a URL."""

    def received(done: int, total: int | None) -> None:
        on_progress("fetched", done / total if total else 0.0)

    if not is_url(path):
        yield path
        return
    if settings.offline:
        raise UsageError("`offline` forbids fetching a URL; give the name of a file.")
    with tempfile.TemporaryDirectory(prefix="seats-") as folder:
        target = Path(folder) / "download"
        with target.open("wb") as file:
            download(
                path,
                file,
                allow_local_urls=settings.allow_local_urls,
                on_progress=received,
            )
        yield str(target)
