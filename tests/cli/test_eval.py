"""`seats eval` as a user runs it: real processes, the bundled model, a folder of results."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from seats_cli.cli.main import app

EVAL = ["eval", "synthetic", "--limit", "9", "--methods", "seats", "--retain", "10%"]
CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"

Whole = tuple[Path, "subprocess.CompletedProcess[str]"]


def seats(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "seats_cli", *arguments],
        cwd=folder,
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=240,
    )


def answers(folder: Path) -> list[tuple[str, str]]:
    """Item and label of every stored answer."""
    found = []
    for path in sorted(folder.glob("answers*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            found.append((record["item_id"], record["label"]))
    return found


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> Whole:
    """A run from start to end."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, seats(folder, *EVAL, "--plot", "--json", "-o", "run")


def test_results_in_every_form(whole: Whole) -> None:
    folder, done = whole
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema_version"] == "1"
    assert document["items"] == 9
    assert [setting["label"] for setting in document["settings"]] == ["full", "seats 10%"]
    assert document["settings"][0]["answered"] == 9
    assert json.loads((folder / "run/results.json").read_text()) == document
    table = list(csv.DictReader(io.StringIO((folder / "run/results.csv").read_text())))
    assert {row["label"] for row in table} == {"full", "seats 10%"}
    assert "seats 10%" in (folder / "run/results.md").read_text()
    assert (folder / "run/accuracy.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((folder / "run/run.json").read_text())
    assert stored["model"]["id"] == "bundled"
    assert stored["settings"]["seats 10%"]["config"]["retain"] == 0.1
    assert len(answers(folder / "run")) == len(set(answers(folder / "run"))) == 18


def test_killed_and_gone_on_with(whole: Whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "seats_cli", *EVAL, "-o", "run"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    limit = time.monotonic() + 120
    while len(answers(run)) < 4 and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = answers(run)
    assert 4 <= len(before) < 18
    done = seats(tmp_path, *EVAL, "--json", "-o", "run")
    assert done.returncode == 0, done.stderr
    assert "of 18 answers exist already" in done.stderr
    after = answers(run)
    assert set(before) <= set(after)
    assert len(after) == len(set(after)) == 18
    right = [one["right"] for one in json.loads(done.stdout)["settings"]]
    assert right == [one["right"] for one in json.loads(whole[1].stdout)["settings"]]


@pytest.mark.parametrize("how", ["workers", "accelerate"])
def test_two_processes_share_the_clips(whole: Whole, tmp_path: Path, how: str) -> None:
    if how == "workers":
        done = seats(tmp_path, *EVAL, "--workers", "2", "--json", "-o", "run")
    else:
        pytest.importorskip("accelerate")
        launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        done = subprocess.run(
            [sys.executable, *launch, "-m", "seats_cli", *EVAL, "--json", "-o", "run"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    expected = json.loads(whole[1].stdout)
    assert [one["right"] for one in document["settings"]] == [
        one["right"] for one in expected["settings"]
    ]
    assert len(answers(tmp_path / "run")) == len(set(answers(tmp_path / "run"))) == 18
    assert [path.name for path in (tmp_path / "run").glob("answers*")] == ["answers.jsonl"]


def test_a_worker_does_not_outlive_its_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    many = [*EVAL[:3], "600", *EVAL[4:], "--workers", "2", "-o", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "seats_cli", *many],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    worker, limit = run / "answers-1.jsonl", time.monotonic() + 120
    while not (worker.exists() and worker.stat().st_size) and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert worker.stat().st_size
    sizes = [worker.stat().st_size]
    while time.monotonic() < limit:  # it may finish the answer under way
        time.sleep(1.5)
        sizes.append(worker.stat().st_size)
        if sizes[-1] == sizes[-2]:
            break
    time.sleep(3.0)
    assert worker.stat().st_size == sizes[-1]


def test_what_failed_is_counted_apart(tmp_path: Path) -> None:
    items = [
        {"id": "1", "media": str(CARDS), "question": "What color is shown first?", "answer": "red"},
        {"id": "2", "media": "gone.mp4", "question": "What color is shown?", "answer": "red"},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, items)))
    done = seats(tmp_path, "eval", "mine.jsonl", "--retain", "25%", "--json")
    assert done.returncode == 6
    assert "2 of 4 answers failed" in done.stderr
    assert "Warning: mine.jsonl, line 2: the file gone.mp4 is not there" in done.stderr
    assert "Traceback" not in done.stderr
    full = json.loads(done.stdout)["settings"][0]
    assert (full["asked"], full["answered"], full["right"], full["errors"]) == (2, 1, 1, 1)
    again = seats(tmp_path, "eval", "mine.jsonl", "--retain", "25%", "--seed", "1")
    assert again.returncode == 2
    assert "another seed" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "There is no question set 'nowhere'"),
        (["gone.jsonl"], "gone.jsonl"),
        (["daily-omni"], "needs --root"),
        (["synthetic", "--fps", "1"], "frame by frame"),
        (["mine.jsonl", "--set-seed", "3"], "--set-seed"),
        (["synthetic", "--only", "colour"], "no questions or clips of kind 'colour'"),
        (["synthetic", "--methods", "best"], "is not a selection method"),
        (["synthetic", "--variant", "gone.toml"], "gone.toml"),
    ],
)
def test_bad_requests_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
