"""What users and their scripts rely on, compared with the snapshots in this folder.

Frozen are the options of every command, the keys of every document and file that a command
writes, the keys of configurations and of seats.toml, exit codes, and the names that the package
exports. Only the package and its command line are imported, so the modules behind them may move.

A change that is meant is written down by

    SEATS_UPDATE_SURFACE=1 python -m pytest tests/surface

and its diff belongs into the same commit.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub  # noqa: F401 - reads variables that `doctor` reports, before they are set
import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner, Result

from seats_cli.cli.main import app

ROOT = Path(__file__).parents[2]
SNAPSHOTS = Path(__file__).parent
UPDATE = os.environ.get("SEATS_UPDATE_SURFACE", "") not in ("", "0")

GROUP: Any = get_command(app)
COMMANDS: dict[str, Any] = dict(GROUP.commands)
CARDS = str(ROOT / "assets" / "cards_words_beeps_12s.mp4")
QUESTION = "What color is shown first?"

Run = Callable[..., Result]

# Every field of a configuration; the bundled model reaches it.
FULL_CONFIG: dict[str, Any] = {
    "retain": 0.25,
    "retain_video": 0.3,
    "retain_audio": 0.5,
    "encoder_scale": 1.4,
    "drop_layers": [8, 9, 10],
    "late_layer": 12,
    "temperature": 0.2,
    "video_window": 4,
    "audio_window": 40,
    "allocation": "adaptive",
    "kv": "survivors",
    "method": "seats",
    "contextual_ratio": 0.1,
    "fastv_layer": 3,
    "seed": 7,
    "still_tolerance": 2.0,
    "encoder_reuse": 0.98,
    "encoder_keep": 0.35,
}


def check(name: str, found: Any) -> None:
    """Compare with a snapshot, or write it when that was asked for; a missing one is a failure."""
    text = found if isinstance(found, str) else json.dumps(found, indent=1, ensure_ascii=False)
    text = text.rstrip("\n") + "\n"
    path = SNAPSHOTS / name
    if UPDATE:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return
    where = path.relative_to(ROOT).as_posix()
    remedy = "if that is meant, run SEATS_UPDATE_SURFACE=1 python -m pytest tests/surface"
    if not path.is_file():
        pytest.fail(f"There is no snapshot {where}; {remedy}", pytrace=False)
    before = path.read_text(encoding="utf-8")
    if before != text:
        lines = difflib.unified_diff(
            before.splitlines(), text.splitlines(), where, "now", lineterm="", n=2
        )
        shown = "\n".join(lines)
        pytest.fail(f"The public surface has changed; {remedy}\n\n{shown}", pytrace=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of so small a model mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call `seats` in an empty folder, on no terminal and without the user's settings."""
    for name in [name for name in os.environ if name.startswith("SEATS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or the command line sets the number itself
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    for name in ("COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.setenv(name, "100")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))
