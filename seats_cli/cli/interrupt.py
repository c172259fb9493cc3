"""Ctrl-C that is not lost.

PyAV is built such that every exception inside it runs a little Python code and forgets what
that raises, a KeyboardInterrupt included. So it is noted, and raised again at the next
occasion.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_pending: list[BaseException] = []


@contextlib.contextmanager
def noting_interrupts() -> Iterator[None]:
    """Remember a Ctrl-C inside; where somebody else handles it, they go on to."""
    usual = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    _pending.clear()
    if usual:
        signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def stop_if_interrupted() -> None:
    """Raise what a signal raised before, if that was lost."""
    if _pending:
        raise _pending[0]


def note(number: int, _frame: FrameType | None) -> None:
    """A signal handler: ends the command, with 130 for Ctrl-C."""
    _pending.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))
    raise _pending[-1]
