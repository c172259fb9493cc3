"""Where the question comes from, and that its absence never hangs."""

from __future__ import annotations

import io
import os
import sys

import pytest

from seats_cli.cli.console import Talk
from seats_cli.cli.question import MAX_CHARACTERS, find_question
from seats_cli.errors import UsageError
from tests.cli.fakes import CALLS


class Terminal(io.StringIO):
    """Text typed on a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def talk():
    return Talk(quiet=True)


@pytest.mark.parametrize("argument", [(), ("-",)])
def test_piped(run, clip, argument):
    assert run("ask", clip, *argument, input="What is\nshown?\n").exit_code == 0
    assert CALLS["ask"]["question"] == "What is\nshown?"


def test_the_argument_wins_and_stdin_is_left_alone(run, clip):
    run("ask", clip, " Which? ", input="What?")
    assert CALLS["ask"]["question"] == "Which?"


@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_stdin_is_an_error(run, clip, text):
    result = run("ask", clip, input=text)
    assert result.exit_code == 2
    assert "no question" in result.stderr


def test_an_empty_argument_is_an_error(run, clip):
    assert run("ask", clip, "  ").exit_code == 2


def test_arguments_that_are_no_text_are_errors(run, clip):
    assert run("ask", clip, "Wh\udcff?").exit_code == 2
    assert run("ask", clip, "What?", "--choices", "a,\udcff").exit_code == 2


def test_a_terminal_without_a_question_is_an_error(talk, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal("typed"))
    with pytest.raises(UsageError, match="no question"):
        find_question(None, talk)
    assert find_question("-", talk) == "typed"


def test_no_stdin_at_all(talk, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError):
        find_question(None, talk)


def test_a_pipe_that_stays_open_and_empty_is_given_up(talk, monkeypatch):
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UsageError, match="No question arrived"):
            find_question(None, talk, timeout_s=0.05)
        os.write(writing, b"late?")
        os.close(writing)
        assert find_question(None, talk, timeout_s=1) == "late?"


def test_a_film_on_stdin_is_refused(talk, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), "utf-8"))
    with pytest.raises(UsageError, match="UTF-8"):
        find_question("-", talk)
    monkeypatch.setattr(sys, "stdin", io.StringIO("x" * (MAX_CHARACTERS + 1)))
    with pytest.raises(UsageError, match="longer"):
        find_question("-", talk)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_are_refused(run, clip, encoding):
    result = run("ask", clip, input="Wie heißt er?".encode(encoding))
    assert result.exit_code == 2
    assert "not UTF-8" in result.stderr


def test_a_byte_order_mark_is_nothing(run, clip):
    assert run("ask", clip, input="What?\n".encode("utf-8-sig")).exit_code == 0
    assert CALLS["ask"]["question"] == "What?"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("red, green", ["red", "green"]),
        ('red,"green, not blue"', ["red", "green, not blue"]),
        ('"a ""quoted"" word", b', ['a "quoted" word', "b"]),
        ('5" pipe, 6" pipe', ['5" pipe', '6" pipe']),
    ],
)
def test_choices_are_a_line_of_csv(run, clip, text, wanted):
    assert run("ask", clip, "What?", "--choices", text).exit_code == 0
    assert list(CALLS["ask"]["choices"]) == wanted


@pytest.mark.parametrize("text", ['red,"green', "red\ngreen", '"red, green"', "red,,green"])
def test_choices_that_are_no_line_of_csv(run, clip, text):
    result = run("ask", clip, "What?", "--choices", text)
    assert result.exit_code == 2
    assert "--choices needs" in result.stderr
