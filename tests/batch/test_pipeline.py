"""A batch on a local Ray cluster of two actors, one of which is killed on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seats_cli import SeatsConfig
from seats_cli.batch import pipeline
from seats_cli.batch.cluster import LOCAL, ClusterOptions
from seats_cli.batch.group import BatchSettings, ClipRead
from seats_cli.batch.manifest import BatchQuestion, ClipGroup
from seats_cli.batch.pipeline import MAX_ATTEMPTS, _Answering, _error_of, _refusal_of
from seats_cli.cli.main import app
from seats_cli.config import ModelOptions
from seats_cli.errors import (
    ConfigError,
    MediaError,
    ModelError,
    ResourceError,
    SeatsError,
    UsageError,
)
from seats_cli.models.load import load_model, outline_model
from seats_cli.schedule import PruningPlan

CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"
QUESTIONS = ("What color is shown first?", "How many beeps are there?", "What is said?", "Red?")
FLAGS = ("--retain", "25%", "--fps", "1", "--end", "4", "--max-new-tokens", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of this process's own, small in memory, which the command finds joined."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed (extra ray)")
    before = {name: os.environ.get(name) for name in ("RAY_USAGE_STATS_ENABLED", "PYTHONPATH")}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, before["PYTHONPATH"])))
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="CRITICAL",
    )
    yield ray
    ray.shutdown()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


AT_WORK = "at_work"


class Waiting(_Answering):
    """An actor that waits in the middle of one clip, at the first attempt, until it is killed."""

    def _results(
        self, group: ClipGroup, questions: Any, read: ClipRead, attempt: int
    ) -> Iterator[dict[str, Any]]:
        answered = super()._results(group, questions, read, attempt)
        yield next(answered)
        if group.media == "2.mp4" and attempt == 1:
            Path(f"{AT_WORK}.new").write_text(str(os.getpid()))
            Path(f"{AT_WORK}.new").rename(AT_WORK)
            time.sleep(240)
        yield from answered


def kill_the_waiting_one(killed: list[int]) -> None:
    """SIGKILL for the actor that waits."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not killed:
        if Path(AT_WORK).exists():
            killed.append(int(Path(AT_WORK).read_text()))
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(0.05)


def results(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {(line["id"], line["question_index"]): line for line in lines}
    assert len(found) == len(lines), "a result is there twice"
    for line in lines:
        line.pop("timing", None)
        line.get("cost", {}).pop("peak_host_bytes", None)
    return found


def test_a_run_with_a_killed_actor_resumes_and_equals_a_local_one(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    items: list[dict[str, Any]] = []
    for number in range(4):
        (tmp_path / f"{number}.mp4").symlink_to(CARDS)
        items.append({"id": f"{number}", "media": f"{number}.mp4", "questions": QUESTIONS})
    items.insert(1, {"id": "gone", "media": "gone.mp4", "question": "What is shown?"})
    manifest, first = tmp_path / "items.jsonl", tmp_path / "first.jsonl"
    manifest.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    first.write_text(f"{json.dumps(items[0])}\n")
    command = CliRunner()

    local = command.invoke(app, ["batch", "items.jsonl", "--out", "local.jsonl", *FLAGS])
    assert local.exit_code == 6, local.stderr
    begun = command.invoke(app, ["batch", "first.jsonl", "--out", "ray.jsonl", *FLAGS])
    assert begun.exit_code == 0, begun.stderr

    killed: list[int] = []
    monkeypatch.setattr(pipeline, "_Answering", Waiting)
    threading.Thread(target=kill_the_waiting_one, args=(killed,), daemon=True).start()
    arguments = ["batch", "items.jsonl", "--out", "ray.jsonl", "--ray", "--actors", "2", *FLAGS]
    run = command.invoke(app, arguments)
    assert run.exit_code == 6, run.stderr
    assert killed
    assert "2.mp4: the process that asked about it has died; it is asked again" in run.stderr
    assert "4 of them in an earlier run" in run.stdout
    assert "raylet" not in run.output

    assert results(tmp_path / "ray.jsonl") == results(tmp_path / "local.jsonl")
    # And the other way round: nothing is left for this machine.
    again = command.invoke(app, ["batch", "items.jsonl", "--out", "ray.jsonl", *FLAGS])
    assert again.exit_code == 6
    assert "17 of them in an earlier run" in again.stdout


def test_a_clip_that_kills_every_process_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where an actor goes, and from where this process comes back
    settings = BatchSettings(generation={"max_new_tokens": 2})
    asked = tuple(BatchQuestion("item", n, "a.mp4", text) for n, text in enumerate(QUESTIONS))
    actor = _Answering(settings, ModelOptions(device="cpu"), str(tmp_path), None)
    read = ClipRead(None, error={"kind": "media", "sentence": "No."})
    group = ClipGroup("a.mp4", asked)
    last = list(actor._results(group, asked, read, MAX_ATTEMPTS))
    assert [result["error"]["kind"] for result in last] == ["media"] * len(asked)
    late = list(actor._results(group, asked, read, MAX_ATTEMPTS + 1))
    assert [result["question_index"] for result in late] == [0, 1, 2, 3]
    assert Counter(result["error"]["kind"] for result in late) == {"crash": 4}
    assert "3 processes that tried to ask about it has died" in late[0]["error"]["sentence"]


def test_an_impossible_budget_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the model's depth decides is known before Ray is joined, not by an actor."""
    monkeypatch.setattr(pipeline, "joined", lambda _: pytest.fail("joined"))
    observer = pipeline.Observer(pytest.fail, pytest.fail, pytest.fail)
    where = (ModelOptions(device="cpu"), ClusterOptions(LOCAL), observer)
    config = SeatsConfig(method="fastv", options={"fastv_layer": 50})
    outline = outline_model()
    PruningPlan.resolve(config, outline.architecture)  # the method itself knows it
    with pytest.raises(ConfigError, match=f"{outline.architecture.num_layers} layers"):
        pipeline.run_on_ray([], BatchSettings(config=config), *where, outline=outline)


@pytest.mark.parametrize("kind", [ConfigError, MediaError, ModelError, ResourceError, UsageError])
def test_why_an_actor_cannot_work(kind: type[SeatsError]) -> None:
    error = _error_of(json.loads(json.dumps(_refusal_of(kind("It is not here.")))))
    assert type(error) is kind
    assert str(error).endswith(": It is not here.")


def test_an_outline_is_the_model_without_its_weights() -> None:
    outline, loaded = outline_model(), load_model(device="cpu")
    assert all(parameter.is_meta for parameter in outline.model.parameters())
    for name in ("architecture", "sizing", "sampling", "captions"):
        assert getattr(outline, name) == getattr(loaded, name)
    with pytest.raises(ModelError):
        outline_model("/nowhere/at-all")
