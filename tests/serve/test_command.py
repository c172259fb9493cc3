"""`seats serve` as a process, and what it refuses before it loads anything."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from seats_cli.cli import serve
from seats_cli.cli.main import app
from tests.serve.conftest import ASSETS, CARDS, FIRST, openai


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """Two servers, which load their models at the same time."""
    folder = tmp_path_factory.mktemp("temporary")
    variables = {name: text for name, text in os.environ.items() if not name.startswith("SEATS_")}
    variables |= {"SEATS_API_KEY": "secret", "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "seats_cli", "serve", "--port", "0", "--device", "cpu"]
    started = [
        subprocess.Popen(
            [*command, "--media-root", str(ASSETS), "--retain", "10%"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=variables,
        )
        for _ in range(2)
    ]
    yield folder, iter(started)
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_it_serves_until_it_is_told_to_end(processes, number, code):
    folder, left = processes
    process, said = next(left), ""
    while not (found := re.search(r"Serving bundled at (http://127.0.0.1:\d+/v1)", said)):
        line = process.stderr.readline()
        assert line, said
        said += line
    assert httpx.get(f"{found[1]}/models").status_code == 401
    client = openai.OpenAI(base_url=found[1], api_key="secret", max_retries=0)
    part = {"type": "video_url", "video_url": {"url": CARDS.as_uri()}}
    got = client.chat.completions.create(
        model="bundled",
        messages=[{"role": "user", "content": [part, {"type": "text", "text": FIRST}]}],
    )
    assert got.choices[0].message.content == "red"
    assert got.model_extra["seats"]["config"]["retain"] == pytest.approx(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert not list(folder.glob("seats-*"))


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command, which must not get as far as loading a model."""
    for name in [name for name in os.environ if name.startswith("SEATS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve, "open_model", lambda *_: pytest.fail("it loads a model"))
    return lambda *arguments: CliRunner().invoke(app, ["serve", *arguments])


def test_addresses_that_cannot_be_had(run, monkeypatch):
    result = run("--host", "0.0.0.0")
    assert result.exit_code == 2
    assert "SEATS_API_KEY" in result.stderr
    monkeypatch.setenv("SEATS_API_KEY", "  ")
    assert "blank" in run().stderr
    monkeypatch.delenv("SEATS_API_KEY")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("--port", str(taken.getsockname()[1]))
    assert result.exit_code == 2
    assert "--port" in result.stderr


def test_other_refusals(run, monkeypatch):
    assert "is not a folder" in run("--media-root", "gone").stderr
    assert "--timeout" in run("--timeout", "0").stderr
    assert run("--full", "--retain", "10%").exit_code == 2
    find = serve.importlib.util.find_spec
    monkeypatch.setattr(
        serve.importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    result = run()
    assert result.exit_code == 2
    assert "pip install 'seats-cli[serve]'" in result.stderr


def test_the_image_has_no_rights_and_what_it_copies_is_there():
    text = (ASSETS.parent / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    steps = [line.split(" ", 1) for line in lines if re.match("[A-Z]+ ", line)]
    assert {"HEALTHCHECK", "EXPOSE", "VOLUME"} <= {name for name, _ in steps}
    assert [what for name, what in steps if name == "USER"] == ["seats"]
    last = max(at for at, (name, _) in enumerate(steps) if name == "RUN")
    assert last < steps.index(["USER", "seats"])
    allowed = (ASSETS.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name, what in steps:
        for source in what.split()[:-1] if name == "COPY" else ():
            assert (ASSETS.parent / source).exists()
            assert f"!{source}" in allowed
    (entry,) = (json.loads(what) for name, what in steps if name == "ENTRYPOINT")
    assert entry[:2] == ["seats", "serve"]
    result = CliRunner().invoke(app, [*entry[1:], "--media-root", "gone"])
    assert "is not a folder" in result.stderr  # and no option is unknown
