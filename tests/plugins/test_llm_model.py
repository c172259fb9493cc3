"""`llm -m seats`, with the real program."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from seats_cli import SeatsConfig, Turn, ask, read_clip

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

llm = pytest.importorskip("llm", reason="the package llm is not installed")
from click.testing import CliRunner  # noqa: E402
from llm.cli import cli  # noqa: E402
from llm.plugins import load_plugins, pm  # noqa: E402

from seats_cli.plugins import llm_model  # noqa: E402

ROOT = Path(__file__).parents[2]
CARDS = str(ROOT / "assets" / "cards_words_beeps_12s.mp4")
JFK = str(ROOT / "assets" / "jfk.wav")
FIRST, LAST = "What color is shown first?", "What color is shown last?"
SHORT = {"end": 4, "fps": 1, "device": "cpu"}


@pytest.fixture(autouse=True)
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin as its entry point gives it, and a log of its own."""
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path / "llm"))
    monkeypatch.delenv("SEATS_MODEL", raising=False)
    load_plugins()
    if not pm.is_registered(llm_model):
        pm.register(llm_model, "seats")


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    llm_model.SeatsModel._clips.clear()
    yield llm_model.SeatsModel()
    llm_model.SeatsModel._clips.clear()


def test_the_entry_points_name_what_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (value,) = project["entry-points"]["llm"].values()
    assert EntryPoint("seats", value, "llm").load() is llm_model


def test_the_command_answers() -> None:
    arguments = ["-m", "seats", FIRST, "-a", CARDS, "-o", "retain", "25%", "-o", "device", "cpu"]
    result = CliRunner().invoke(cli, [*arguments, "-u"])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == "red"
    assert "average_retention" in result.stderr  # of -u


def test_errors_are_sentences() -> None:
    for arguments, reason in (
        ([FIRST], "Attach a video"),
        ([FIRST, "-a", CARDS, "-a", JFK], "One clip at a time"),
        ([FIRST, "-a", CARDS, "-o", "retain", "200%"], "`retain` is a share"),
        ([FIRST, "-a", CARDS, "-o", "method", "nope"], "nope"),
        ([FIRST, "-a", CARDS, "-o", "model", "no/such-model"], "no/such-model"),
        ([FIRST, "--at", str(ROOT / "README.md"), "video/mp4"], "not a video or sound file"),
    ):
        result = CliRunner().invoke(cli, ["-m", "seats", "-o", "device", "cpu", *arguments])
        assert result.exit_code == 1
        assert reason in result.output
        assert "Traceback" not in result.output


def test_a_conversation_is_a_session(model: Any) -> None:
    talk = model.conversation()
    first = talk.prompt(FIRST, attachments=[llm.Attachment(path=CARDS)], device="cpu")
    assert "".join(first) == "red"
    then = talk.prompt(LAST, device="cpu")
    said = then.text()
    assert first.response_json["timing"]["read_s"] > 0
    assert then.response_json["timing"]["read_s"] == 0  # the clip is open
    (clips,) = model._clips.values()
    clip = read_clip(CARDS, sizing=clips.loaded.sizing)
    turns = [Turn(FIRST, "red")]
    config = SeatsConfig.preset("25%")
    assert said == ask(clips.loaded, clip, LAST, config=config, history=turns).text
    assert then.input_tokens > first.input_tokens
    assert first.response_json["evidence"]
    assert first.input_tokens == first.response_json["tokens"]["offered"]["total"]


def test_sound_alone_and_a_system_prompt(model: Any) -> None:
    response = model.prompt(
        "What is heard?", attachments=[llm.Attachment(path=JFK)], system="Be brief.", **SHORT
    )
    assert response.text().strip()
    assert response.response_json["tokens"]["offered"]["video"] == 0


def test_streamed_and_whole_answers_are_the_same(model: Any) -> None:
    texts = {
        stream: model.prompt(
            FIRST, attachments=[llm.Attachment(path=CARDS)], stream=stream, device="cpu"
        ).text()
        for stream in (True, False)
    }
    assert texts[True] == texts[False] == "red"


def test_an_answer_that_nobody_reads_ends(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(asked: Any, prompt: Any, say: Any, think: Any, check: Any) -> None:
        say("a")
        while True:
            check()
            time.sleep(0.001)

    monkeypatch.setattr(model, "_ask", endless)
    prompt = llm.Prompt(FIRST, model, attachments=[llm.Attachment(path=CARDS)])
    pieces: Iterator[Any] = model.execute(prompt, True, None, None)
    assert next(pieces) == "a"
    pieces.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "seats"]


def test_reading_ends_where_nobody_waits(model: Any) -> None:
    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 3:  # the first is before the clip is opened
            raise llm_model._LeftError

    attachment = llm.Attachment(path=CARDS)
    prompt = llm.Prompt(FIRST, model, options=model.Options(end=5.0, device="cpu"))
    asked = llm_model.AskedClip(attachment, FIRST)
    with pytest.raises(llm_model._LeftError):
        model._ask(asked, prompt, lambda _: None, lambda _: None, check)
    (clips,) = model._clips.values()
    assert all(key.read.end != 5.0 for key in clips._open._clips)  # it was never read
