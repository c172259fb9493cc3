"""A batch on one machine: one model, and a reader that is a clip ahead of it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seats_cli.batch.group import (
    BatchSettings,
    ClipRead,
    Result,
    answer_group,
    group_need,
    read_group,
)
from seats_cli.batch.manifest import BatchQuestion, ClipGroup, Key, Manifest
from seats_cli.engine.prune import check_method
from seats_cli.errors import BatchError
from seats_cli.results import jsonable

if TYPE_CHECKING:
    from seats_cli.batch.results_file import ResultState
    from seats_cli.models import LoadedModel

# One is enough to keep the model busy where reading is the faster half, and where it is not,
# nothing is. Each clip that waits takes its frames' bytes of memory.
READ_AHEAD = 1
_WAIT_S = 0.2  # between two looks at whether the run is to end
_LEAVE_S = 2.0  # for a clip that is being read when the run ends
# What of a model decides its answers; where it runs does not.
_DECISIVE = ("id", "revision", "family", "parameters", "dtype", "quantization", "adapter")

Missing = tuple[ClipGroup, tuple[BatchQuestion, ...]]  # a group, and which questions have no result
_Order = tuple["Future[ClipRead]", Callable[[], ClipRead]]  # a clip to be read, and what reads it


def missing_of(manifest: Manifest, done: Collection[Key]) -> list[Missing]:
    """What is left to be asked, clip by clip."""
    left = [
        (group, tuple(question for question in group.questions if question.key not in done))
        for group in manifest.groups
    ]
    return [(group, questions) for group, questions in left if questions]


def model_facts(loaded: LoadedModel) -> dict[str, Any]:
    """What of a model decides its answers, as plain values."""
    facts = asdict(loaded.facts)
    plain: dict[str, Any] = jsonable({name: facts[name] for name in _DECISIVE})
    return plain


def check_budget(loaded: LoadedModel, settings: BatchSettings) -> None:
    """Refuse what no question could be asked with, before anything is stored.

    Raises
    ------
    ConfigError, ModelError
        If the model cannot be pruned so.
    """
    check_method(loaded, settings.config)


def run_local(
    loaded: LoadedModel,
    missing: Iterable[Missing],
    settings: BatchSettings,
    store: Callable[[Result], None],
    *,
    read_ahead: int = READ_AHEAD,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Ask everything that has no result yet, and hand on each result as soon as it is there.

    Parameters
    ----------
    missing : iterable of (ClipGroup, questions)
        From `missing_of`.
    read_ahead : int
        Clips that are read while the model works; 0 reads each when it is needed.
    check : callable
        Called after each result and while a clip is waited for; raises to end the run.
    """
    with _Reader(loaded, settings, read_ahead, check) as reader:
        for (group, questions), clip in reader.clips(missing):
            for result in answer_group(loaded, group, settings, clip, questions):
                store(result)
                check()
            del clip  # or its frames would stay while the next ones are waited for


class _StoppedError(Exception):
    """The run has ended while a clip was being read."""


class _Reader:
    """Reads the clips of groups in order, so many ahead, on a thread: PyAV lets others run."""

    def __init__(
        self,
        loaded: LoadedModel,
        settings: BatchSettings,
        ahead: int,
        check: Callable[[], None],
    ) -> None:
        self._loaded, self._settings = loaded, settings
        self._ahead, self._check = ahead, check
        self._stop = threading.Event()
        self._ordered: SimpleQueue[_Order | None] = SimpleQueue()
        # Not a pool: Python ends after all threads of pools, and one may hang on a silent URL.
        self._thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)

    def __enter__(self) -> _Reader:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._ordered.put(None)
        self._thread.join(_LEAVE_S)  # what it has begun to fetch is removed meanwhile

    def clips(self, missing: Iterable[Missing]) -> Iterator[tuple[Missing, ClipRead]]:
        """Each group with its clip."""
        waiting: deque[tuple[Missing, Future[ClipRead]]] = deque()
        for one in missing:
            waiting.append((one, self._submit(one[0])))
            if len(waiting) > self._ahead:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _submit(self, group: ClipGroup) -> Future[ClipRead]:
        loaded = self._loaded
        # On this thread: tokenizers may not be used by two at once.
        need = group_need(loaded, group, self._settings)
        reading: Future[ClipRead] = Future()
        arguments = (group, self._settings, loaded.sizing, loaded.architecture, need)
        self._ordered.put((reading, partial(read_group, *arguments, self._stop_reading)))
        return reading

    def _work(self) -> None:
        while (order := self._ordered.get()) is not None and not self._stop.is_set():
            reading, read = order
            try:
                reading.set_result(read())
            except BaseException as error:
                reading.set_exception(error)
            del order, reading, read  # or the clip would live until the next one is read

    def _next(self, waiting: deque[tuple[Missing, Future[ClipRead]]]) -> tuple[Missing, ClipRead]:
        one, reading = waiting.popleft()
        self._check()
        while not wait((reading,), _WAIT_S).done:
            self._check()
        return one, reading.result()

    def _stop_reading(self, _what: str, _done: float) -> None:
        if self._stop.is_set():
            raise _StoppedError


@dataclass(frozen=True)
class BatchSummary:
    """What a run has come to, earlier runs on the same results included."""

    clips: int
    questions: int
    answered: int
    failed: int
    scored: int  # answers that had something to be compared with
    correct: int
    # Of this run alone.
    new_clips: int
    new_questions: int
    elapsed_s: float  # without loading the model
    first_failure: tuple[str, str] | None  # id and sentence

    @property
    def accuracy(self) -> float | None:
        """Share of right answers among those scored; failures are counted apart."""
        return self.correct / self.scored if self.scored else None

    def per_minute(self, count: int) -> float | None:
        """How many of this run's clips or questions a minute took."""
        return 60 * count / self.elapsed_s if self.elapsed_s > 0 and count else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a document."""
        plain: dict[str, Any] = jsonable(
            {
                **asdict(self),
                "first_failure": None
                if self.first_failure is None
                else dict(zip(("id", "sentence"), self.first_failure, strict=True)),
                "accuracy": self.accuracy,
                "clips_per_minute": self.per_minute(self.new_clips),
                "questions_per_minute": self.per_minute(self.new_questions),
            }
        )
        return plain

    def check(self) -> None:
        """End with exit code 6 if some questions have no answer.

        Raises
        ------
        BatchError
        """
        if self.first_failure is not None:
            name, sentence = self.first_failure
            raise BatchError(
                f"{self.failed} of {self.questions} questions failed, the first of item {name}: "
                f"{sentence} (`retry_errors` asks them again.)"
            )


class RunTally:
    """What this run has done: clips, questions, and the seconds since it began."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._keys: set[Key] = set()

    def note(self, key: Key) -> int:
        """Count a result; how many there are now."""
        self._keys.add(key)
        return len(self._keys)

    def summary(self, manifest: Manifest, states: dict[Key, ResultState]) -> BatchSummary:
        """What the manifest's questions have come to."""
        elapsed = time.perf_counter() - self._began
        found = [
            (question, states[question.key])
            for question in manifest.questions
            if question.key in states
        ]
        failed = [(one.id, state.error) for one, state in found if state.error is not None]
        scored = [state.correct for _, state in found if state.correct is not None]
        new = [
            group
            for group in manifest.groups
            if any(question.key in self._keys for question in group.questions)
        ]
        return BatchSummary(
            clips=len(manifest.groups),
            questions=len(manifest.questions),
            answered=len(found) - len(failed),
            failed=len(failed),
            scored=len(scored),
            correct=sum(scored),
            new_clips=len(new),
            new_questions=len(self._keys),
            elapsed_s=elapsed,
            first_failure=failed[0] if failed else None,
        )
