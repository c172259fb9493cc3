"""Requests that want the server to break, to read what is not theirs, or never to end."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
import time
from http.server import ThreadingHTTPServer

import pytest

from seats_cli.errors import ModelError, RequestError, UsageError
from seats_cli.serve import ServeOptions
from seats_cli.serve.app import _is_loopback
from seats_cli.serve.chat_request import parse_request
from tests.media.server import Handler
from tests.serve.conftest import ASSETS, CARDS, CAT, FIRST, data_url, wait_until


def clip_body(url, question="What?", **more):
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": parts}], **more}


def refusal(response, status):
    """The error of a response, which must be one in JSON."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    assert error["param"] is None or error["param"] in error["message"]
    assert "Traceback" not in error["message"]
    return error["message"]


def alive(server):
    assert server.ask(CARDS, FIRST).choices[0].message.content == "red"


@pytest.fixture(scope="module")
def site():
    """A web server with bad habits, on loopback."""
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe{}",
    b"[" * 200_000,
    b'{"messages": []}',
    b'{"messages": {}}',
    b'{"messages": [1]}',
    b'{"messages": [' + b"{}," * 10 + b"{}]}",
    b'{"messages": [{"role": "robot", "content": "x"}]}',
    b'{"messages": [{"role": "user"}]}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "file"}]}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": 1}]}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "video_url", "uuid": 7}]}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "video_url", "uuid": "\\ud800"}]}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": '
    b'"data:,\\ud800"}]}]}',
    b'{"messages": [{"role": "assistant", "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"}]}',
]
TALK = {"messages": [{"role": "user", "content": "x"}]}
FIELDS = [
    {"temperature": 10**400},
    {"seats": {"retain": 10**400}},
    {"seats": {"temperature": 10**400}},
    {"mm_processor_kwargs": {"fps": 10**400}},
    {"temperature": -1},
    {"temperature": 1e-40},
    {"temperature": "hot"},
    {"temperature": True},
    {"top_p": 0},
    {"top_p": 2},
    {"max_tokens": 0},
    {"max_tokens": 1.5},
    {"max_tokens": 10**30},
    {"seed": "x"},
    {"stream": "yes"},
    {"stream_options": 1},
    {"n": 2},
    {"stop": 0},
    {"stop": {}},
    {"stop": [""]},
    {"stop": ["a", None]},
    {"stop": ["a"] * 17},
    {"tools": [{}]},
    {"logprobs": True},
    {"response_format": {"type": "json_object"}},
    {"logit_bias": {"1": 5}},
    {"seats": 1},
    {"seats": {"retain": 0}},
    {"seats": {"retain": 7}},
    {"seats": {"retain": "x"}},
    {"seats": {"retain": "nan%"}},
    {"seats": {"method": "best"}},
    {"seats": {"kv": "none"}},
    {"seats": {"full": 1.5}},
    {"seats": {"full": True, "retain": 0.1}},
    {"seats": {"what": 1}},
    {"mm_processor_kwargs": []},
    {"mm_processor_kwargs": {"use_audio_in_video": 1}},
    {"mm_processor_kwargs": {"max_pixels": -5}},
    {"media_io_kwargs": {"video": {"fps": 0}}},
    {"media_io_kwargs": {"video": {"num_frames": 10**9}}},
    {"media_io_kwargs": {"video": 3}},
]


@pytest.mark.parametrize("body", [*BODIES, *({**TALK, **one} for one in FIELDS)])
def test_what_is_no_request_is_refused_in_a_sentence(body):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(UsageError) as error:
        parse_request(raw, ServeOptions(), "bundled")
    assert getattr(error.value, "status", 400) == 400
    assert str(error.value).endswith(".")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none(value):
    raw = json.dumps(TALK)[:-1] + f', "temperature": {value}}}'
    with pytest.raises(RequestError):
        parse_request(raw.encode(), ServeOptions(), "bundled")


def test_raw_bodies_get_json_errors(server):
    headers = {"content-type": "application/json"}
    for body in BODIES[:7]:
        refusal(server.post(content=body, headers=headers), 400)
    refusal(server.post(content=b"{}", headers={"content-type": "text/plain"}), 415)
    for broken in (b'{"model": "\\ud800"}', b'{"messages": [{"role": "\\udfff"}]}'):
        refusal(server.post(content=broken, headers=headers), 404 if b"model" in broken else 400)
    odd = server.post(
        content=b'{"\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}', headers=headers
    )
    assert odd.status_code == 200
    assert "GPT" in refusal(server.post({**TALK, "model": "GPT"}), 404)
    many = b'{"messages": [' + b"{}," * 600_000 + b"{}]}"  # would take a hundred times its bytes
    assert "too many values" in refusal(server.post(content=many, headers=headers), 413)
    too_much = clip_body("data:video/mp4;base64," + "A" * (5 << 20))
    assert "larger" in refusal(server.post(too_much), 413)
    pieces = (b" " * (1 << 20) for _ in range(6))  # without a length
    assert "larger" in refusal(server.post(content=pieces, headers=headers), 413)
    too_large = clip_body("data:video/mp4;base64," + "A" * (3 << 20))
    assert "larger" in refusal(server.post(too_large), 413)
    alive(server)


def test_other_paths_methods_and_names(server):
    import httpx

    refusal(httpx.get(f"{server.root}/etc/passwd"), 404)
    refusal(httpx.get(f"{server.root}/v1/chat/completions"), 405)
    # What a page in a browser could reach under a name of its own that leads here.
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        refusal(server.post(TALK, headers={"host": host}), 403)
    for host in ("localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000"):
        assert server.post(TALK, headers={"host": host}).status_code == 200


def test_files_of_the_server_stay_its_own(server, serving, tmp_path):
    inside = clip_body(CAT.as_uri())
    assert server.post(inside).status_code == 200
    outside = [
        "file:///etc/passwd",
        f"{ASSETS.as_uri()}/../README.md",
        f"{ASSETS.as_uri()}/%2e%2e/README.md",
        f"file://elsewhere{CAT}",
        ASSETS.as_uri(),
        f"{ASSETS.as_uri()}/gone.mp4",
        f"{ASSETS.as_uri()}-other/cat.mp4",
        f"{ASSETS.as_uri()}/a%00b.mp4",
        "file://[/x",
    ]
    told = {refusal(server.post(clip_body(url)), 403) for url in outside}
    assert len(told) == 1  # which of them exist cannot be told
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.mp4").symlink_to(CAT)
    os.mkfifo(root / "pipe.mp4")
    linked = serving(media_root=str(root))
    for name in ("link.mp4", "pipe.mp4"):
        refusal(linked.post(clip_body((root / name).as_uri())), 403)
    refusal(serving().post(inside), 403)
    for url in ("/etc/passwd", "ftp://host/x", "gopher://x", "concat:a|b", "", " "):
        refusal(server.post(clip_body(url)), 400)


def test_clips_that_are_none(server):
    def data(content):
        return "data:video/mp4;base64," + base64.b64encode(content).decode()

    whole = CARDS.read_bytes()
    for content in (
        b"x",
        os.urandom(5000),
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/x.ts\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        whole[:2000],
    ):
        refusal(server.post(clip_body(data(content))), 422)
    for url in ("data:", "data:video/mp4;base64,???", "data:video/mp4;base64,A"):
        refusal(server.post(clip_body(url)), 400)
    refusal(server.post(clip_body("data:video/mp4;base64,")), 422)
    # What is left of a damaged clip is answered about, and said.
    cut = server.post(clip_body(data(whole[: len(whole) // 3])))
    assert any("damaged" in warning for warning in cut.json()["seats"]["warnings"])
    # Beside another part, too.
    for url in ("data:image/png;base64,eA==", "data:image/png;base64,", data(whole[:3000])):
        body = clip_body(data_url(CARDS))
        picture = {"type": "image_url", "image_url": {"url": url}}
        body["messages"][0]["content"].insert(0, picture)
        refusal(server.post(body), 422)
    body = clip_body(data(whole[: len(whole) // 3]))
    body["messages"][0]["content"].insert(0, clip_body(CAT.as_uri())["messages"][0]["content"][0])
    told = server.post(body).json()["seats"]["warnings"]
    assert any("damaged" in warning for warning in told)
    alive(server)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("::1", True),
        ("[::1]", True),
        ("[::1]:80", True),
        ("127.0.0.1", True),
        ("127.0.0.1:80", True),
        ("localhost:80", True),
        ("10.0.0.1:80", False),
        ("[::2]:80", False),
        ("2001:db8::1", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_machine(host, local):
    assert _is_loopback(host) is local


def test_urls_that_lead_where_they_must_not(server, site):
    for url in (
        f"{site}/file",
        "http://localhost:1/x",
        "http://[::1]/x",
        "http://169.254.169.254/",
    ):
        assert "own network" in refusal(server.post(clip_body(url)), 422)


def test_urls_that_never_end_or_are_too_much(serving, site):
    server = serving(allow_local_urls=True, max_media_bytes=1 << 20, timeout_s=1.5)
    assert "larger than 1 MiB" in refusal(server.post(clip_body(f"{site}/claim")), 413)
    assert "larger than 1 MiB" in refusal(server.post(clip_body(f"{site}/endless")), 413)
    for path in ("drip", "drip_head"):
        began = time.monotonic()
        assert server.post(clip_body(f"{site}/{path}")).status_code in (422, 504)
        assert time.monotonic() - began < 3
    refusal(server.post(clip_body(f"{site}/page")), 422)
    refusal(serving(offline=True).post(clip_body(f"{site}/file")), 403)
    wait_until(lambda: server.backend.admission.inside == 0)


def test_a_model_that_fails_says_so_and_goes_on(serving, monkeypatch):
    server = serving()

    def fails(error):
        def answer(job):
            raise error

        monkeypatch.setattr(server.backend._answerer, "answer", answer)
        return server.post(TALK)

    refusal(fails(ModelError("The model's output is not a number.")), 500)
    assert "RuntimeError" in refusal(fails(RuntimeError("/home/secret")), 500)
    assert "secret" not in fails(RuntimeError("/home/secret")).text
    assert fails(MemoryError()).headers["retry-after"]
    refusal(fails(OSError(28, "No space left on device")), 503)
    monkeypatch.undo()
    alive(server)


def test_bytes_that_are_not_http(server):
    port = int(server.root.rpartition(":")[2])
    for raw in (b"\x16\x03\x01\x02\x00", b"GET /health\r\n\r\n", b"\x00" * 4096):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            sock.sendall(raw)
            sock.shutdown(socket.SHUT_WR)
            sock.recv(4096)
    # A body that is announced and does not come.
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        )
        wait_until(lambda: server.backend.admission.inside == 1)
    wait_until(lambda: server.backend.admission.inside == 0)
    alive(server)


def test_a_long_question_is_refused_by_the_numbers(server, loaded):
    question = "why " * loaded.architecture.max_positions
    body = clip_body(data_url(CARDS), question)
    response = server.post(body)
    assert "context holds" in refusal(response, 400)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    several = clip_body(data_url(CARDS), question)
    several["messages"][0]["content"] *= 2
    assert "context holds" in refusal(server.post(several), 400)
