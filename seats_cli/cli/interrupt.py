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

_seen = threading.Event()


@contextlib.contextmanager
def noting_interrupts() -> Iterator[None]:
    """Remember a Ctrl-C inside; where somebody else handles it, they go on to."""
    usual = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    _seen.clear()
    if usual:
        signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def stop_if_interrupted() -> None:
    """Raise a KeyboardInterrupt that came before and was lost."""
    if _seen.is_set():
        raise KeyboardInterrupt


def _note(_number: int, _frame: FrameType | None) -> None:
    _seen.set()
    raise KeyboardInterrupt
