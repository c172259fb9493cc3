"""Where text goes: the answer to stdout, everything else, progress too, to stderr."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text


class Talk:
    """Notices, warnings and progress on stderr.

    Parameters
    ----------
    quiet : bool
        Hide notices and progress. Warnings stay: they tell what of the input was lost.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._told: set[str] = set()

    def notice(self, sentence: str) -> None:
        """One line that a quiet run does without."""
        if not self.quiet:
            self._line(sentence, "dim")

    def warning(self, sentence: str) -> None:
        """One line that is always shown, once."""
        if sentence not in self._told:
            self._told.add(sentence)
            self._line(f"Warning: {sentence}", "yellow")

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Spinner]:
        """A spinner on a terminal, nothing elsewhere."""
        shown = Spinner(self.console if self.console.is_terminal and not self.quiet else None)
        shown.start(what)
        try:
            yield shown
        finally:
            shown.stop()

    def _line(self, sentence: str, style: str) -> None:
        # soft_wrap keeps it one line for grep; the terminal wraps it for the eye.
        self.console.print(Text(" ".join(sentence.split()), style=style), soft_wrap=True)


class Spinner:
    """A spinner that can be stopped early, before the first token of an answer."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._stack = contextlib.ExitStack()
        self._status: Status | None = None
        self._what = self._detail = ""

    def start(self, what: str) -> None:
        """Show the spinner with a text."""
        self._what = what
        if self._console is not None:
            self._status = self._stack.enter_context(self._console.status(Text(what)))

    def update(self, detail: str) -> None:
        """Add how far it is; cheap enough to be called for every frame."""
        if self._status is not None and detail != self._detail:
            self._detail = detail
            self._status.update(Text(f"{self._what}: {detail}"))

    def stop(self) -> None:
        """Remove the spinner; more calls do nothing."""
        self._stack.close()


class AnswerStream:
    """Writes the answer to stdout piece by piece and ends it with exactly one newline.

    Parameters
    ----------
    progress : Progress
        Stopped before the first piece, so that spinner and answer don't share a line.
    """

    def __init__(self, progress: Spinner) -> None:
        self._progress = progress
        self._last = ""

    def __call__(self, piece: str) -> None:
        """Write one piece at once, also into a pipe."""
        if piece:
            self._progress.stop()
            self._last = piece
            _write(piece)

    def finish(self, text: str) -> None:
        """Write `text` unless it was streamed, and the final newline."""
        self._progress.stop()
        if not self._last:
            self._last = text
            _write(text)
        if not self._last.endswith("\n"):
            _write("\n")


def print_document(text: str) -> None:
    """Print a JSON document and nothing else."""
    _write(f"{text}\n")


def stdout_is_unicode() -> bool:
    """Whether stdout can carry every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def prepare_streams() -> None:
    """Let a character that stdout cannot encode appear as `?` instead of ending the run."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")


def calm_libraries(*, debug: bool, quiet: bool) -> None:
    """Keep the libraries' own log lines and progress bars out of the output.

    Must run before transformers and huggingface_hub are imported: they read these variables
    once. A variable that the user has set wins.
    """
    if debug:
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


_LINE_EVERY_S = 30.0


class ProgressBar:
    """Counts answers, also those of other processes.

    Parameters
    ----------
    talk : Talk
    total, done : int
        Answers in all, and those that an earlier run has left.
    shown : bool
        False counts silently.
    counter : shared integer, optional
        Of `multiprocessing`, to count together with other processes.
    """

    def __init__(
        self, talk: Talk, total: int, done: int, *, shown: bool, counter: Any = None
    ) -> None:
        self._talk, self._total, self._before = talk, total, min(done, total)
        self._shown = shown and not talk.quiet
        self.counter = counter
        self._own = 0
        self._began = self._told = time.monotonic()
        self._bar: Progress | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ProgressBar:
        if self._shown and self._before:
            self._talk.notice(f"{self._before} of {self._total} answers are there already.")
        if self._shown and self._talk.console.is_terminal:
            self._bar = self._stack.enter_context(
                Progress(
                    TextColumn("Answering"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeRemainingColumn(),
                    console=self._talk.console,
                    transient=True,
                )
            )
            self._task = self._bar.add_task("", total=self._total, completed=self._before)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def share(self, context: Any) -> None:
        """Count together with processes that are given `counter`."""
        self.counter = context.Value("q", 0)

    def add(self) -> None:
        """One more answer."""
        if self.counter is None:
            self._own += 1
        else:
            with self.counter.get_lock():
                self.counter.value += 1
        self.show()

    def show(self) -> None:
        """Bring what is shown up to date."""
        if not self._shown:
            return
        new = self._own if self.counter is None else int(self.counter.value)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._before + new)
            return
        now = time.monotonic()
        if new and now - self._told >= _LINE_EVERY_S:
            self._told = now
            left = (now - self._began) / new * (self._total - self._before - new)
            self._talk.notice(
                f"{self._before + new} of {self._total} answers, about {left / 60:.0f} min left."
            )
