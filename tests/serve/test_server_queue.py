"""What requests to the server share: clips that stay open, and one queue with its limits."""

from __future__ import annotations

import threading
import time

import httpx
import pytest

from seats_cli import SeatsConfig, ask, read_clip
from seats_cli.errors import ModelError
from seats_cli.serve.answering import Piece
from seats_cli.serve.session_store import TALK_SHARE
from tests.serve.conftest import (
    ASSETS,
    CARDS,
    CAT,
    FIRST,
    LAST,
    SPEECH,
    data_url,
    openai,
    wait_until,
)


def test_a_clip_is_known_by_content_and_by_uuid(serving):
    server = serving()
    named = {"type": "video_url", "video_url": {"url": data_url(CARDS)}, "uuid": "cards"}
    assert server.ask(named, FIRST).model_extra["seats"]["session"] == "new"
    held = {"type": "video_url", "uuid": "cards"}
    again = server.ask(held, FIRST)
    assert again.model_extra["seats"]["session"] == "open"
    assert again.choices[0].message.content == "red"
    assert "fetch" not in again.model_extra["seats"]["timing"]
    assert server.ask(CARDS, LAST).model_extra["seats"]["session"] == "open"
    # The same name with another clip is another clip, and from then on the only one.
    other = {**named, "video_url": {"url": data_url(CAT)}}
    assert server.ask(other, "What?").model_extra["seats"]["session"] == "new"
    assert (
        server.ask(held, "What?").usage.prompt_tokens
        == server.ask(CAT, "What?").usage.prompt_tokens
    )
    with pytest.raises(openai.NotFoundError, match="send it again"):
        server.ask({"type": "video_url", "uuid": "unknown"}, FIRST)
    assert server.metric("seats_sessions ") == 2


def test_sessions_are_bounded_in_bytes(serving, loaded):
    one = serving()
    one.ask(CARDS, FIRST)
    size = one.metric("seats_session_bytes")
    assert size > 1 << 20
    server = serving(session_bytes=int(1.1 * size))
    for _ in range(2):
        server.ask(CARDS, FIRST)
        assert server.metric("seats_session_bytes") <= 1.1 * size
        answer = server.ask(CAT, "What?")
        assert server.metric("seats_session_bytes") <= 1.1 * size
    assert answer.model_extra["seats"]["session"] == "new"
    none = serving(session_bytes=0)
    got = none.ask(CARDS, FIRST)
    assert got.choices[0].message.content == "red"
    assert got.model_extra["seats"]["warnings"] == []
    assert none.metric("seats_sessions ") == 0


def test_a_further_question_neither_reads_nor_encodes(serving):
    """What makes it ten times faster (`tests.serve_load` has the times, which idle cores need)."""
    server = serving(media_root=str(ASSETS), config=SeatsConfig.preset("10%"))
    part = {
        "type": "video_url",
        "video_url": {"url": (ASSETS / "sintel_15s_640.mp4").as_uri()},
        "uuid": "sintel",
    }
    first, then = (
        server.ask(part, f"What is shown in part {number}?").model_extra["seats"]
        for number in range(2)
    )
    assert (first["session"], then["session"]) == ("new", "open")
    work = ("fetch", "read", "vision", "audio")
    assert min(first["timing"][name] for name in work) > 0
    assert sum(then["timing"].get(name, 0.0) for name in work) == 0
    spent = first["timing"]["first_token"] + first["timing"]["read"]
    assert spent > 2 * then["timing"]["first_token"]


def test_reading_has_a_tokenizer_of_its_own(server, loaded, monkeypatch):
    """Tokenizers change while they work (`split_special_tokens`): one thread at a time."""
    kind, used = type(loaded.processor.tokenizer), {}
    encode = kind._encode_plus

    def noted(self, *arguments, **more):
        thread = threading.current_thread().name.rpartition("_")[0]
        used.setdefault(thread, set()).add(id(self._tokenizer))
        return encode(self, *arguments, **more)

    monkeypatch.setattr(kind, "_encode_plus", noted)
    server.backend._answerer.store.clear()
    server.ask(CARDS, FIRST)
    server.ask(CARDS, CAT, FIRST)
    assert used.keys() == {"seats-media", "seats-model"}
    assert not used["seats-media"] & used["seats-model"]


def test_what_fits_the_context_goes_by_the_setting(server, loaded):
    """A clip that is too large as it is has as many sizes as there are settings."""
    room = 13000  # what an answer may take leaves too little for the whole clip

    def ask_long(**seats):
        more = {"seats": seats, "media_io_kwargs": {"video": {"fps": 3}}}
        got = server.ask(CARDS, FIRST, extra_body=more, max_completion_tokens=room)
        return got.model_extra["seats"]["session"], got.usage.prompt_tokens

    session, tokens = ask_long(retain=0.25)
    assert session == "new"
    spare = loaded.architecture.max_positions * TALK_SHARE
    assert tokens + room + spare > loaded.architecture.max_positions
    assert ask_long(retain=0.25) == ("open", tokens)
    assert ask_long(retain=0.1) == ("new", tokens)
    # The answer's length decides as well: another request's does not make this one's clip smaller.
    room = 13001
    assert ask_long(retain=0.25) == ("new", tokens)


def test_what_is_full_says_when_to_come_back(serving, monkeypatch):
    server = serving(max_requests=2)
    release = threading.Event()
    answering = server.backend._answerer.answer
    monkeypatch.setattr(
        server.backend._answerer, "answer", lambda job: (release.wait(30), answering(job))[1]
    )
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(server.ask(CARDS, FIRST))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: server.backend.admission.inside == 2)
    body = {"messages": [{"role": "user", "content": "Hello?"}]}
    refused = server.post(body)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "busy"
    release.set()
    for thread in threads:
        thread.join()
    assert [one.choices[0].message.content for one in results] == ["red", "red"]
    assert server.post(body).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_stops_the_model(serving, monkeypatch, stream):
    server = serving()
    server.ask(CARDS, FIRST)
    steps = []
    answering = server.backend._answerer.answer

    def slowly(job):
        check = job.ticket.check

        def slow_check():
            steps.append(time.monotonic())
            time.sleep(0.06)
            check()

        job.ticket.check = slow_check
        return answering(job)

    monkeypatch.setattr(server.backend._answerer, "answer", slowly)
    body = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "video_url", "video_url": {"url": data_url(CARDS)}},
                    {"type": "text", "text": FIRST},
                ],
            }
        ],
        "stream": stream,
    }
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.root}/v1/chat/completions",
            json=body,
            timeout=httpx.Timeout(10, read=0.7),
        )
    left = time.monotonic()
    wait_until(lambda: server.backend.admission.inside == 0)
    assert 3 < len(steps) < 100
    assert max(steps) < left + 1  # a step of the model takes 0.06 s here
    assert server.metric('seats_requests_total{status="499"}') == 1
    monkeypatch.undo()
    assert server.ask(CARDS, FIRST).choices[0].message.content == "red"


def test_a_request_may_not_take_for_ever(serving, monkeypatch):
    server = serving(timeout_s=0.5)
    monkeypatch.setattr(server.backend._answerer, "answer", lambda job: time.sleep(1.5))
    began = time.monotonic()
    with pytest.raises(openai.InternalServerError, match="not there after") as error:
        server.ask(CAT, FIRST)
    assert time.monotonic() - began < 1.4
    assert error.value.status_code == 504
    assert error.value.response.headers["x-should-retry"] == "false"


def test_a_stream_that_breaks_off_says_why(serving, monkeypatch):
    server = serving()

    def answer(job):
        job.on_piece(Piece("re"))
        raise ModelError("The model's output is not a number.")

    monkeypatch.setattr(server.backend._answerer, "answer", answer)
    pieces = []
    with pytest.raises(openai.APIError, match="not a number"):
        pieces.extend(server.ask("Hello?", stream=True))
    text = server.post({"messages": [{"role": "user", "content": "x"}], "stream": True}).text
    assert '"content": "re"' in text
    assert "[DONE]" not in text
    assert server.metric('seats_requests_total{status="500"}') == 2


def test_a_bounded_load(serving, loaded):
    """Clients that ask about mixed clips: nobody gets another's answer, none is lost."""
    server = serving(media_root=str(ASSETS), max_requests=8)
    asked = {}
    for path in (CARDS, CAT, SPEECH):
        clip = read_clip(path, sizing=loaded.sizing)
        for question in (FIRST, LAST):
            alone = ask(loaded, clip, question, config=SeatsConfig.preset("25%"))
            asked[path, question] = alone.text
    todo = list(asked) * 4
    wrong, lock = [], threading.Lock()

    def work():
        while True:
            with lock:
                if not todo:
                    return
                path, question = todo.pop()
            part = {"type": "video_url", "video_url": {"url": path.as_uri()}}
            text = server.ask(part, question).choices[0].message.content
            if text != asked[path, question]:
                wrong.append((path.name, question, text))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert server.metric('seats_requests_total{status="200"}') == 24
    assert server.metric('seats_clips_total{session="new"}') == 3
    assert server.backend.admission.inside == 0
