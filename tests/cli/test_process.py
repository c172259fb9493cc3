"""The real process: pipes, interrupts and encodings behave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import fakes

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.cli.fakes", "ask"]


def start(*arguments: str, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    pipe = subprocess.PIPE
    folder = (
        options.pop("folder", None) or Path(arguments[0]).parent
    )  # away from a seats.toml that lies in the repository
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=pipe, stderr=pipe, cwd=folder, env=environment, **options
    )


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(fakes.tiny_wav())
    return str(path)


def test_answer_and_newline_and_nothing_else(clip):
    process = start(clip, "What?", stdin=subprocess.DEVNULL, env={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out == b"a red card\n"
    assert b"\x1b" not in err


def test_no_question_and_no_stdin_does_not_hang(clip):
    process = start(clip, stdin=subprocess.DEVNULL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == b""
    assert len(err.splitlines()) == 1


def test_a_reader_that_leaves_early_is_no_traceback(clip):
    process = start(clip, "What?", "-q", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 1
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors


def test_interrupt_while_waiting(clip):
    process = start(clip, stdin=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline() == b"Waiting for the question on stdin.\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == b"Interrupted."
    assert b"Traceback" not in err
