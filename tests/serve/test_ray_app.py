"""The app on Ray Serve, with two replicas on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from seats_cli.errors import RequestError, UsageError
from tests.serve.conftest import ASSETS, CARDS, CAT, FIRST, LAST, data_url, openai

pytest.importorskip("ray.serve", reason="ray[serve] is not installed (extra ray)")

from seats_cli.serve import ServeOptions
from seats_cli.serve.chat_request import parse_request
from seats_cli.serve.ray_app import Replicas, app, clip_of, ray_app


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two replicas behind Ray's own HTTP server."""
    before = {name: os.environ.get(name) for name in ("RAY_USAGE_STATS_ENABLED", "PYTHONPATH")}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, before["PYTHONPATH"])))
    import ray
    from ray import serve

    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=100 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="CRITICAL",
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = ServeOptions(media_root=str(ASSETS), max_requests=4)
    serve.run(ray_app(options, replicas=2))
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def test_replicas_answer_each_with_its_clips(address: str, loaded: Any) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
    assert [model.id for model in client.models.list()] == ["bundled"]

    def ask(path: Path, question: str, **more: Any) -> Any:
        url = {"url": path.as_uri()}
        parts = [{"type": "video_url", "video_url": url}, {"type": "text", "text": question}]
        return client.chat.completions.create(
            model="bundled", messages=[{"role": "user", "content": parts}], **more
        )

    from seats_cli import ask as ask_model
    from seats_cli import read_clip

    expected = {}
    for path in (CARDS, CAT):
        clip = read_clip(path, sizing=loaded.sizing)
        for question in (FIRST, LAST):
            expected[path, question] = ask_model(loaded, clip, question, config=None).text
    found = {key: [ask(*key, extra_body={"seats": {"full": True}})] for key in [*expected] * 2}
    for key, answers in found.items():
        assert {one.choices[0].message.content for one in answers} == {expected[key]}
    # By now, the router knows who has which clip.
    for key in expected:
        assert ask(*key).model_extra["seats"]["session"] == "open"
    chunks = list(ask(CARDS, FIRST, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "red"
    assert chunks[-1].model_extra["seats"]["evidence"]

    # Errors of a replica come through as they are.
    with pytest.raises(openai.BadRequestError, match="context holds"):
        ask(CARDS, "why " * loaded.architecture.max_positions)
    bad = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,AAAA"}}
    message = {"role": "user", "content": [bad, {"type": "text", "text": FIRST}]}
    with pytest.raises(openai.UnprocessableEntityError, match="not a video"):
        client.chat.completions.create(model="bundled", messages=[message])
    metrics = httpx.get(f"{address}/metrics").text
    assert 'seats_requests_total{status="200"} ' in metrics


def test_a_request_is_known_by_its_clips() -> None:
    from tests.serve.test_hostile import clip_body

    def key(body: dict[str, Any]) -> str:
        return clip_of(parse_request(json.dumps(body).encode(), ServeOptions(), "bundled"))

    assert key(clip_body("http://host/a.mp4", "x")) == key(clip_body("http://host/a.mp4", "y"))
    assert key(clip_body("http://host/a.mp4")) != key(clip_body("http://host/b.mp4"))
    assert len(key(clip_body(data_url(CAT)))) == 64
    assert key({"messages": [{"role": "user", "content": "x"}]}) == ""


def test_a_request_that_no_replica_takes_ends_in_time() -> None:
    class Waiting:
        """A handle whose replicas have too much to do."""

        cancelled = False

        @property
        def events(self) -> Any:
            return self

        def options(self, **_: Any) -> Any:
            return self

        def remote(self, *_: Any) -> Any:
            return self

        async def __anext__(self) -> Any:
            await asyncio.sleep(60)

        def cancel(self) -> None:
            self.cancelled = True

    async def ask() -> None:
        async for _ in backend.events(request, ticket):
            pass

    handle, options = Waiting(), ServeOptions(timeout_s=0.1)
    backend = Replicas(handle, options, "bundled")
    body = json.dumps({"messages": [{"role": "user", "content": "x"}]}).encode()
    request, ticket = parse_request(body, options, "bundled"), backend.admission.enter()
    with pytest.raises(RequestError, match=r"after 0\.1 s") as caught:
        asyncio.run(asyncio.wait_for(ask(), 30))
    assert caught.value.status == 504
    assert handle.cancelled
    assert backend.admission.inside == 0


def test_arguments_of_serve_run() -> None:
    for wrong in ({"what": "1"}, {"replicas": "0"}, {"replicas": "x"}, {"retain": "much"}):
        with pytest.raises(UsageError):
            app(wrong)
    assert app({"replicas": "2", "retain": "0.1"}) is not None
