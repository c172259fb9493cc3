"""Garbage collection waits for the end of the start, and only of a command's own process."""

from __future__ import annotations

import gc
import subprocess
import sys

from seats_cli.cli import runtime


def test_resume_without_pause_leaves_everything() -> None:
    frozen = gc.get_freeze_count()
    runtime.resume_collection()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_pause_and_resume() -> None:
    try:
        runtime.pause_collection()
        assert not gc.isenabled()
        runtime.resume_collection()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()
        gc.enable()


def test_a_command_collects_again_once_the_model_is_there() -> None:
    script = (
        "import gc, sys\n"
        "from seats_cli.cli import main, sources\n"
        "from seats_cli.cli.console import Talk\n"
        "main.prepare_streams = lambda: print(gc.isenabled())\n"
        "main.app = lambda: sources.open_model(sources.ModelOptions(), Talk(quiet=True))\n"
        "main.main()\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 1000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True", "True"], done.stderr
