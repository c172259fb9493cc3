"""`seats eval` as a user runs it: the bundled model, a folder, processes that share or die."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner, Result

from seats_cli.cli.main import app


def of(limit: int) -> list[str]:
    return ["eval", "synthetic", "--limit", f"{limit}", "--methods", "seats", "--retain", "10%"]


EVAL = of(9)
CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"


class Whole(NamedTuple):
    """A run from start to end: its folder, and what it printed."""

    folder: Path
    stdout: str


def seats(folder: Path, *arguments: str) -> Result:
    """Run the command line in a folder, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, list(arguments))


def records(folder: Path) -> list[dict[str, Any]]:
    """Stored answers of all processes."""
    paths = sorted(folder.glob("answers*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def keys(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Item and label of every answer."""
    return [(record["item_id"], record["label"]) for record in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    done = seats(folder, *EVAL, "--plot", "--json", "-o", "run")
    assert done.exit_code == 0, done.stderr
    return Whole(folder / "run", done.stdout)


def test_results_in_every_form(whole: Whole) -> None:
    document = json.loads(whole.stdout)
    assert document["schema_version"] == "1"
    assert document["items"] == 9
    assert [setting["label"] for setting in document["settings"]] == ["full", "seats 10%"]
    assert document["settings"][0]["answered"] == 9
    assert json.loads((whole.folder / "results.json").read_text()) == document
    table = list(csv.DictReader(io.StringIO((whole.folder / "results.csv").read_text())))
    assert {row["label"] for row in table} == {"full", "seats 10%"}
    assert "seats 10%" in (whole.folder / "results.md").read_text()
    assert (whole.folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((whole.folder / "run.json").read_text())
    assert stored["model"]["id"] == "bundled"
    assert stored["settings"]["seats 10%"]["config"]["retain"] == 0.1
    found = keys(records(whole.folder))
    assert len(found) == len(set(found)) == 18


def test_a_killed_run_and_its_worker_end_and_are_gone_on_with(whole: Whole, tmp_path: Path) -> None:
    """A worker does not outlive its run, and what both stored is not asked again."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "seats_cli", *of(600), "--workers", "2", "-o", "run"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    worker, limit = run / "answers-1.jsonl", time.monotonic() + 120
    while not (worker.exists() and worker.stat().st_size) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert worker.stat().st_size
    sizes = list(range(5))
    # It may finish the answer under way, which takes seconds on a busy machine.
    while len(set(sizes[-5:])) > 1 and time.monotonic() < limit:
        time.sleep(1.0)
        sizes.append(worker.stat().st_size)
    assert len(set(sizes[-5:])) == 1

    before = records(run)
    assert all(path.stat().st_size for path in run.glob("answers*"))
    done = seats(tmp_path, *of(18), "--workers", "2", "--json", "-o", "run")
    assert done.exit_code == 0, done.stderr
    said = re.search(r"(\d+) of 36 answers exist already", done.stderr)
    assert said is not None, done.stderr
    assert 4 <= int(said[1]) < 36
    after = records(run)
    assert set(keys(before)) <= set(keys(after))
    assert len(after) == len(set(keys(after)))
    assert len(after) == len(before) + 36 - int(said[1])
    assert json.loads(done.stdout)["settings"][0]["answered"] == 18
    assert [path.name for path in run.glob("answers*")] == ["answers.jsonl"]
    given = {(one["item_id"], one["label"]): one["given"] for one in after}
    for one in records(whole.folder):
        assert given[one["item_id"], one["label"]] == one["given"]


def test_a_launcher_shares_the_clips(whole: Whole, tmp_path: Path) -> None:
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
    rights = [
        [one["right"] for one in json.loads(text)["settings"]]
        for text in (done.stdout, whole.stdout)
    ]
    assert rights[0] == rights[1]
    found = keys(records(tmp_path / "run"))
    assert len(found) == len(set(found)) == 18
    assert [path.name for path in (tmp_path / "run").glob("answers*")] == ["answers.jsonl"]


def said_of(folder: Path, result: Result) -> dict[str, Any]:
    """What a run's document says, but for seconds and bytes, and what its Markdown leaves out."""
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    for setting in found["settings"]:
        for name in list(setting):
            if name.endswith("_s") or name.startswith("peak_"):
                del setting[name]
    found["left out"] = (folder / "results.md").read_text().rstrip("\n").split("\n\n")[-1]
    return dict(found)


def test_a_budget_out_of_reach_on_one_clip_is_left_out_however_the_run_went(tmp_path: Path) -> None:
    """Of the set's clips, only the second one has too few grids for a quarter of them."""
    some = ["eval", "synthetic", "--set-seed", "12", "--limit", "6", "--json"]
    some += ["--methods", "dycoke,random", "--retain", "25%"]
    alone = seats(tmp_path, *some, "--plot", "-o", "alone")
    found = said_of(tmp_path / "alone", alone)
    assert [setting["label"] for setting in found["settings"]] == ["full", "random 25%"]
    assert [setting["errors"] for setting in found["settings"]] == [0, 0]
    assert found["refused"] == [
        {
            "label": "dycoke 25%",
            "reason": found["refused"][0]["reason"],
            "item_id": "synthetic-12-00002",
            "number": 3,
        }
    ]
    assert "out of reach for dycoke" in found["refused"][0]["reason"]
    sentence = "dycoke 25% is left out: question 3 (synthetic-12-00002) is the first that it"
    assert found["left out"].startswith(sentence)
    assert alone.stderr.count(sentence) == 1
    # Two processes, of which one refuses nothing.
    shared = seats(tmp_path, *some, "--workers", "2", "-o", "shared")
    assert said_of(tmp_path / "shared", shared) == found
    # One process, over what two have left when they were stopped.
    (tmp_path / "stopped").mkdir()
    shutil.copy(tmp_path / "shared" / "run.json", tmp_path / "stopped")
    lines = (tmp_path / "shared" / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "stopped" / "answers.jsonl").write_text("".join(lines[::3]))
    assert said_of(tmp_path / "stopped", seats(tmp_path, *some, "-o", "stopped")) == found
    # And once more, with everything there.
    given = records(tmp_path / "alone")
    again = seats(tmp_path, *some, "-o", "alone")
    assert said_of(tmp_path / "alone", again) == found
    assert f"{len(given)} of {len(given)} answers exist already." in again.stderr
    assert [one["item_id"] for one in given if one["refused"]] == ["synthetic-12-00002"]
    table = seats(tmp_path, *[word for word in some if word != "--json"], "-o", "alone")
    assert sentence in " ".join(table.stdout.split())
    assert sentence not in table.stderr


def test_what_failed_is_counted_apart(tmp_path: Path) -> None:
    items = [
        {"id": "1", "media": str(CARDS), "question": "What color is shown first?", "answer": "red"},
        {"id": "2", "media": "gone.mp4", "question": "What color is shown?", "answer": "red"},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, items)))
    done = seats(tmp_path, "eval", "mine.jsonl", "--retain", "25%", "--json")
    assert done.exit_code == 6
    assert "2 of 4 answers failed" in done.stderr
    assert "Warning: mine.jsonl, line 2: the file gone.mp4 is not there" in done.stderr
    assert "Traceback" not in done.stderr
    full = json.loads(done.stdout)["settings"][0]
    assert (full["asked"], full["answered"], full["right"], full["errors"]) == (2, 1, 1, 1)
    again = seats(tmp_path, "eval", "mine.jsonl", "--retain", "25%", "--seed", "1")
    assert again.exit_code == 2
    assert "another seed" in again.stderr


def test_what_changes_no_layer_curve_is_said(tmp_path: Path) -> None:
    item = {"media": str(CARDS), "question": "What color is shown first?", "answer": "red"}
    (tmp_path / "mine.jsonl").write_text(json.dumps({"id": "1", **item}))
    find = ["eval", "mine.jsonl", "--find-layers"]
    idle = seats(tmp_path, *find, "--methods", "seats", "--retain", "10%", "--plot")
    assert idle.exit_code == 0, idle.stderr
    sentence = "--find-layers runs no method: --retain, --method, --plot without effect."
    assert sentence in " ".join(idle.stderr.split())
    assert "without effect" not in seats(tmp_path, *find).stderr


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
def test_bad_requests_are_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    result = seats(tmp_path, "eval", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr
