"""Ctrl-C while a long file is read, on a terminal that shows how far it is."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
import wave
from pathlib import Path

import pytest

from seats_cli.cli.runtime import noting_interrupts, stop_if_interrupted

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def long_sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six hours of silence that take no room on the disk."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 48_000, 6 * 3600 * 48_000, "NONE", ""))
    size = 6 * 3600 * 48_000 * 2
    data = bytearray(path.read_bytes())
    data[4:8] = (size + 36).to_bytes(4, "little")
    data[40:44] = size.to_bytes(4, "little")
    path.write_bytes(data)
    os.truncate(path, len(data) + size)
    return path


def run_until(path: Path, words: bytes, number: int) -> tuple[int, float, bytes]:
    """Exit code, seconds it took to end, and what was shown, after a signal at some words."""
    terminal, stderr = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.fakes", "--real-media", "ask", str(path), "What?"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=path.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(stderr)
    shown = b""
    end = time.monotonic() + 40
    while words not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096)
    began = time.monotonic()
    process.send_signal(number)
    while process.poll() is None and time.monotonic() < began + 20:
        if select.select([terminal], [], [], 0.02)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # how Linux says that the other side is closed
                process.wait(20)
    took = time.monotonic() - began
    if process.poll() is None:
        process.kill()
    process.communicate()
    os.close(terminal)
    return process.returncode, took, shown


def test_interrupt_while_reading(long_sound: Path) -> None:
    code, took, shown = run_until(long_sound, b"%", signal.SIGINT)
    text = shown.decode(errors="replace")
    assert code == 130, text
    assert "Reading long.wav: sound" in text
    assert "Interrupted." in text
    assert "Traceback" not in text
    assert "ignored" not in text
    assert took < 2


def test_an_interrupt_that_a_library_swallows_is_raised_again() -> None:
    with noting_interrupts():
        stop_if_interrupted()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop_if_interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with noting_interrupts():
        stop_if_interrupted()
