"""How far a batch is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from seats_cli.cli.console import Talk

_LINE_EVERY_S = 30.0


class Tally:
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

    def __enter__(self) -> Tally:
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
