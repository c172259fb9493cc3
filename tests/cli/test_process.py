"""The real process: pipes, interrupts and encodings behave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import fakes
from tests.media.build import Sound, steady, tone, write

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


def test_what_was_lost_is_in_the_document(tmp_path):
    """The real reader behind the command line: a cut-off film is answered, and says so."""
    path = write(tmp_path / "a.avi", steady(50, codec="mpeg4", options={}), [Sound(tone(2))])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    process = start(str(path), "What?", "--json", "--real-media", stdin=subprocess.DEVNULL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    document = json.loads(out)
    assert document["media"]["frames_used"] >= 2
    assert 0.5 < document["media"]["audio_used_s"] < 1.9
    told = [w for w in document["warnings"] if "cut off" in w]
    assert len(told) == 1
    assert told[0].encode() in err


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


def shell(clip: str, redirections: str) -> subprocess.CompletedProcess[str]:
    command = f'"{sys.executable}" -m tests.cli.fakes ask "{clip}" "What?" {redirections}'
    return subprocess.run(
        ["/bin/sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(clip).parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device to write to")
@pytest.mark.parametrize("redirections", ["2>/dev/full", "2>&-"])
def test_an_answer_comes_although_stderr_takes_nothing(clip, redirections):
    done = shell(clip, redirections)
    assert done.returncode == 0
    assert done.stdout == "a red card\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device to write to")
@pytest.mark.parametrize("redirections", ["-q >/dev/full", "-q >&-", "-q --json >/dev/full"])
def test_what_stdout_does_not_take_goes_to_stderr(clip, redirections):
    done = shell(clip, redirections)
    assert done.returncode == 1
    _warning, sentence, *answer = done.stderr.splitlines()
    assert sentence.startswith("Error: Standard output cannot be written: ")
    assert "a red card" in "".join(answer)
