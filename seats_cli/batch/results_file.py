"""Where a batch's results go: one line each, appended at once, and read back to resume."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seats_cli.batch.group import Result
from seats_cli.batch.manifest import BatchQuestion, Key
from seats_cli.errors import OutputError, UsageError

SCHEMA_VERSION = "1"
_APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
_BEGIN = b'{"schema_version":'  # of every line
_RESTART = "`restart` begins anew, another `out` leaves it as it is"


@dataclass(frozen=True)
class ResultState:
    """What a run must know of a result that is stored."""

    fingerprint: str  # of the question that it answers
    error: str | None  # the sentence, None if there is an answer
    correct: bool | None  # None where nothing was scored


def state_of(result: Mapping[str, Any]) -> ResultState:
    """What is kept in memory of a result."""
    error = result["error"]
    return ResultState(
        result["fingerprint"], None if error is None else error["sentence"], result["correct"]
    )


def key_of(result: Mapping[str, Any]) -> Key:
    """What names a result."""
    return str(result["id"]), int(result["question_index"])


def line_of(result: Mapping[str, Any]) -> bytes:
    """A result as a line of the file."""
    text = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"{text}\n".encode()


class ResultsFile:
    """The file of a run, which no other run may write to at the same time.

    Every result is one write, so that a kill leaves whole lines and at most one that is cut short,
    which is dropped and asked again. The settings stand in "<file>.run.json" beside it.

    Parameters
    ----------
    path : Path
        Made if it is not there; results of an earlier run with equal settings are kept.
    settings : mapping
        What was asked of the run, as plain values: whatever would make results differ.
    restart : bool
        Drop what an earlier run has stored, whatever its settings, as soon as there is a model.
    retry_errors : bool
        Ask again what has failed: `check` forgets the failures among its questions, and their
        lines are dropped once there is a model.

    Raises
    ------
    UsageError
        If it cannot be written, holds something else or results of other settings, is damaged, or
        another run has it.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        *,
        restart: bool = False,
        retry_errors: bool = False,
    ) -> None:
        self.path = path
        self.states: dict[Key, ResultState] = {}
        self.unlocked = False  # whether the file system knows no locks
        self._side = path.with_name(f"{path.name}.run.json")
        self._file = self._lock = -1
        self._held = False  # whether the lock is this run's
        self._retry_errors = retry_errors
        self._forgotten: set[Key] = set()  # failures whose lines are still there
        self._begins: dict[str, Any] | None = None  # settings of a run that has stored nothing yet
        try:
            self._open(dict(settings), restart)
        except OSError as error:
            self.close()
            raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, result: Result) -> None:
        """Store a result so that it survives whatever happens next.

        Raises
        ------
        OutputError
            If the disk takes no more; what was written of the line is taken back.
        """
        self._begin()
        self._drop_forgotten()
        before = os.fstat(self._file).st_size
        left = memoryview(line_of(result))
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise OutputError(
                f"{self.path} takes no more: {error.strerror or error}. It holds "
                f"{len(self.states)} results, and the same command resumes."
            ) from error
        self.states[key_of(result)] = state_of(result)

    def check(self, questions: Iterable[BatchQuestion]) -> None:
        """Refuse to resume if a question that is answered has changed since.

        With `retry_errors` the failures among these questions are forgotten; they may have changed.

        Raises
        ------
        UsageError
        """
        again: set[Key] = set()
        for question in questions:
            state = self.states.get(question.key)
            if state is None:
                continue
            if self._retry_errors and state.error is not None:
                again.add(question.key)
            elif state.fingerprint != question.fingerprint:
                raise UsageError(
                    f"{self.path} holds an answer to another version of item {question.id!r}: "
                    f"{_RESTART}."
                )
        for key in again:
            del self.states[key]
        self._forgotten |= again

    def check_model(self, facts: Mapping[str, Any]) -> None:
        """Refuse to resume with another model, and note which one it is in a new run.

        Once it is accepted, the lines of failures that `check` has forgotten are dropped.

        Parameters
        ----------
        facts : mapping
            What of a model decides its answers, as plain values.

        Raises
        ------
        UsageError
        OutputError
            If the disk has no room for the lines that stay.
        """
        self._begin(model=dict(facts))
        before = self._description().get("model", {})
        for name, value in facts.items():
            if before.get(name) != value:
                raise UsageError(
                    f"{self.path} holds results of a model with {name} {before.get(name)!r}, and "
                    f"this one has {value!r}: {_RESTART}."
                )
        self._drop_forgotten()

    def close(self) -> None:
        """Let other runs have the file; more calls do nothing."""
        # Nothing has begun. Another run's file looks the same until its model is there.
        if self._held and os.fstat(self._lock).st_size == 0:
            self._side.unlink(missing_ok=True)
        self._held = False
        for name in ("_file", "_lock"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                setattr(self, name, -1)
                os.close(descriptor)

    def _open(self, settings: dict[str, Any], restart: bool) -> None:
        # 1. Nothing is made or locked beside a file that is not a run's.
        self._refuse_strangers(restart)
        self._lock = os.open(self._side, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._take_lock()

        # 2. A new run leaves everything as it is until it has a model or a result.
        if restart or not self.path.exists() or self.path.stat().st_size == 0:
            self._begins = settings
            return

        # 3. Results of an earlier one, with the same settings.
        self._compare(self._description()["run"], settings)
        self._file = os.open(self.path, _APPEND, 0o666)
        self._read()

    def _begin(self, **more: Any) -> None:
        """Empty the file and write the settings beside it, once in a run that resumes nothing."""
        if self._begins is not None:
            self._file = os.open(self.path, _APPEND | os.O_TRUNC, 0o666)
            self._describe({"schema_version": SCHEMA_VERSION, "run": self._begins, **more})
            self._begins = None

    def _refuse_strangers(self, restart: bool) -> None:
        folder = self.path.absolute().parent
        if not folder.is_dir():
            raise UsageError(f"{self.path}: the folder does not exist.")
        if self.path.exists() and not self.path.is_file():
            raise UsageError(f"{self.path} is not a file that results can be appended to.")
        if not self.path.exists() or self.path.stat().st_size == 0:
            return
        with self.path.open("rb") as file:
            head = file.readline(1 << 20)
        torn = (
            self._side.exists()
            and not head.endswith(b"\n")
            and head.startswith(_BEGIN[: len(head)])
        )
        if not torn and (b'"question_index"' not in head or b'"fingerprint"' not in head):
            raise UsageError(f"{self.path} exists and does not hold results: choose another `out`.")
        if not self._side.exists() and not restart:
            raise UsageError(
                f"{self._side.name}, the settings of {self.path}, is not there: {_RESTART}."
            )

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"Another run is writing to {self.path}: wait for it, or choose another `out`."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
            self.unlocked = True  # some network file systems
        if os.fstat(self._lock).st_nlink == 0:  # another run has just ended before it had begun
            raise UsageError(f"Another run had {self.path} a moment ago: start this one again.")
        self._held = not self.unlocked

    def _description(self) -> dict[str, Any]:
        try:
            known = json.loads(os.pread(self._lock, os.fstat(self._lock).st_size, 0))
            if not isinstance(known["run"], dict):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{self._side} cannot be read: {_RESTART}.") from None
        return dict(known)

    def _describe(self, description: Mapping[str, Any]) -> None:
        # In place, because the lock is the file's.
        content = json.dumps(description, indent=2, allow_nan=False).encode() + b"\n"
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, content, 0)

    def _compare(self, known: Any, settings: Mapping[str, Any]) -> None:
        before, now = dict(_leaves(known)), dict(_leaves(settings))
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                option = name.rpartition(".")[2]
                raise UsageError(
                    f"{self.path} holds results with {option} {_shown(old)}, and this run has "
                    f"{_shown(new)}: {_RESTART}."
                )

    def _read(self) -> None:
        """Note what is stored; an end that a kill cut short is cut off."""
        good = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, good)
                    break
                good += len(line)
                try:
                    result = json.loads(line)
                    self.states.setdefault(key_of(result), state_of(result))
                except (ValueError, KeyError, TypeError):
                    raise UsageError(
                        f"{self.path}, line {number}, is damaged; remove that line."
                    ) from None

    def _drop_forgotten(self) -> None:
        """Put the other results into a file that takes the place of this one."""
        if not self._forgotten:
            return
        target = self.path.resolve()  # where `path` is a link, it stays one
        new = target.with_name(f".{target.name}.new")
        try:
            with target.open("rb") as old, new.open("wb") as file:
                for line in old:
                    if key_of(json.loads(line)) not in self._forgotten:
                        file.write(line)
                file.flush()
                os.fsync(file.fileno())
            shutil.copymode(target, new)
            opened = os.open(new, _APPEND, 0o666)
            self._file, before = opened, self._file
            os.close(before)
            new.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
            raise OutputError(
                f"The failures in {self.path} cannot be dropped: {error.strerror or error}. It is "
                "as it was."
            ) from error
        self._forgotten = set()


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value of nested mappings by its path."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, part in value.items():
        yield from _leaves(part, f"{name}.{key}" if name else str(key))


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value)
