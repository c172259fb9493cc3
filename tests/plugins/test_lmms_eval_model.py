"""`lmms-eval --model seats`, with the real package: the answers are those of `seats eval`."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import EntryPoint
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seats_cli import SeatsConfig
from seats_cli.evaluate.benchmarks import read_benchmark
from seats_cli.evaluate.jsonl import read_jsonl
from seats_cli.evaluate.questions import QuestionSet
from seats_cli.evaluate.runner import evaluate
from seats_cli.models import load_model
from seats_cli.results import RunSpec, Turn

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: .ci/matrix lmms-eval")
from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import MODEL_REGISTRY_V2
from lmms_eval.tasks import TaskManager

from seats_cli import plugins
from seats_cli.errors import UsageError
from seats_cli.plugins import lmms_eval_model
from seats_cli.plugins.lmms_eval_model import SeatsModel, read_prompt

ASSETS = Path(__file__).parents[2] / "assets"
CARDS, JFK = ASSETS / "cards_words_beeps_12s.mp4", ASSETS / "jfk.wav"
TASKS = Path(plugins.__file__).parent / "tasks"
QUESTIONS = (
    (CARDS, "What color is shown first?", "red"),
    (JFK, "What is heard?", "speech"),
    (CARDS, "What color is shown last?", "green"),
)
TINY = """\
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: tiny.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function tiny.visual
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs: {max_new_tokens: 32, until: []}
process_results: !function tiny.results
metric_list: [{metric: right, aggregation: mean, higher_is_better: true}]
"""
CODE = """\
def visual(doc):
    return [doc["media"]]


def results(doc, results):
    return {"right": float(results[0].strip() == doc["answer"])}
"""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model as its entry point gives it, and a cache of its own for the data sets."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    entry = EntryPoint("seats", "seats_cli.plugins:lmms_eval_models", "lmms_eval.models")
    MODEL_REGISTRY_V2.register_manifest(entry.load()(), overwrite=True)


def by_lmms_eval(task: str, folder: Path, **arguments: Any) -> tuple[list[str], dict[str, Any]]:
    """Answers in the order of the documents, and the metrics."""
    manager = TaskManager(include_path=str(folder), include_defaults=False, model_name="seats")
    found = simple_evaluate(
        model="seats",
        model_args=",".join(f"{key}={value}" for key, value in arguments.items()),
        tasks=[task],
        task_manager=manager,
        batch_size=1,
        device="cpu",
        bootstrap_iters=0,
        process_docs_parallel=1,
    )
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples], found["results"][task]


def by_seats(questions: QuestionSet, config: SeatsConfig | None) -> dict[str, str]:
    """Answers of `seats eval` by item."""
    records: list[Any] = []
    loaded = load_model("bundled", device="cpu")
    evaluate(loaded, questions, [RunSpec("run", config)], done=(), store=records.append)
    assert not [record.error for record in records if record.error]
    return {record.item_id: record.given for record in records}


@pytest.mark.parametrize("config", [SeatsConfig(retain=0.25), None])
def test_answers_are_those_of_seats_eval(tmp_path: Path, config: SeatsConfig | None) -> None:
    rows = [
        {"id": str(at), "media": str(media), "question": question, "answer": answer}
        for at, (media, question, answer) in enumerate(QUESTIONS)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "tiny.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    (tmp_path / "tiny.py").write_text(CODE, encoding="utf-8")
    budget: dict[str, Any] = {"full": True} if config is None else {"retain": config.retain}
    answers, metrics = by_lmms_eval("tiny", tmp_path, **budget)
    wanted = by_seats(read_jsonl(tmp_path / "tiny.jsonl"), config)
    assert answers == [wanted[row["id"]] for row in rows]
    right = [answer == row["answer"] for answer, row in zip(answers, rows, strict=True)]
    assert any(right)
    assert metrics["right,none"] == pytest.approx(np.mean(right))


def test_daily_omni(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "Question": "What color is shown first?",
        "Choice": ["A. red", "B. green", "C. blue", "D. white"],
        "Answer": "A",
        "video_id": "abc",
        "Type": "Reasoning",
        "video_category": "Comedy",
        "video_duration": "30s",
    }
    (tmp_path / "qa.json").write_text(json.dumps([row, {**row, "Answer": "B"}]), encoding="utf-8")
    video = tmp_path / "Videos" / "abc" / "abc_video.mp4"
    video.parent.mkdir(parents=True)
    shutil.copy(CARDS, video)
    monkeypatch.setenv("DAILY_OMNI_ROOT", str(tmp_path))
    answers, metrics = by_lmms_eval("daily_omni", TASKS, retain=0.25)
    questions = read_benchmark("daily-omni", tmp_path)
    wanted = by_seats(questions, SeatsConfig(retain=0.25))
    assert answers == [wanted[item.id] for item in questions.items]
    assert {"accuracy,none", "unparsed,none"} <= set(metrics)


def test_the_other_benchmarks_are_there() -> None:
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    assert {"daily_omni", "omnivideobench", "lvomnibench"} <= set(manager.all_tasks)


def test_a_folder_that_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LVOMNIBENCH_ROOT", raising=False)
    with pytest.raises(UsageError, match="Set LVOMNIBENCH_ROOT"):
        lmms_eval_model.read_documents([{"benchmark": "lvomnibench", "root": "LVOMNIBENCH_ROOT"}])


def test_messages() -> None:
    clip = {"type": "video", "url": str(CARDS), "start_time": 2.0, "end_time": 4.0}
    found = read_prompt(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [clip, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
            {"role": "user", "content": [{"type": "text", "text": "And "}, _text("then?")]},
        ]
    )
    assert found.system == "Be brief."
    assert found.history == (Turn("What?", "red"),)
    assert found.question == "And then?"
    assert (found.read.start, found.read.end, found.read.video) == (2.0, 4.0, True)
    sound = {"type": "audio", "url": {"array": np.zeros(160), "sampling_rate": 16_000}}
    heard = read_prompt([{"role": "user", "content": [sound, _text("What?")]}])
    assert heard.source.content is not None
    assert heard.source.content[:4] == b"RIFF"
    assert heard.read.video is False
    picture = {"type": "image", "url": Image.new("RGB", (8, 8))}
    seen = read_prompt([{"role": "user", "content": [picture, _text("What?")]}])
    assert seen.source.content is not None
    assert Image.open(BytesIO(seen.source.content)).size == (8, 8)
    with pytest.raises(UsageError, match="one clip at a time"):
        read_prompt([{"role": "user", "content": [clip, clip, _text("Which?")]}])


def test_a_task_given_by_its_file_has_no_messages() -> None:
    """lmms-eval gives text and media in place of messages there."""
    model = SeatsModel(device="cpu", retain=0.25)
    model.task_dict = {"tiny": {"test": [{"media": str(CARDS)}]}}
    where = (0, "tiny", "test")
    content = [{"type": "video", "url": str(CARDS)}, _text(QUESTIONS[0][1])]
    turns = [{"role": "user", "content": content}]
    layouts: tuple[tuple[Any, ...], ...] = (
        (QUESTIONS[0][1], lambda _: turns, {"until": []}, *where),
        (QUESTIONS[0][1], {"until": []}, lambda doc: [doc["media"]], *where),
    )
    about = {"task": "tiny", "doc_id": 0, "repeats": 1}
    requests = [
        Instance(request_type="generate_until", arguments=layout, idx=0, metadata=about)
        for layout in layouts
    ]
    assert model.generate_until(requests) == ["red", "red"]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def test_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SeatsModel(device="cpu")
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.loglikelihood([])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        SeatsModel(device="cpu")
