"""`python -m seats_cli.bench`: every measurement runs on a CPU in seconds and prints a table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seats_cli.bench.__main__ import MEASUREMENTS, main
from seats_cli.bench.first_day import TASKS
from seats_cli.config import SeatsConfig
from seats_cli.cost.estimate import find_model, plan_file
from seats_cli.engine.answer import ask
from seats_cli.families.registry import BUNDLED_PATH
from seats_cli.media.clip import ReadOptions
from seats_cli.media.reader import read_clip
from seats_cli.models.checkpoint import compare_with_files
from seats_cli.models.inputs import build_inputs
from seats_cli.models.load import load_model
from seats_cli.models.optimize import SEGMENTS
from seats_cli.models.random_weights import write_random_checkpoint
from seats_cli.report.phrases import format_bytes
from tests.models.test_attention import registered

SMALL = ["--seconds", "4", "--size", "140x84", "--repeats", "1"]
COMMANDS = {
    "encoders": ["bundled", *SMALL],
    "modules": ["bundled", *SMALL],
    "selection": ["cpu-0.5b", *SMALL],
    "positions": SMALL,
    "lengths": ["bundled", "--seconds", "1"],
    "processor": ["bundled", *SMALL],
    "index": ["bundled", "--seconds", "2", "--repeats", "1"],
    "loading": ["--random", "dense", "--megabytes", "60"],
    "checkpoint": ["bundled"],
}


def rows_of(capsys: pytest.CaptureFixture[str], name: str) -> list[dict[str, Any]]:
    main([name, *COMMANDS[name], "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["threads"] >= 1
    return document["rows"]


def test_every_measurement_is_tested() -> None:
    assert list(COMMANDS) == [measure.__name__ for measure in MEASUREMENTS]


def test_encoders(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "encoders")
    assert [(row["encoder"], row["part"], row["way"]) for row in rows] == [
        (encoder, part, way)
        for encoder in ("vision", "audio")
        for part in ("all", "attention")
        for way in ("stock", "ours")
    ]
    # 4 grids in two layers of six windows and two of one; 4 s in four layers of windows of 2 s
    assert (rows[0]["segments"], rows[4]["segments"]) == (2 * 4 * 6 + 2 * 4, 4 * 2)
    assert all(row["ms"] > 0 for row in rows if row["part"] == "all")
    assert all(row.get("difference", 0) < 1e-5 for row in rows)
    assert SEGMENTS not in registered()


def test_modules(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "modules")
    assert [row["way"] for row in rows] == [
        "stock",
        "attention",
        "modules",
        "attention and modules",
    ]
    assert all(row["difference"] < 1e-4 for row in rows)


def test_processor(capsys: pytest.CaptureFixture[str]) -> None:
    """The same values and ids by either way, part by part."""
    rows = rows_of(capsys, "processor")
    assert [(row["part"], row["way"]) for row in rows] == [
        ("pixel values", "transformers"),
        ("pixel values", "ours"),
        ("- rescale, normalise", "transformers"),
        ("- patches", "transformers"),
        ("- join, dtype", "transformers"),
        *(
            (part, way)
            for part in ("mel frames", "prompt", "everything")
            for way in ("transformers", "ours")
        ),
    ]
    assert all(row["difference"] == 0 and row["ms"] > 0 for row in rows)


def test_selection(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "selection")
    assert [row["stage I"] for row in rows if row["way"] == "plain"] == ["importance", "choice"]
    assert {(row["windows"], row["tokens"]) for row in rows} == {(2, 2 * 5 * 3)}


def test_positions_are_equal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "positions")
    assert {row["family"] for row in rows} == {"Qwen2.5-Omni", "Qwen3-Omni"}
    assert [row["way"] for row in rows] == ["stock", "ours"] * 2
    assert all(row["difference"] == 0 for row in rows)


def test_index(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "index")
    assert [row["setting"] for row in rows] == ["10%", "full"]
    assert all(row["index_ms"] > 0 and row["ratio"] > 0 for row in rows)
    assert rows[0]["encoder_bytes"] == rows[1]["encoder_bytes"] > 0
    assert 0 < rows[0]["setting_bytes"] < rows[1]["setting_bytes"] < rows[1]["bytes"]


def test_lengths_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    main(["lengths", *COMMANDS["lengths"]])
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "cuDNN"
    assert "first token ms" in header
    assert [line.split()[:2] for line in lines] == [
        ["off", "pruned"],
        ["off", "unpruned"],
        ["on", "pruned"],
        ["on", "unpruned"],
    ]
    assert all("dynamic cache" in line for line in lines[:2])  # a CPU records nothing
    assert len({len(line) for line in (header, *lines)}) == 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize(("kind", "most"), [("dense", 15), ("moe", 60)])
def test_loading_takes_hardly_more_than_the_model(
    kind: str, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bound of 15 % is for 1 GB (docs/results): small experts leave holes in a small heap."""
    main(["loading", "--random", kind, "--megabytes", "100", "--dtype", "bfloat16", "--json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["dtype"] == "bfloat16"
    assert row["checkpoint_MB"] == pytest.approx(100, rel=0.05)
    # a host holds fused experts, about three quarters of these weights, and maps the others
    held = row["model_MB"] / row["checkpoint_MB"]
    assert held == (0 if kind == "dense" else pytest.approx(0.72, abs=0.05))
    # if less, what it holds would not have been sampled
    assert row["peak_MB"] >= 0.98 * row["model_MB"]
    assert row["percent_of_checkpoint"] < most


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_random_checkpoints_lie_as_on_the_hub(kind: str, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, kind, 10_000_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    layer = "thinker.model.layers.0"
    names = {
        "dense": [f"{layer}.mlp.gate_proj.weight"],
        "moe": [f"{layer}.mlp.experts.3.{part}_proj.weight" for part in ("gate", "up", "down")],
    }
    shared = ["lm_head.weight", "visual.merger.mlp.0.weight", "audio_tower.layers.1.fc1.bias"]
    assert {*names[kind], *(f"thinker.{name}" for name in shared)} <= index.keys()
    assert len(set(index.values())) == 8
    loaded = load_model(str(tmp_path), device="cpu", dtype="bfloat16")
    check = compare_with_files(loaded.adapter, tmp_path)
    assert check.right
    assert check.equal == len(index)

    # values, names and missing tensors are seen
    with torch.no_grad():
        loaded.model.lm_head.weight[-1, -1] += 1
    assert compare_with_files(loaded.adapter, tmp_path).wrong == ("lm_head.weight",)
    file = tmp_path / index["thinker.lm_head.weight"]
    tensors = load_file(file)
    tensors["thinker.other.weight"] = tensors.pop("thinker.lm_head.weight")
    save_file(tensors, file)
    check = compare_with_files(loaded.adapter, tmp_path)
    assert (check.left, check.missing) == (("other.weight",), ("lm_head.weight",))
    assert not check.right


def test_the_report_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    main(["checkpoint", "bundled", "--device", "cpu", "--dtype", "bfloat16"])
    output = capsys.readouterr()
    assert "asking about jfk.wav, 10 % kept" in output.err
    stored = len(load_file(BUNDLED_PATH / "model.safetensors"))
    assert f"{stored} tensors equal to those in the files, value for value |" in output.out
    header, _, *lines = re.findall(r"^\|.*\|$", output.out.partition("## Times")[2], re.M)
    rows = [dict(zip(cells(header), cells(line), strict=True)) for line in lines]
    assert [row["kept"] for row in rows] == ["100 %", "10 %"] * 3
    loaded = load_model("bundled", device="cpu", dtype="bfloat16")
    clips = [read_clip(f"assets/{task.file}", task.read, sizing=loaded.sizing) for task in TASKS]
    for row, task, clip in zip(rows[::2], TASKS, clips, strict=True):
        ids = build_inputs(loaded, clip, task.question)["input_ids"]
        assert row["tokens offered"] == f"{ids.shape[1]:,}"
    assert all(float(row["tokens/s"]) > 0 or row["tokens/s"] == "-" for row in rows)
    planned = find_model("bundled")
    clip = "assets/cards_words_beeps_12s.mp4"
    run = plan_file(clip, ReadOptions(), planned, SeatsConfig.preset("10%"))
    assert rows[0]["predicted"] == format_bytes(run.memory.needs[0].full_peak_bytes)
    assert rows[1]["predicted"] == format_bytes(run.memory.needs[0].peak_bytes)
    assert output.out.count("> ") == 6
    answer = ask(loaded, clips[0], TASKS[0].question, config=None).text.strip()
    assert f"> {answer or '(an empty answer)'}\n" in output.out


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["checkpoint", "someone/nothing"], 4, "hf download someone/nothing"),
        (["checkpoint", "bundled", "--assets", "nowhere"], 2, "The clips are not in 'nowhere'"),
        (["loading", "someone/nothing"], 4, "hf download someone/nothing"),
        (["loading"], 2, "Name a checkpoint"),
    ],
)
def test_what_cannot_be_measured(
    arguments: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == code
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].startswith("Error: ")
    assert sentence in output.err


def test_unknown_measurement() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["nonsense"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("given", [["--size", "10x10"], ["--repeats", "0"]])
def test_measurements_of_nothing_are_refused(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["encoders", "bundled", *given])
    assert refused.value.code
    assert given[0] in capsys.readouterr().err
