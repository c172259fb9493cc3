"""The file of results: whole lines, settings beside it, one run at a time."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from seats_cli.batch.group import Result, failed_result
from seats_cli.batch.manifest import BatchQuestion
from seats_cli.batch.results_file import ResultsFile
from seats_cli.errors import OutputError, SeatsError, UsageError

SETTINGS = {"config": {"retain": 0.25}, "read": {"fps": 2.0, "start": None}}
ONE, TWO, THREE = (BatchQuestion(name, 0, "a.mp4", "What?") for name in ("1", "2", "3"))


def result(question: BatchQuestion, error: str | None = None) -> Result:
    found = failed_result(question, {"kind": "media", "sentence": error or ""})
    return found if error else {**found, "error": None, "answer": "re\u2028d \U0001f534"}


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_results_are_there_at_once_and_read_back(path: Path) -> None:
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
        assert [line["id"] for line in lines(path)] == ["1"]
        file.append(result(TWO, "It is gone."))
    with ResultsFile(path, SETTINGS) as again:
        assert again.states.keys() == {("1", 0), ("2", 0)}
        assert again.states["2", 0].error == "It is gone."
        again.append(result(THREE))
    assert [line["id"] for line in lines(path)] == ["1", "2", "3"]


@pytest.mark.parametrize("left", [1, 5, 40])
def test_the_first_line_may_be_the_one_that_was_cut_short(path: Path, left: int) -> None:
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
    os.truncate(path, left)
    with ResultsFile(path, SETTINGS) as file:
        assert not file.states
        file.append(result(TWO))
    assert [line["id"] for line in lines(path)] == ["2"]


@pytest.mark.parametrize("cut", [1, 2, 60])
def test_a_line_that_was_cut_short_is_dropped(path: Path, cut: int) -> None:
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
        file.append(result(TWO))
    os.truncate(path, path.stat().st_size - cut)
    with ResultsFile(path, SETTINGS) as file:
        assert file.states.keys() == {("1", 0)}
        file.append(result(TWO))
    assert [line["id"] for line in lines(path)] == ["1", "2"]


def test_a_damaged_line_in_the_middle_is_named(path: Path) -> None:
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
        file.append(result(TWO))
    content = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([content[0], b"{", *content[1:]]))
    with pytest.raises(UsageError, match="line 2, is damaged"):
        ResultsFile(path, SETTINGS)


def test_other_settings_are_refused_and_named(path: Path) -> None:
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
    other = {**SETTINGS, "read": {"fps": 4.0, "start": None}}
    with pytest.raises(UsageError, match=r"with fps 2\.0, and this run has 4\.0: `restart`"):
        ResultsFile(path, other)
    assert len(lines(path)) == 1
    with ResultsFile(path, other, restart=True) as file:
        file.append(result(TWO))
    with ResultsFile(path, other) as file:
        assert file.states.keys() == {("2", 0)}


def test_another_model_and_a_changed_item_are_refused(path: Path) -> None:
    facts = {"id": "bundled", "dtype": "float32"}
    with ResultsFile(path, SETTINGS) as file:
        file.check_model(facts)
        file.append(result(ONE))
    with ResultsFile(path, SETTINGS) as file:
        file.check_model(facts)
        with pytest.raises(UsageError, match="dtype 'float32', and this one has 'bfloat16'"):
            file.check_model({**facts, "dtype": "bfloat16"})
        file.check([ONE, TWO])
        with pytest.raises(UsageError, match="another version of item '1'"):
            file.check([BatchQuestion("1", 0, "a.mp4", "Who?")])


def test_failures_are_dropped_where_they_are_to_be_retried(path: Path) -> None:
    with ResultsFile(path, SETTINGS) as file:
        for question, error in ((ONE, None), (TWO, "Gone."), (THREE, None)):
            file.append(result(question, error))
    with ResultsFile(path, SETTINGS) as file:
        assert len(file.states) == 3
    with ResultsFile(path, SETTINGS, retry_errors=True) as file:
        file.check([ONE, TWO, THREE])
        assert file.states.keys() == {("1", 0), ("3", 0)}
        file.append(result(TWO))
    assert [line["id"] for line in lines(path)] == ["1", "3", "2"]
    assert sorted(found.name for found in path.parent.iterdir()) == [
        "results.jsonl",
        "results.jsonl.run.json",
    ]


def test_failures_stay_until_the_run_that_retries_them_is_accepted(path: Path) -> None:
    facts = {"dtype": "float32"}
    with ResultsFile(path, SETTINGS) as file:
        file.check_model(facts)
        for question, error in ((ONE, None), (TWO, "Gone."), (THREE, "Gone.")):
            file.append(result(question, error))
    before = path.read_bytes()
    changed = BatchQuestion("1", 0, "a.mp4", "Who?")
    refused = pytest.raises(UsageError, match="another version")
    with ResultsFile(path, SETTINGS, retry_errors=True) as file, refused:
        file.check([changed])
    with ResultsFile(path, SETTINGS, retry_errors=True) as file:
        file.check([ONE, TWO])
        with pytest.raises(UsageError, match="dtype"):
            file.check_model({"dtype": "bfloat16"})
    with ResultsFile(path, SETTINGS, retry_errors=True) as file:  # Ctrl-C while the model loads
        file.check([ONE, TWO])
    assert path.read_bytes() == before

    # What this manifest does not ask stays; what has been mended may read differently.
    with ResultsFile(path, SETTINGS, retry_errors=True) as file:
        file.check([ONE, BatchQuestion("2", 0, "b.mp4", "What?")])
        assert file.states.keys() == {("1", 0), ("3", 0)}
        file.check_model(facts)
        assert [line["id"] for line in lines(path)] == ["1", "3"]
        file.append(result(TWO))
    assert [line["id"] for line in lines(path)] == ["1", "3", "2"]


def test_results_behind_a_link_stay_there(path: Path) -> None:
    target = path.parent / "far" / "kept.jsonl"
    target.parent.mkdir()
    target.touch(0o600)
    path.symlink_to(target)
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE, "Gone."))
        file.append(result(TWO))
    with ResultsFile(path, SETTINGS, retry_errors=True) as file:
        file.check([ONE, TWO])
        file.append(result(ONE))
    assert path.is_symlink()
    assert [line["id"] for line in lines(target)] == ["2", "1"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in target.parent.iterdir()] == ["kept.jsonl"]


def test_a_disk_too_full_to_drop_failures_leaves_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE, "Gone."))
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with ResultsFile(path, SETTINGS, retry_errors=True) as file:
        file.check([ONE])
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            with pytest.raises(OutputError, match=r"No space left on device\. It is as it was"):
                file.append(result(ONE))
    assert path.read_bytes() == before
    assert len([*path.parent.iterdir()]) == 2


def test_two_runs_do_not_share_a_file(path: Path) -> None:
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
        for options in ({}, {"restart": True}, {"retry_errors": True}):
            with pytest.raises(UsageError, match="Another run is writing to"):
                ResultsFile(path, SETTINGS, **options)
        file.append(result(TWO))
    with ResultsFile(path, SETTINGS) as file:
        assert len(file.states) == 2


def test_a_run_that_is_refused_leaves_the_first_ones_settings(path: Path) -> None:
    with ResultsFile(path, SETTINGS) as first:  # nothing stored: its model is being loaded
        beside = path.with_name("results.jsonl.run.json")
        for _ in range(2):
            with pytest.raises(UsageError, match="Another run is writing to"):
                ResultsFile(path, SETTINGS)
            assert beside.exists()
        first.append(result(ONE))
    with ResultsFile(path, SETTINGS) as file:
        assert file.states.keys() == {("1", 0)}


def test_what_is_not_results_is_left_alone(path: Path) -> None:
    for content in ("precious\n", '{"id": "1", "media": "a.mp4"}\n'):
        path.write_text(content)
        for restart in (False, True):
            with pytest.raises(UsageError, match="does not hold results"):
                ResultsFile(path, SETTINGS, restart=restart)
        assert path.read_text() == content
    with pytest.raises(UsageError, match="the folder does not exist"):
        ResultsFile(path.parent / "gone" / "x", SETTINGS)
    with pytest.raises(UsageError, match="is not a file"):
        ResultsFile(path.parent, SETTINGS)
    assert [found.name for found in path.parent.iterdir()] == ["results.jsonl"]


def test_nothing_is_made_or_lost_before_a_run_has_begun(path: Path) -> None:
    with ResultsFile(path, SETTINGS):
        pass
    assert not any(path.parent.iterdir())
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
    with ResultsFile(path, {"other": 1}, restart=True) as file:
        assert not file.states
    with ResultsFile(path, SETTINGS) as file:
        assert file.states.keys() == {("1", 0)}


@pytest.mark.parametrize("side", [None, "", "{", "[]", '{"run": 3}'])
def test_results_without_settings_can_only_be_restarted(path: Path, side: str | None) -> None:
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
    beside = path.with_name("results.jsonl.run.json")
    beside.unlink()
    if side is not None:
        beside.write_text(side)
    with pytest.raises(UsageError, match="`restart` begins anew"):
        ResultsFile(path, SETTINGS)
    with ResultsFile(path, SETTINGS, restart=True) as file:
        assert not file.states


def test_a_full_disk_leaves_whole_lines(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with ResultsFile(path, SETTINGS) as file:
        file.append(result(ONE))
        calls: list[int] = []

        def full(descriptor: int, data: Any) -> int:
            calls.append(1)
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, bytes(data)[:20])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OutputError, match=r"No space left on device\. It holds 1 results"):
            file.append(result(TWO))
        monkeypatch.setattr(os, "write", write)
        assert file.states.keys() == {("1", 0)}
        file.append(result(TWO))
    assert [line["id"] for line in lines(path)] == ["1", "2"]


def test_a_file_system_without_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with ResultsFile(path, SETTINGS) as file:
        assert file.unlocked
        file.append(result(ONE))


def test_a_folder_that_may_not_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SeatsError, match="cannot be written: Permission denied"):
        ResultsFile(path, SETTINGS)
