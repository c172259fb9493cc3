"""A load on a server of this process: `python -m tests.serve_load [REQUESTS [CLIENTS]]`.

Clients stream answers about mixed clips. Every answer must be that of `ask`, and none may be lost.
Printed are requests per minute, the time to the first piece of an answer, and memory, with
sessions and without. `python -m tests.serve_load further` prints how much sooner a further
question about the same clip is answered, for one client.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from seats_cli import SeatsConfig, ask, load_model, read_clip
from seats_cli.serve import ServeOptions
from seats_cli.serve.answering import Answerer
from seats_cli.serve.app import listen
from seats_cli.serve.model_queue import ModelQueue
from tests.serve.conftest import ASSETS, Server

CLIPS = ("cards_words_beeps_12s.mp4", "sees_cat_says_dog.mp4", "jfk.wav", "sintel_15s_640.mp4")
# Clips and the frames per second that they are read with.
FURTHER = (
    ("sees_cat_says_dog.mp4", 2),
    ("cards_words_beeps_12s.mp4", 2),
    ("bbb_360p_stereo.mp4", 2),
    ("sintel_15s_640.mp4", 2),
    ("sintel_15s_640.mp4", 8),
    ("jfk.wav", 2),
)
QUESTIONS = ("What color is shown first?", "What color is shown last?", "What do you hear?")


def expected(loaded: Any) -> dict[tuple[str, str], str]:
    """The answer of `ask` to each question about each clip."""
    found = {}
    for name in CLIPS:
        clip = read_clip(ASSETS / name, sizing=loaded.sizing)
        for question in QUESTIONS:
            answer = ask(loaded, clip, question, config=SeatsConfig.preset("25%"))
            found[name, question] = answer.text
    return found


def load(server: Server, answers: dict[tuple[str, str], str], requests: int, clients: int) -> Any:
    """Seconds to the first piece of every answer, all seconds, and how many were wrong."""
    todo = (list(answers) * (1 + requests // len(answers)))[:requests]
    first: list[float] = []
    wrong: list[Any] = []
    lock = threading.Lock()

    def work() -> None:
        with httpx.Client(base_url=server.root, timeout=300) as client:
            while True:
                with lock:
                    if not todo:
                        return
                    name, question = todo.pop()
                text, took = streamed(client, name, question)
                with lock:
                    first.append(took)
                    if text != answers[name, question]:
                        wrong.append((name, question, text))

    began = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return first, time.perf_counter() - began, wrong


def streamed(
    client: httpx.Client, name: str, question: str, more: dict[str, Any] | None = None
) -> tuple[str, float]:
    """The text of an answer, and after how many seconds its first piece came."""
    url = {"url": (ASSETS / name).as_uri()}
    parts = [{"type": "video_url", "video_url": url}, {"type": "text", "text": question}]
    body = {"messages": [{"role": "user", "content": parts}], "stream": True, **(more or {})}
    began, took, text = time.perf_counter(), 0.0, ""
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            return response.read().decode(), 0.0
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            took = took or time.perf_counter() - began
            for choice in json.loads(line[6:]).get("choices", [{"delta": {"content": line}}]):
                text += choice["delta"].get("content") or ""
    return text, took


def resident_mib() -> float:
    """Memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmRSS" in line) / 1024


def further() -> None:
    """Print the time to the first piece for new clips, and for further questions about them."""
    torch.set_num_threads(1)
    loaded = load_model("bundled")
    options = ServeOptions(
        config=SeatsConfig.preset("10%"), port=0, media_root=str(ASSETS), timeout_s=100
    )
    backend = ModelQueue(Answerer(loaded, options), options, loaded.facts.id)
    with listen(options) as sock:
        server = Server(backend, options, sock)
        with closing_server(server), httpx.Client(base_url=server.root, timeout=300) as client:
            streamed(client, CLIPS[0], "Hello?")
            for name, fps in FURTHER:
                for seats in ({}, {"full": True}):
                    more = {"seats": seats, "media_io_kwargs": {"video": {"fps": fps}}}
                    new, again = [], []
                    for _ in range(3):
                        backend._answerer.store.clear()
                        new.append(streamed(client, name, "What is shown?", more)[1])
                        for question in QUESTIONS:
                            again.append(streamed(client, name, question, more)[1])
                    first, then = np.median(new), np.median(again)
                    print(
                        f"{name} at {fps} fps, {'full' if seats else '10%'}: {first:.2f} s, then "
                        f"{then:.3f} s ({first / then:.1f}x)",
                        flush=True,
                    )


def main() -> None:
    """Print the figures."""
    if sys.argv[1:] == ["further"]:
        further()
        return
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    clients = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    torch.set_num_threads(1)
    loaded = load_model("bundled")
    answers = expected(loaded)
    failed = False
    for label, kept in (("with sessions", 4 << 30), ("without", 0)):
        options = ServeOptions(
            config=SeatsConfig.preset("25%"),
            port=0,
            media_root=str(ASSETS),
            session_bytes=kept,
            max_requests=2 * clients,
        )
        backend = ModelQueue(Answerer(loaded, options), options, loaded.facts.id)
        with listen(options) as sock:
            server = Server(backend, options, sock)
            with closing_server(server), httpx.Client(base_url=server.root, timeout=300) as one:
                alone = [streamed(one, *key)[1] for key in answers]
                again = [streamed(one, *key)[1] for key in answers]
                before = resident_mib()
                first, seconds, wrong = load(server, answers, requests, clients)
                held = server.metric("seats_session_bytes") / (1 << 20)
        p50, p95 = np.percentile(first, (50, 95))
        print(
            f"{label}: {len(first)} of {requests} answered, {len(wrong)} not as ask; "
            f"{60 * len(first) / seconds:.0f} requests/min with {clients} clients, "
            f"first token p50 {p50:.2f} s, p95 {p95:.2f} s; one client alone: first "
            f"{np.median(alone[:: len(QUESTIONS)]):.3f} s, again {np.median(again):.3f} s; "
            f"sessions {held:.1f} MiB, process {before:.0f} MiB "
            f"before the load, {resident_mib():.0f} MiB after",
            flush=True,
        )
        for one in wrong:
            print("  not as ask:", *one, flush=True)
        failed = failed or bool(wrong) or len(first) < requests
    sys.exit(failed)


class closing_server(closing[Any]):  # noqa: N801
    """Ends a server at the end of a block."""

    def __exit__(self, *_: object) -> None:
        self.thing.stop()


if __name__ == "__main__":
    main()
