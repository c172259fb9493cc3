"""A real server on loopback, with the bundled model, and clients of it."""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
openai = pytest.importorskip("openai")

import uvicorn  # noqa: E402

from seats_cli import SeatsConfig, load_model  # noqa: E402
from seats_cli.serve import ServeOptions  # noqa: E402
from seats_cli.serve.answering import Answerer  # noqa: E402
from seats_cli.serve.app import build_app, listen  # noqa: E402
from seats_cli.serve.model_queue import ModelQueue  # noqa: E402

ASSETS = Path(__file__).parents[2] / "assets"
CARDS = ASSETS / "cards_words_beeps_12s.mp4"
CAT = ASSETS / "sees_cat_says_dog.mp4"
SPEECH = ASSETS / "jfk.wav"
FIRST, LAST = "What color is shown first?", "What color is shown last?"


class Server:
    """An app that runs in a thread, and what tests look at."""

    def __init__(self, backend: ModelQueue, options: ServeOptions, sock: socket.socket) -> None:
        self.backend, self.options = backend, options
        self.root = f"http://127.0.0.1:{sock.getsockname()[1]}"
        config = uvicorn.Config(build_app(backend, options), log_level="error", lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [sock]})
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
            assert self._thread.is_alive()

    def client(self, key: str = "none") -> Any:
        """OpenAI's client, which sends nothing twice."""
        return openai.OpenAI(base_url=f"{self.root}/v1", api_key=key, max_retries=0, timeout=60)

    def post(self, body: Any = None, **more: Any) -> httpx.Response:
        """A raw request."""
        how = {"json": body} if body is not None else {}
        return httpx.post(f"{self.root}/v1/chat/completions", timeout=60, **how, **more)

    def ask(self, *parts: Any, **more: Any) -> Any:
        """Ask by OpenAI's client; texts and paths of clips as parts of one message."""
        content = [part_of(part) for part in parts]
        return self.client().chat.completions.create(
            model="bundled", messages=[{"role": "user", "content": content}], **more
        )

    def metric(self, name: str) -> float:
        """The sum of a metric's values."""
        lines = httpx.get(f"{self.root}/metrics").text.splitlines()
        values = [line.rsplit(" ", 1) for line in lines if line.startswith(name)]
        return sum(float(value) for _, value in values)

    def stop(self) -> None:
        """End it, as a signal would."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


def data_url(path: Path) -> str:
    """A file as a URL that holds it."""
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def part_of(part: Any) -> Any:
    """A part of a message from a text, the path of a clip, or itself."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, Path):
        return {"type": "video_url", "video_url": {"url": data_url(part)}}
    return part


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return when something has become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="session")
def loaded() -> Any:
    torch.set_num_threads(1)
    return load_model("bundled", device="cpu")


@pytest.fixture(scope="session")
def serving(loaded: Any) -> Iterator[Callable[..., Server]]:
    """Starts servers, which all end with the tests."""
    with ExitStack() as stack:

        def start(**options: Any) -> Server:
            settings = ServeOptions(**{"config": SeatsConfig.preset("25%"), "port": 0, **options})
            backend = ModelQueue(Answerer(loaded, settings), settings, loaded.facts.id)
            server = Server(backend, settings, stack.enter_context(listen(settings)))
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="session")
def server(serving: Callable[..., Server]) -> Server:
    """One for all tests that leave it as it is."""
    return serving(media_root=str(ASSETS), max_body_bytes=4 << 20, max_media_bytes=2 << 20)
