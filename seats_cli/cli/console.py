"""Where text goes: the answer to stdout, everything else, progress too, to stderr."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from seats_cli.cli.option_groups import with_flags
from seats_cli.errors import OutputError


class Talk:
    """Notices, warnings and progress on stderr.

    `quiet` hides notices and progress. Warnings stay: they say which part of the input was lost.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._warned: set[str] = set()

    def notice(self, sentence: str) -> None:
        """Show a line, unless the run is quiet."""
        if not self.quiet:
            self._line(sentence, "dim")

    def warning(self, sentence: str) -> None:
        """Show a line, in a quiet run too; the same sentence only once."""
        if sentence not in self._warned:
            self._warned.add(sentence)
            self._line(f"Warning: {sentence}", "yellow")

    def error(self, sentence: str) -> None:
        """Show a line, in a quiet run too."""
        self._line(sentence, "red")

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
        words = with_flags(" ".join(sentence.split()))
        self.console.print(Text(words, style=style), soft_wrap=True)


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
        """Show how far it is; cheap enough to call for every frame."""
        if self._status is not None and detail != self._detail:
            self._detail = detail
            self._status.update(Text(f"{self._what}: {detail}"))

    def stop(self) -> None:
        """Remove the spinner; more calls do nothing."""
        self._stack.close()


class ThoughtStream:
    """Writes what a model thinks to stderr, dim, piece by piece, or shows only that it does.

    Parameters
    ----------
    shown : bool
        Whether to write it.
    """

    def __init__(self, talk: Talk, progress: Spinner, *, shown: bool) -> None:
        self._console, self._progress, self._shown = talk.console, progress, shown
        self._written = False

    def __call__(self, piece: str) -> None:
        """Write one piece at once."""
        if not self._shown:
            self._progress.update("thinking")
            return
        self._progress.stop()
        self._written = True
        self._console.print(Text(piece, style="dim"), end="", soft_wrap=True)

    def finish(self) -> None:
        """End what was written, if anything was, with an empty line; more calls do nothing."""
        if self._written:
            self._written = False
            self._console.print("\n")


class AnswerStream:
    """Writes the answer to stdout piece by piece and ends it with exactly one newline.

    The spinner stops before the first piece, so that the two don't share a line. Where stdout
    takes nothing more, the answer is completed all the same and `finish` raises what happened,
    with the whole answer in it.
    """

    def __init__(self, progress: Spinner) -> None:
        self._progress = progress
        self._last = ""
        self._failed: OutputError | None = None

    def __call__(self, piece: str) -> None:
        """Write one piece at once, also into a pipe."""
        if piece:
            self._progress.stop()
            self._last = piece
            self._write(piece)

    def finish(self, text: str) -> None:
        """Write `text` unless it was streamed, and the final newline.

        Raises
        ------
        OutputError
            If stdout did not take all of it.
        """
        self._progress.stop()
        if not self._last:
            self._last = text
            self._write(text)
        if not self._last.endswith("\n"):
            self._write("\n")
        if self._failed is not None:
            raise OutputError(str(self._failed), text)

    def break_off(self) -> None:
        """End the line of an answer that will not be complete."""
        self._progress.stop()
        if self._last and not self._last.endswith("\n"):
            self._write("\n")

    def _write(self, text: str) -> None:
        if self._failed is None:
            try:
                _write(text)
            except OutputError as error:
                self._failed = error


_HELP_WIDTH = 60


def is_narrow() -> bool:
    """Whether the panels of the help would cut the names of options."""
    try:
        width = int(os.environ.get("TERMINAL_WIDTH", ""))
    except ValueError:
        width = shutil.get_terminal_size().columns
    return width < _HELP_WIDTH


class NarrowHelp:
    """For commands and groups: help is plain text where panels would cut names."""

    rich_markup_mode: Any

    def format_help(self, context: Any, formatter: Any) -> None:
        """As usual, with panels or without."""
        if is_narrow():
            self.rich_markup_mode = None
        super().format_help(context, formatter)  # type: ignore[misc]


def print_document(text: str) -> None:
    """Print a JSON document and nothing else."""
    _write(f"{text}\n")


def stdout_is_unicode() -> bool:
    """Whether stdout can carry every character."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")


def prepare_streams() -> None:
    """Make the streams bear what a shell can do to them.

    A character that stdout cannot encode appears as `?`; where stderr takes nothing (closed, on a
    full disk), what it would say is dropped, so that the answer still comes.
    """
    if sys.stdout is None:  # `>&-`
        sys.stdout = _Closed()
    elif hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, for the process's life
    elif isinstance(sys.stderr, io.TextIOWrapper) and not isinstance(sys.stderr, _Dropping):
        sys.stderr.flush()
        sys.stderr = _Dropping(
            sys.stderr.buffer,
            encoding=sys.stderr.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )


class _Closed(io.StringIO):
    """A stdout that was closed before the start."""

    def write(self, _text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


class _Dropping(io.TextIOWrapper):
    """A stderr that never ends a run: from the first failure on it leads nowhere."""

    def write(self, text: str) -> int:
        """As usual, but what cannot be written is dropped."""
        try:
            return super().write(text)
        except OSError:
            self._lead_nowhere()
            return len(text)

    def flush(self) -> None:
        """As usual, but what cannot be written is dropped."""
        try:
            super().flush()
        except OSError:
            self._lead_nowhere()

    def _lead_nowhere(self) -> None:
        _lead_nowhere(self)


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
        if "transformers" in sys.modules:  # imported by whoever called us: too late for variables
            sys.modules["transformers"].utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says that it casts, each time


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:  # a reader that has seen enough
            raise
        silence_stdout()
        reason = error.strerror or str(error)
        raise OutputError(f"Standard output cannot be written: {reason}.", text) from error


def silence_stdout() -> None:
    """Point stdout at the null device, or the interpreter's last flush complains."""
    _lead_nowhere(sys.stdout)


def _lead_nowhere(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


_LINE_EVERY_S = 30.0


class ProgressBar:
    """A bar of answers on a terminal, else a line now and then; `done` are of an earlier run."""

    def __init__(self, talk: Talk, total: int, done: int) -> None:
        self._talk, self._total, self._done = talk, total, done
        self._began = self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Callable[[int], None]:
        if self._done:
            self._talk.notice(f"{self._done} of {self._total} answers exist already.")
        if self._talk.console.is_terminal and not self._talk.quiet:
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
            self._task = self._bar.add_task("", total=self._total, completed=self._done)
        return self._show

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _show(self, new: int) -> None:
        """Bring what is shown up to date, with so many answers of this run."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done + new)
            return
        now = time.monotonic()
        if new and now - self._last_line >= _LINE_EVERY_S:
            self._last_line = now
            left = (now - self._began) / new * (self._total - self._done - new)
            self._talk.notice(
                f"{self._done + new} of {self._total} answers, about {left / 60:.0f} min left."
            )
