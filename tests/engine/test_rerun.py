"""The same file, question, settings and seed give the same result in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def result(hash_seed: int) -> Any:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, token_ids, document = json.loads(done.stdout)
    del document["timing"], document["cost"]["peak_host_bytes"]
    return kept, token_ids, document


def test_two_processes_agree() -> None:
    first, second = result(1), result(2)
    assert first == second
    assert len(first[0]) == 5
    assert first[1]
