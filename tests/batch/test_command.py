"""`seats batch` as a user runs it: killed, interrupted, resumed, and with clips that are broken."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import seats_cli.cli.ask
import seats_cli.cli.batch
from seats_cli import load_model
from seats_cli.batch import group, local
from seats_cli.batch.group import BatchSettings, ClipRead
from seats_cli.batch.manifest import BatchQuestion, ClipGroup
from seats_cli.batch.results_file import ResultsFile
from seats_cli.cli.main import app
from seats_cli.cost.estimate import find_model

ROOT = Path(__file__).parents[2]
CARDS = str(ROOT / "assets" / "cards_words_beeps_12s.mp4")
FIRST, LAST = "What color is shown first?", "What color is shown last?"
READ = ("--fps", "1", "--device", "cpu", "--max-new-tokens", "6")
ITEMS: list[dict[str, Any]] = [
    {"id": "whole", "media": CARDS, "questions": [FIRST, LAST], "answer": ["red", None]},
    {"id": "start", "media": CARDS, "question": FIRST, "end": 4},
    {"id": "end", "media": CARDS, "question": LAST, "start": "0:08", "choices": ["blue", "green"]},
]
KEYS = [("whole", 0), ("whole", 1), ("start", 0), ("end", 0)]

Run = Callable[..., Result]


@cache
def loaded() -> Any:
    return load_model(device="cpu")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Call `seats` in an empty folder; the model is loaded once for all tests."""
    for name in [name for name in os.environ if name.startswith("SEATS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    for command in (seats_cli.cli.ask, seats_cli.cli.batch):
        monkeypatch.setattr(command, "open_model", lambda *_, **__: loaded())
    write(*ITEMS)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def write(*items: dict[str, Any]) -> None:
    Path("items.jsonl").write_text("".join(f"{json.dumps(item)}\n" for item in items))


def lines(path: str = "results.jsonl") -> list[Any]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def keys(path: str = "results.jsonl") -> list[tuple[str, int]]:
    return [(line["id"], line["question_index"]) for line in lines(path)]


def batch(run: Run, *more: str) -> Result:
    return run("batch", "items.jsonl", "--out", "results.jsonl", *READ, *more)


KILLED = """
import os, signal, sys
from seats_cli.cli.main import main
write, calls = os.write, []
def torn(descriptor, data):
    if bytes(data[:16]) != b'{"schema_version':
        return write(descriptor, data)
    calls.append(1)
    if len(calls) < 3:
        return write(descriptor, data)
    write(descriptor, data[:200])
    os.kill(os.getpid(), signal.SIGKILL)
os.write = torn
sys.argv[0] = "seats"
main()
"""


def test_a_run_that_was_killed_is_resumed_and_answers_are_those_of_ask(run: Run) -> None:
    arguments = ("batch", "items.jsonl", "--out", "results.jsonl", *READ)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    content = Path("results.jsonl").read_bytes()
    assert content.count(b"\n") == 2
    assert not content.endswith(b"\n")
    resumed = batch(run, "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert keys() == KEYS
    assert Path("results.jsonl").read_bytes().startswith(content[: content.rfind(b"\n") + 1])
    summary = json.loads(resumed.stdout)
    assert (summary["answered"], summary["new_questions"]) == (4, 2)
    assert (summary["scored"], summary["correct"], summary["accuracy"]) == (1, 1, 1.0)
    how = ((FIRST,), (LAST,), (FIRST, "--end", "4"), (LAST, "--start", "8"))
    for line, (question, *more) in zip(lines(), how, strict=True):
        if line["choices"]:
            more += ["--choices", "blue,green"]
        alone = json.loads(run("ask", CARDS, question, *READ, *more, "--json").stdout)
        for name in alone.keys() - {"timing", "cost", "versions"}:
            assert line[name] == alone[name], name


def test_a_finished_run_loads_no_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert batch(run).exit_code == 0
    monkeypatch.setattr(seats_cli.cli.batch, "open_model", lambda *_: pytest.fail("loaded"))
    again = batch(run)
    assert again.exit_code == 0
    assert "4 of 4 answered, 4 of them in an earlier run" in again.stdout
    assert keys() == KEYS
    # What was added is asked, what has changed is refused.
    monkeypatch.setattr(seats_cli.cli.batch, "open_model", lambda *_: loaded())
    write(*ITEMS, {"id": "more", "media": CARDS, "question": FIRST, "end": 4})
    assert batch(run).exit_code == 0
    assert keys() == [*KEYS, ("more", 0)]
    write({**ITEMS[1], "question": LAST})
    refused = batch(run)
    assert refused.exit_code == 2
    assert "another version of item 'start': --restart begins anew" in refused.stderr


def test_other_settings_need_a_new_beginning(run: Run) -> None:
    write(ITEMS[1])
    assert batch(run).exit_code == 0
    for option, words in (
        (("--retain", "10%"), "with retain 0.25, and this run has 0.1"),
        (("--full",), "config"),
        (("--system", "Be brief."), 'with system none, and this run has "Be brief."'),
        (("--model", "other"), 'with model none, and this run has "other"'),
    ):
        refused = batch(run, *option)
        assert refused.exit_code == 2
        assert len(refused.stderr.splitlines()) == 1
        assert words in refused.stderr or words == "config"
        assert "--restart" in refused.stderr
    assert batch(run, "--retain", "10%", "--restart").exit_code == 0
    assert [line["config"]["retain"] for line in lines()] == [0.1]


def test_a_broken_clip_among_good_ones(run: Run) -> None:
    Path("broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(5000))
    write(ITEMS[1], {"id": "bad", "media": "broken.mp4", "questions": [FIRST, LAST]}, ITEMS[2])
    failed = batch(run)
    assert failed.exit_code == 6
    assert "2 of 4 questions failed, the first of item bad: broken.mp4" in failed.stderr
    assert "--retry-errors" in failed.stderr
    assert "2 of 4 answered, 2 failed" in failed.stdout
    assert keys() == [("start", 0), ("bad", 0), ("bad", 1), ("end", 0)]
    assert [line["error"] and line["error"]["kind"] for line in lines()] == [
        *(None, "media", "media", None)
    ]
    assert batch(run).exit_code == 6  # it stays failed until it is to be asked again
    assert len(lines()) == 4
    Path("broken.mp4").write_bytes(Path(CARDS).read_bytes())
    mended = batch(run, "--retry-errors")
    assert mended.exit_code == 0, mended.stderr
    assert sorted(keys()) == [("bad", 0), ("bad", 1), ("end", 0), ("start", 0)]
    assert all(line["error"] is None for line in lines())


@pytest.mark.parametrize(("times", "stored"), [(1, 2), (2, 1)])
def test_ctrl_c_waits_for_the_answer_and_a_second_one_does_not(
    run: Run, monkeypatch: pytest.MonkeyPatch, times: int, stored: int
) -> None:
    real, calls = group.ask, []

    def interrupted(*arguments: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
        return real(*arguments, **how)

    monkeypatch.setattr(group, "ask", interrupted)
    write(*({**ITEMS[1], "id": str(end), "end": end} for end in (2, 3, 4, 5)))
    result = batch(run)
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "Interrupted."
    assert len(lines()) == stored
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = batch(run)
    assert resumed.exit_code == 0
    assert [name for name, _ in keys()] == ["2", "3", "4", "5"]


def test_two_runs_do_not_share_a_file(run: Run) -> None:
    with ResultsFile(Path("results.jsonl"), {}) as file:
        file.check_model({})
        refused = batch(run)
    assert refused.exit_code == 2
    assert "Another run is writing to results.jsonl" in refused.stderr


def test_a_full_disk_ends_the_run_in_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.write, []

    def full(descriptor: int, data: Any) -> int:
        if bytes(data[:16]) == b'{"schema_version':
            calls.append(1)
            if len(calls) == 2:
                real(descriptor, data[:100])
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    result = batch(run)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: results.jsonl takes no more: No space left on device. It holds 1 results, and the "
        "same command resumes."
    )
    assert keys() == KEYS[:1]
    monkeypatch.setattr(os, "write", real)
    assert batch(run).exit_code == 0
    assert keys() == KEYS


def test_files_and_lines_on_stdout(run: Run) -> None:
    Path("clips").mkdir()
    Path("clips/a.mp4").write_bytes(Path(CARDS).read_bytes())
    Path("clips/notes.txt").touch()
    found = run("batch", "clips", "-q", FIRST, "-q", LAST, "--out", "-", "--end", "4", *READ)
    assert found.exit_code == 0, found.stderr
    printed = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(line["id"], line["question_index"]) for line in printed] == [
        ("clips/a.mp4", 0),
        ("clips/a.mp4", 1),
    ]
    assert "clips/notes.txt left out" in found.stderr
    assert "2 of 2 answered" in found.stderr
    assert {path.name for path in Path().iterdir()} == {"clips", "items.jsonl"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((CARDS,), "There is no question"),
        (("items.jsonl", CARDS), "either one manifest, or files"),
        (("-", "-q", "What?"), "'-' is none of SOURCES"),
        ((CARDS, "-q", " "), "The question is empty"),
        ((CARDS, "-q", "What?", "--no-question"), "--no-question asks nothing"),
        ((CARDS, "-q", "What?", "--out", "-", "--json"), "leave --json"),
        ((CARDS, "-q", "What?", "--out", "items.jsonl"), "does not hold results"),
        ((CARDS, "-q", "What?", "--out", "items.jsonl", "--restart"), "does not hold results"),
    ],
)
def test_what_is_refused(run: Run, arguments: tuple[str, ...], words: str) -> None:
    before = Path("items.jsonl").read_bytes()
    result = run("batch", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert Path("items.jsonl").read_bytes() == before


def test_an_impossible_budget_loses_no_results(run: Run) -> None:
    write(ITEMS[1])
    assert batch(run).exit_code == 0
    Path("late.toml").write_text("drop_layers = [8, 40]\nlate_layer = 50\n")
    result = batch(run, "--restart", "--config", "late.toml")
    assert result.exit_code == 2
    assert f"{find_model('bundled').architecture.num_layers} layers" in result.stderr
    assert keys() == [("start", 0)]


class Reading:
    """A reader that notes what it has begun, and a model that waits for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
        self.begun: list[str] = []
        self.seen: list[list[str]] = []
        self._wanted, self._changed = wanted, threading.Condition()
        monkeypatch.setattr(local, "group_need", lambda *_: None)
        monkeypatch.setattr(local, "read_group", self.read)
        monkeypatch.setattr(local, "answer_group", self.answer)

    def read(self, one: ClipGroup, *_: Any) -> ClipRead:
        with self._changed:
            self.begun.append(one.path)
            self._changed.notify_all()
        return ClipRead(None)

    def answer(self, _loaded: Any, one: ClipGroup, *_: Any) -> Iterator[dict[str, Any]]:
        with self._changed:
            self._changed.wait_for(lambda: len(self.begun) >= self._wanted, 10)
        time.sleep(0.05)  # for what should not begin
        self.seen.append([*self.begun])
        yield {"id": one.path}


GROUPS = [
    (ClipGroup(name, (question,)), (question,))
    for name in ("a", "b", "c", "d")
    for question in [BatchQuestion(name, 0, name, "What?")]
]
SETTINGS = BatchSettings(config=None)


@pytest.mark.parametrize(("ahead", "begun"), [(0, "a"), (1, "ab"), (2, "abc")])
def test_so_many_clips_are_read_ahead_and_no_more(
    monkeypatch: pytest.MonkeyPatch, ahead: int, begun: str
) -> None:
    reading = Reading(monkeypatch, 1 + ahead)
    found: list[Any] = []
    local.run_local(loaded(), GROUPS, SETTINGS, found.append, read_ahead=ahead)
    assert "".join(reading.seen[0]) == begun
    assert [result["id"] for result in found] == ["a", "b", "c", "d"]
    assert reading.begun == ["a", "b", "c", "d"]


def test_a_run_that_ends_stops_what_is_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def endless(*arguments: Any) -> ClipRead:
        began.set()
        while True:
            arguments[-1]("video", 0.1)
            time.sleep(0.01)

    def check() -> None:
        if began.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(local, "group_need", lambda *_: None)
    monkeypatch.setattr(local, "read_group", endless)
    with pytest.raises(KeyboardInterrupt):
        local.run_local(loaded(), GROUPS, SETTINGS, lambda _: None, check=check)
    assert not readers()


def readers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "read-ahead"]


def test_a_run_that_ends_waits_for_no_silent_url(monkeypatch: pytest.MonkeyPatch) -> None:
    began, answered = threading.Event(), threading.Event()

    def silent(*_: Any) -> ClipRead:
        began.set()
        answered.wait(60)
        return ClipRead(None)

    def check() -> None:
        if began.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(local, "group_need", lambda *_: None)
    monkeypatch.setattr(local, "read_group", silent)
    monkeypatch.setattr(local, "_LEAVE_S", 0.1)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            local.run_local(loaded(), GROUPS, SETTINGS, lambda _: None, check=check)
        assert time.monotonic() - start < 30
        (reader,) = readers()
        assert reader.daemon  # so that the process does not wait for it either
    finally:
        answered.set()
    reader.join(10)
    assert not readers()


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_clip_is_let_go_before_the_next_one_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    answered: list[weakref.ref[ClipRead]] = []
    gone: list[bool] = []

    def read(*_: Any) -> ClipRead:
        return ClipRead(None)

    def answer(_loaded: Any, one: ClipGroup, _: Any, clip: ClipRead, *__: Any) -> Iterator[Any]:
        answered.append(weakref.ref(clip))
        yield {"id": one.path}

    def check() -> None:  # also once at each wait
        if len(answered) == len(stored):
            gone.append(all(clip() is None for clip in answered))

    stored: list[Any] = []
    monkeypatch.setattr(local, "group_need", lambda *_: None)
    monkeypatch.setattr(local, "read_group", read)
    monkeypatch.setattr(local, "answer_group", answer)
    run = (loaded(), GROUPS, SETTINGS, stored.append)
    local.run_local(*run, read_ahead=ahead, check=check)
    # Looked at after each result, where the clip is still in use, and before each wait for one.
    assert [same for same, _ in groupby(gone)] == [True, False] * len(GROUPS)
