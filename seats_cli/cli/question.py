"""Where the question comes from: the argument, or a pipe on stdin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from seats_cli.cli.console import Talk
from seats_cli.cli.runtime import Pipe, has_input
from seats_cli.errors import UsageError
from seats_cli.families.generation import is_captioner

# Longer than any question; stops a video that was piped in by mistake.
MAX_CHARACTERS = 1_000_000
# An open pipe that stays empty is a script's mistake far more often than a slow writer.
STDIN_TIMEOUT_S = 30.0
_NOTICE_AFTER_S = 1.0

_HOW = 'Give it as an argument, seats ask clip.mp4 "What happens?", or pipe it to stdin.'


def find_question(argument: str | None, talk: Talk, *, timeout_s: float = STDIN_TIMEOUT_S) -> str:
    """The question, stripped of surrounding white space.

    Parameters
    ----------
    argument : str or None
        What the command line gave; "-" reads stdin however long it takes, None reads stdin
        only when it is not a terminal and something arrives there.
    talk : Talk
        Says what the command is waiting for.
    timeout_s : float
        Seconds to wait for the first byte of an unannounced pipe.

    Raises
    ------
    UsageError
        There is no question.
    """
    if argument is not None and not argument.strip():
        raise UsageError(f"The question is empty. {_HOW} --no-question asks nothing.")
    if argument is not None and argument != "-":
        return given_question(argument)
    stdin = sys.stdin
    if stdin is None or stdin.closed:
        raise UsageError(f"There is no question. {_HOW}")
    if stdin.isatty():
        if argument is None:
            raise UsageError(f"There is no question. {_HOW}")
        talk.notice("Type the question and end it with Ctrl-D.")
    elif argument is None and not _arrives(stdin, timeout_s, talk):
        raise UsageError(f"No question arrived on stdin within {timeout_s:g} s. {_HOW}")
    return _read(stdin)


def find_questions(argument: str | None, also: Sequence[str], talk: Talk) -> tuple[str, ...]:
    """The question as `find_question` finds it, and those of `--also`.

    Raises
    ------
    UsageError
        There is no question, or one of the others is empty.
    """
    others = [given_question(question) for question in also]
    return (find_question(argument, talk), *others)


def may_ask_nothing(model: str | None, argument: str | None) -> bool:
    """Whether there is no question because the model takes none.

    Parameters
    ----------
    model : str or None
        As the command line names it.
    argument : str or None
        What the command line gave; empty or None mean no question to such a model, for which
        stdin is not read.
    """
    absent = argument is None or (argument != "-" and not argument.strip())
    return absent and model is not None and is_captioner(model, Path(model))


def given_question(argument: str) -> str:
    """A question from the command line, stripped of surrounding white space.

    Raises
    ------
    UsageError
        It is empty or not text.
    """
    question = argument.strip("\ufeff").strip()
    if not question:
        raise UsageError(f"The question is empty. {_HOW}")
    if not is_text(question):
        raise UsageError("The question is not UTF-8 text.")
    return question


def check_stdin_is_free(video: str, argument: str | None) -> None:
    """Refuse to read both the video and the question from one pipe.

    Raises
    ------
    UsageError
        Both are to come from stdin.
    """
    if video == "-" and argument in (None, "-"):
        raise UsageError(
            "The video comes from stdin, so the question must be an argument: "
            'seats ask - "What happens?" < clip.mp4.'
        )


def is_text(argument: str) -> bool:
    """Whether an argument was valid UTF-8; bytes that were not arrive as lone surrogates."""
    try:
        argument.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read(stdin: TextIO) -> str:
    text = _decoded(stdin)
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"The question on stdin is longer than {MAX_CHARACTERS:,} characters.")
    if not text.strip():
        raise UsageError(f"There is no question, stdin is empty. {_HOW}")
    return text.strip()


def _decoded(stdin: TextIO) -> str:
    """UTF-8 text, with or without a byte order mark, whatever the locale says."""
    try:
        # The text layer may decode by the locale and let bytes that fail through as surrogates.
        raw = getattr(stdin, "buffer", None)
        if raw is None:
            text = stdin.read(MAX_CHARACTERS + 1)
        else:
            text = _bytes_of(Pipe(raw), 4 * MAX_CHARACTERS + 4).decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a mark is valid UTF-8, every second character a NUL
        raise UsageError("The question on stdin is not UTF-8 text; save or pipe it as UTF-8.")
    return text.removeprefix("\ufeff")


def _bytes_of(pipe: Pipe, most: int) -> bytes:
    """All that comes, or as much of it as is needed to know that it is too much."""
    read = b""
    while len(read) < most and (block := pipe.read1(most - len(read))):
        read += block
    return read


def _arrives(stdin: TextIO, timeout_s: float, talk: Talk) -> bool:
    at_once = min(_NOTICE_AFTER_S, timeout_s)
    if has_input(stdin, at_once):
        return True
    talk.notice("Waiting for the question on stdin.")
    return has_input(stdin, timeout_s - at_once)
