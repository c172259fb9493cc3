"""The same file, question, settings and seed give the same result in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]

CODE = """
import json
from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.media import read_clip
from seats_cli.models import load_model
from seats_cli.report.documents import answer_document, dump_document

loaded = load_model("bundled", device="cpu")
clip = read_clip("assets/sees_cat_says_dog.mp4", sizing=loaded.sizing)
answer = ask(
    loaded, clip, "What is heard?", config=SeatsConfig(retain=0.25), max_new_tokens=8,
    temperature=0.9, top_p=0.9, seed=11,
)
kept = [stage.kept.tolist() for stage in answer.trace.stages]
print(json.dumps([kept, answer.token_ids, json.loads(dump_document(answer_document(answer)))]))
"""


def elsewhere() -> str:
    """What a process with its own hash seed, and as many threads, prints."""
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env={**environment, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(ROOT)
    exec(compile(CODE, "CODE", "exec"), {"__name__": "__main__"})
    return capsys.readouterr().out


def parts(printed: str) -> Any:
    kept, token_ids, document = json.loads(printed)
    del document["timing"], document["cost"]["peak_host_bytes"]
    return kept, token_ids, document


def test_two_processes_agree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = parts(here(monkeypatch, capsys)), parts(elsewhere())
    assert first == second
    assert len(first[0]) == 5
    assert first[1]
