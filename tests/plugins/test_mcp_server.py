"""`seats mcp`, with the official client: in this process, and over stdin and stdout."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from typer.testing import CliRunner

from seats_cli import SeatsConfig, ask, read_clip
from seats_cli.cli.main import app
from seats_cli.config import ModelOptions
from seats_cli.engine.session import load_model
from seats_cli.errors import MediaError

mcp = pytest.importorskip("mcp", reason="the package mcp is not installed")
from mcp.client.client import Client  # noqa: E402
from mcp.client.stdio import StdioServerParameters  # noqa: E402

from seats_cli.plugins.mcp_server import make_server, path_below  # noqa: E402

ASSETS = Path(__file__).parents[2] / "assets"
CARDS = "cards_words_beeps_12s.mp4"
FIRST = "What color is shown first?"


@pytest.fixture(scope="module")
def server() -> Any:
    return make_server(ASSETS, ModelOptions(device="cpu"))


def talk(server: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with Client(server) as client:
            return await work(client)

    return anyio.run(run)


def call(server: Any, tool: str, **arguments: Any) -> Any:
    return talk(server, lambda client: client.call_tool(tool, arguments))


def test_tools_say_what_they_take(server: Any) -> None:
    tools = {tool.name: tool for tool in talk(server, lambda client: client.list_tools()).tools}
    assert set(tools) == {"ask_clip", "plan_clip"}
    assert tools["ask_clip"].input_schema["required"] == ["path", "question"]
    assert set(tools["ask_clip"].output_schema["properties"]) >= {"answer", "evidence", "warnings"}
    assert "seconds" in tools["ask_clip"].description


def test_an_answer_is_that_of_ask(server: Any) -> None:
    result = call(server, "ask_clip", path=CARDS, question=FIRST, retain="10%")
    assert not result.is_error
    loaded = load_model("bundled", device="cpu")
    clip = read_clip(ASSETS / CARDS, sizing=loaded.sizing)
    wanted = ask(loaded, clip, FIRST, config=SeatsConfig.preset("10%"))
    found = result.structured_content
    assert found["answer"] == wanted.text == "red"
    assert [moment["start_s"] for moment in found["evidence"]] == [
        moment.start_s for moment in wanted.evidence
    ]
    assert found["tokens_offered"]["audio"] == wanted.trace.offered[1]
    turns = [{"question": FIRST, "answer": "red"}]
    then = call(server, "ask_clip", path=CARDS, question="And last?", history=turns)
    assert not then.is_error


def test_a_plan_runs_no_model(server: Any) -> None:
    elsewhere = call(server, "plan_clip", path=CARDS, model_name="/etc")
    assert elsewhere.is_error
    assert "`model_name` is one of" in elsewhere.content[0].text
    result = call(server, "plan_clip", path=CARDS, retain=0.1, model_name="qwen2.5-omni-7b")
    assert not result.is_error, result.content
    assert result.structured_content["tokens"]["offered"]["audio"] == 300
    assert result.structured_content["memory"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"path": "../README.md"}, "Only files below"),
        ({"path": "/etc/passwd"}, "Only files below"),
        ({"path": "http://127.0.0.1/a.mp4"}, "no file"),
        ({"path": "none.mp4"}, "There is no file none.mp4"),
        ({"path": "CREDITS.md"}, "not a video or sound file"),
        ({"path": CARDS, "question": " "}, "question"),
        ({"path": CARDS, "retain": "much"}, "`retain` is a share"),
        ({"path": CARDS, "method": "nope"}, "nope"),
    ],
)
def test_errors_are_sentences(server: Any, arguments: dict[str, Any], reason: str) -> None:
    result = call(server, "ask_clip", **{"question": FIRST, **arguments})
    assert result.is_error
    assert reason in result.content[0].text


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    root = tmp_path.resolve() / "root"
    (root / "below").mkdir(parents=True)
    (root / "out").symlink_to(ASSETS)
    (root / "in").symlink_to(root / "below")
    (tmp_path / "rootless").mkdir()
    assert path_below(root, "in/a.mp4") == str(root / "below" / "a.mp4")
    assert path_below(root, str(root / "a.mp4")) == str(root / "a.mp4")
    for path in (f"out/{CARDS}", "..", "../rootless/a.mp4", "a\0b", "below/../../x"):
        with pytest.raises(MediaError, match="Only files below"):
            path_below(root, path)


def test_reading_ends_where_the_client_has_cancelled(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, ended = threading.Event(), threading.Event()

    def endless(_path: Any, _read: Any, *, on_progress: Any, **_others: Any) -> None:
        try:
            while True:
                on_progress("picture", 0.0)
                reading.set()
                time.sleep(0.001)
        finally:
            ended.set()

    async def cancelled() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(server.call_tool, "ask_clip", {**question, "end": 3.0})
            await anyio.to_thread.run_sync(reading.wait, 60)
            group.cancel_scope.cancel()

    question = {"path": CARDS, "question": FIRST}
    monkeypatch.setattr("seats_cli.media.reader.read_clip", endless)
    anyio.run(cancelled)
    assert ended.wait(10)


def test_over_stdin_and_stdout() -> None:
    arguments = ["-m", "seats_cli", "mcp", "--root", str(ASSETS), "--device", "cpu"]
    environment = {"PYTHONPATH": str(ASSETS.parent)}
    parameters = StdioServerParameters(command=sys.executable, args=arguments, env=environment)
    result = call(parameters, "ask_clip", path=CARDS, question=FIRST, end=4, fps=1)
    assert result.structured_content["answer"] == "red"


def test_a_folder_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["mcp", "--root", "no/such/folder"])
    assert result.exit_code == 3
    assert "is not a folder" in result.stderr
