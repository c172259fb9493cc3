"""A runner of the command line on the fake engine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from seats_cli.cli.main import app
from tests.cli import fakes

# A shell lets background jobs ignore Ctrl-C, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Run = Callable[..., Result]


@pytest.fixture
def clip(tmp_path: Path) -> str:
    """A path that exists; the fake engine does not read it."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(fakes.tiny_wav())
    return str(path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call `seats` with arguments, in an empty folder and without the user's settings."""
    for name, module in fakes.fake_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in [name for name in os.environ if name.startswith("SEATS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.chdir(tmp_path)
    fakes.CALLS.clear()

    def call(*arguments: str, **options: object) -> Result:
        return CliRunner().invoke(app, list(arguments), **options)  # type: ignore[arg-type]

    return call
