"""`python -m seats_cli.bench`: every measurement runs on a CPU in seconds and prints a table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seats_cli import bench
from seats_cli.models.optimize import SEGMENTS
from tests.models.test_attention import registered

SMALL = ["--seconds", "4", "--size", "140x84", "--repeats", "1"]
COMMANDS = {
    "encoders": ["bundled", *SMALL],
    "modules": ["bundled", *SMALL],
    "selection": ["cpu-0.5b", *SMALL],
    "positions": SMALL,
    "lengths": ["bundled", "--seconds", "1"],
}


def rows_of(capsys: pytest.CaptureFixture[str], name: str) -> list[dict[str, Any]]:
    bench.main([name, *COMMANDS[name], "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["threads"] >= 1
    return document["rows"]


def test_every_measurement_is_tested() -> None:
    assert list(COMMANDS) == [measure.__name__ for measure in bench.MEASUREMENTS]


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


def test_selection(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "selection")
    assert [row["stage I"] for row in rows if row["way"] == "plain"] == ["importance", "choice"]
    assert {(row["windows"], row["tokens"]) for row in rows} == {(2, 2 * 5 * 3)}


def test_positions_are_equal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "positions")
    assert {row["family"] for row in rows} == {"Qwen2.5-Omni", "Qwen3-Omni"}
    assert [row["way"] for row in rows] == ["stock", "ours"] * 2
    assert all(row["difference"] == 0 for row in rows)


def test_lengths_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["lengths", *COMMANDS["lengths"]])
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


def test_unknown_measurement() -> None:
    with pytest.raises(SystemExit) as stopped:
        bench.main(["nonsense"])
    assert stopped.value.code == 2
