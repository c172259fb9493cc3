"""Process set-up: exceptions to one sentence and an exit code, Ctrl-C, garbage collection."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from seats_cli.cli.console import NarrowHelp, silence_stdout
from seats_cli.cli.option_groups import sentence_of, with_flags
from seats_cli.errors import ADVICE, OutputError, ResourceError, SeatsError, out_of_memory_on

if TYPE_CHECKING:
    from seats_cli.media.fetch import Readable


def pause_collection() -> None:
    """Collect no garbage until `resume_collection`: what a start allocates stays in use."""
    gc.disable()


def resume_collection() -> None:
    """Collect garbage again, what exists now exempt; does nothing unless paused."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


_pending: list[BaseException] = []


@contextlib.contextmanager
def noting_interrupts() -> Iterator[None]:
    """Remember a Ctrl-C that arrives inside; any other handler of SIGINT stays in charge."""
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
    """Raise again what a signal handler raised and a library may have swallowed."""
    if _pending:
        raise _pending[0]


_LOOK_EVERY_S = 0.5


class Pipe:
    """A stream that a signal ends the wait for, always.

    Python looks for signals before it reads, and one that comes between the two is noticed when
    the read is over: never, if nothing more arrives. So this waits in short steps instead, and
    reads what is there.

    Parameters
    ----------
    stream : binary file
        One that nothing else reads from: what it has buffered is not waited for.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = cast("Readable", stream)  # which has no `read1` in its type

    def read1(self, size: int, /) -> bytes:
        """Up to `size` of the bytes that come next, as soon as there are any; none at the end."""
        stop_if_interrupted()
        while not has_input(self._stream, _LOOK_EVERY_S):
            stop_if_interrupted()
        return self._stream.read1(size)


def has_input(stream: Any, timeout_s: float) -> bool:
    """Whether something (or the end) arrives on a stream in time."""
    try:
        return bool(select.select([stream.fileno()], [], [], timeout_s)[0])
    except (OSError, ValueError, AttributeError):
        return True  # no real descriptor (a test) or no select for pipes (Windows): just read


class Stopped(KeyboardInterrupt):
    """A Ctrl-C that waited for a place where it does no harm."""


@contextlib.contextmanager
def deferring_interrupts() -> Iterator[Callable[[], None]]:
    """Let the first Ctrl-C inside wait; a second one ends the command at once.

    Raised anywhere, it could leave a model half restored. What is yielded is to be called where
    it can't: there it raises `Stopped`. So does the end, also behind an error, so that a Ctrl-C
    behind the last call is not lost.
    """
    waiting: list[int] = []

    def wait(number: int, frame: FrameType | None) -> None:
        if waiting:
            note(number, frame)
        waiting.append(number)

    def check() -> None:
        if waiting:
            raise Stopped

    before = signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and before in (
        note,
        signal.default_int_handler,
    )
    if ours:
        signal.signal(signal.SIGINT, wait)
    try:
        try:
            yield check
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)
    except Exception as error:
        if waiting:
            raise Stopped from error
        raise
    check()


def forget_interrupts() -> None:
    """Go on after a Ctrl-C that has been dealt with."""
    _pending.clear()


def note(number: int, _frame: FrameType | None) -> None:
    """A signal handler: ends the command, with 130 for Ctrl-C."""
    _pending.append(KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number))
    raise _pending[-1]


@contextlib.contextmanager
def finishing_first(sentence: str) -> Iterator[None]:
    """Let a first Ctrl-C inside wait for `stop_if_interrupted`; a second one ends at once.

    Parameters
    ----------
    sentence : str
        Shown on stderr at the first; nothing if it is empty.
    """
    usual = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if _pending:
            note(number, frame)
        _pending.append(KeyboardInterrupt())
        if sentence:  # not through stderr's buffer, which this may have interrupted
            with contextlib.suppress(OSError):
                os.write(2, f"\n{sentence}\n".encode())

    waits = usual is note and threading.current_thread() is threading.main_thread()
    if waits:
        signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if waits:
            signal.signal(signal.SIGINT, usual)


EXIT_OK, EXIT_UNEXPECTED, EXIT_INTERRUPTED = 0, 1, 130

_at_end: list[Callable[[], None]] = []


def at_end(action: Callable[[], None]) -> None:
    """Register an action for the end of the command, however it ends."""
    if action not in _at_end:
        _at_end.append(action)


class GuardedGroup(NarrowHelp, TyperGroup):
    """A command group that shows no traceback unless asked to.

    The mapping sits here, and not around the app, so that every way to start the app
    (console script, `python -m`, a test's runner) gives the same output and exit code.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command; in standalone mode end the process with its exit code."""
        arguments = list(sys.argv[1:] if args is None else args)

        def run() -> Any:
            return super(GuardedGroup, self).main(
                arguments or ["--help"],  # bare `seats` asks for help
                prog_name or "seats",
                complete_var,
                False,
                windows_expand_args,
                **extra,
            )

        if not standalone_mode:
            return run()
        try:
            with noting_interrupts():
                result = run()
                # One that a library has swallowed, or that came behind the last place to stop at.
                stop_if_interrupted()
        except BaseException as error:
            leave(error, debug=wants_traceback(arguments))
        finally:
            while _at_end:
                _at_end.pop()()
        if result == EXIT_INTERRUPTED:  # newer Typer hides Ctrl-C behind this result
            leave(KeyboardInterrupt(), debug=False)
        sys.exit(result if isinstance(result, int) else EXIT_OK)


def wants_traceback(arguments: Sequence[str]) -> bool:
    """True for `--debug` or SEATS_DEBUG=1, read from the raw arguments.

    Raw, because parsing them may be what failed.
    """
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--debug" in options or os.environ.get("SEATS_DEBUG", "") not in ("", "0")


def leave(error: BaseException, *, debug: bool) -> NoReturn:
    """Say what went wrong, in one line, and end the process with the code for it."""
    if isinstance(error, SystemExit):
        raise error
    if _is_closed_pipe(error):
        silence_stdout()
        sys.exit(EXIT_UNEXPECTED)  # what click does where it sees the pipe first
    sentence, code = explain(error)
    with contextlib.suppress(OSError, ValueError):
        if debug and code != EXIT_INTERRUPTED:
            traceback.print_exception(error)
        print(sentence, file=sys.stderr, flush=True)
        if isinstance(error, OutputError) and error.lost.strip():
            print(error.lost, file=sys.stderr, flush=True)
    sys.exit(code)


def explain(error: BaseException) -> tuple[str, int]:
    """One sentence and the exit code for an exception."""
    if isinstance(error, typer.Abort):
        # Click turns EOFError into Abort; that one is a defect, not a user's Ctrl-C.
        if isinstance(error.__cause__, EOFError):
            return _unexpected(error.__cause__)
        return "Interrupted.", EXIT_INTERRUPTED
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted.", EXIT_INTERRUPTED
    if isinstance(error, SeatsError):
        return f"Error: {_one_line(sentence_of(error))}", error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EBADF):
        return f"Error: Nothing more can be written: {error.strerror}.", EXIT_UNEXPECTED
    place = out_of_memory_on(error)
    if place is not None:
        advice = _FOR_LIBRARIES if isinstance(error, ImportError) else ADVICE
        sentence = with_flags(f"Out of memory on the {place}. {advice}")
        return f"Error: {sentence}", ResourceError.exit_code
    if hasattr(error, "format_message"):  # click's exceptions, wherever Typer keeps them
        return _usage(error)
    return _unexpected(error)


_FOR_LIBRARIES = "Not even the libraries fit: free some memory, or raise the limit on this process."


def _usage(error: Any) -> tuple[str, int]:
    sentence = _one_line(error.format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "seats"
    return f"Error: {sentence}. See '{command} --help'.", int(error.exit_code)


def _unexpected(error: BaseException) -> tuple[str, int]:
    what = _one_line(str(error)) or "no message"
    if len(what) > 300:
        what = f"{what[:300]}..."
    return (
        f"Error: unexpected {type(error).__name__}: {what} "
        "(run it again with --debug or SEATS_DEBUG=1 for the traceback)",
        EXIT_UNEXPECTED,
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _is_closed_pipe(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE
