"""A run's folder: nothing lost, nothing doubled, nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seats_cli.errors import UsageError
from seats_cli.evaluate.questions import Item, QuestionSet
from seats_cli.evaluate.run_folder import ItemRecord, RunFolder

DESCRIPTION: dict[str, Any] = {
    "questions": "mine",
    "seed": 0,
    "settings": {"full": None, "seats 10%": {"retain": 0.1}},
    "machine": {"device": "cpu"},
}


def record(item: str, label: str = "full", **changes: Any) -> ItemRecord:
    return ItemRecord(item, "clip", label, "full", "red", **{"given": "red", **changes})


def keys(folder: RunFolder) -> list[tuple[str, str]]:
    return [found.key for found in folder.records]


def test_goes_on_where_it_ended(tmp_path: Path) -> None:
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        assert folder.records == []
        folder.append(record("a"))
        folder.append(record("a", "seats 10%", correct=True))
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        assert keys(folder) == [("a", "full"), ("a", "seats 10%")]
        assert folder.records[1].correct
        folder.append(record("b"))
        merged = folder.merge()
    assert [found.item_id for found in merged] == ["a", "a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "run.json"]
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        assert len(folder.records) == 3


def test_a_line_cut_short_is_asked_again(tmp_path: Path) -> None:
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        folder.append(record("a"))
        folder.append(record("b"))
    path = tmp_path / "answers-0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        assert keys(folder) == [("a", "full")]
        folder.append(record("b"))
        assert [found.item_id for found in folder.merge()] == ["a", "b"]


def test_each_process_has_a_file_and_all_are_merged(tmp_path: Path) -> None:
    with RunFolder(tmp_path, DESCRIPTION) as first, RunFolder(tmp_path, DESCRIPTION, rank=1) as two:
        two.append(record("b"))
        first.append(record("a"))
        two.append(record("c"))
        assert {found.item_id for found in first.merge()} == {"a", "b", "c"}


def test_errors_can_be_forgotten(tmp_path: Path) -> None:
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        folder.append(record("a", error="The clip is damaged."))
        folder.append(record("b"))
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        folder.forget_errors()
        assert keys(folder) == [("b", "full")]
        folder.append(record("a"))
        assert all(found.error is None for found in folder.merge())


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        # As folders were written when every configuration had the options of all methods.
        ({"method": "seats", "fastv_layer": 2, "contextual_ratio": 0.0}, {"method": "seats"}, True),
        ({"method": "fastv", "fastv_layer": 2}, {"method": "fastv", "fastv_layer": 3}, False),
        ({"method": "seats", "kv": "survivors"}, {"method": "seats", "kv": "layerwise"}, False),
        ({"method": "unheard", "own": 1}, {"method": "unheard", "own": 2}, False),
        ({"method": []}, {"method": "seats"}, False),
    ],
)
def test_only_options_of_the_method_that_ran_tell_runs_apart(
    tmp_path: Path, before: dict[str, Any], now: dict[str, Any], same: bool
) -> None:
    def described(config: dict[str, Any]) -> dict[str, Any]:
        return {**DESCRIPTION, "settings": {"mine": {"config": config, "blind": None}}}

    with RunFolder(tmp_path, described(before)) as folder:
        folder.append(record("a", "mine"))
    if same:
        with RunFolder(tmp_path, described(now)) as folder:
            assert keys(folder) == [("a", "mine")]
    else:
        with pytest.raises(UsageError, match="another configuration called 'mine'"):
            RunFolder(tmp_path, described(now))


@pytest.mark.parametrize("change", [{"seed": 1}, {"questions": "yours"}])
def test_another_run_is_not_mixed_in(tmp_path: Path, change: dict[str, Any]) -> None:
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        folder.append(record("a"))
    with pytest.raises(UsageError, match="another `out` folder"):
        RunFolder(tmp_path, {**DESCRIPTION, **change})


def test_the_same_label_must_mean_the_same(tmp_path: Path) -> None:
    RunFolder(tmp_path, DESCRIPTION)
    other = {**DESCRIPTION, "settings": {"seats 10%": {"retain": 0.1, "kv": "survivors"}}}
    with pytest.raises(UsageError, match="'seats 10%'"):
        RunFolder(tmp_path, other)


def test_more_settings_and_another_machine_are_welcome(tmp_path: Path) -> None:
    RunFolder(tmp_path, DESCRIPTION)
    more = {**DESCRIPTION, "settings": {"random 10%": {"method": "random"}}, "machine": {}}
    RunFolder(tmp_path, more)
    stored = json.loads((tmp_path / "run.json").read_text())
    assert set(stored["settings"]) == {"full", "seats 10%", "random 10%"}
    assert stored["machine"] == {"device": "cpu"}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        RunFolder(tmp_path, DESCRIPTION)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(UsageError, match="cannot be a folder"):
        RunFolder(path, DESCRIPTION)


def test_damage_in_the_middle_is_said(tmp_path: Path) -> None:
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        folder.append(record("a"))
    path = tmp_path / "answers-0.jsonl"
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(UsageError, match=r"line 1, is damaged"):
        RunFolder(tmp_path, DESCRIPTION)


def test_changed_questions_are_noticed(tmp_path: Path) -> None:
    with RunFolder(tmp_path, DESCRIPTION) as folder:
        folder.append(record("a"))
    questions = QuestionSet("mine", (Item("a", "clip", "Which color?", "blue"),))
    with RunFolder(tmp_path, DESCRIPTION) as folder, pytest.raises(UsageError, match="item a"):
        folder.check(questions)
