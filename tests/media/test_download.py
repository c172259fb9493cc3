"""Fetching by http: what comes, what is refused, and that nothing takes forever."""

from __future__ import annotations

import errno
import io
import socket
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

from seats_cli.errors import MediaError
from seats_cli.media import http
from seats_cli.media.fetch import download, is_url
from seats_cli.media.http import Timeouts, check_public, is_public
from tests.media.server import BODY, Handler

SHORT = Timeouts(connect_s=2, silence_s=0.5, answer_s=1, total_s=1)


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(url: str, **options: object) -> bytes:
    target = io.BytesIO()
    arguments = {"allow_local_urls": True, "timeouts": SHORT, **options}
    download(url, target, **arguments)  # type: ignore[arg-type]
    return target.getvalue()


def refusal(url: str, **options: object) -> str:
    began = time.monotonic()
    with pytest.raises(MediaError) as caught:
        fetch(url, **options)
    assert time.monotonic() - began < 5
    text = str(caught.value)
    assert text.endswith(".")
    assert text.isprintable()
    return text


@pytest.mark.parametrize(
    "path", ["", "/file", "/unsized", "/chunked?whole", "/file/ü b.mp4?x=ü y", "/away?/file"]
)
def test_bytes_arrive(base: str, path: str) -> None:
    reports: list[tuple[int, int | None]] = []
    assert fetch(base + path, on_progress=lambda *now: reports.append(now)) == BODY
    assert reports[-1] == (len(BODY), len(BODY) if "file" in path or not path else None)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/short", "broke off after 10,240 of 20,480"),
        ("/chunked", "broke off"),
        ("/claim", "larger than"),
        ("/endless", "larger than"),
        ("/drip", "too slow"),
        ("/drip_head", "too slow"),
        ("/stall", "sent nothing"),
        ("/page", "web page"),
        ("/packed", "gzip"),
        ("/missing", "404 Not Found"),
        ("/loop", "more than 5 times"),
        ("/nowhere", "without saying where"),
        ("/away?file:///etc/passwd", "Only http"),
        ("/away?ftp://example.org/x", "Only http"),
        ("/babble", "does not answer as a web server"),
    ],
)
def test_trouble_is_one_sentence_in_time(base: str, path: str, words: str) -> None:
    assert words in refusal(base + path, limit=1_000_000)


def test_a_full_disk(base: str) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MediaError, match="TMPDIR"):
        download(base + "/file", Full(), allow_local_urls=True, timeouts=SHORT)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "http://a:b@example.org/",
        "http://example.org:99999/",
        "http://\N{SNOWMAN}" + "x" * 300 + "/",
        "http://nobody.invalid/x.mp4",
        "ftp://example.org/x",
    ],
)
def test_what_is_not_a_url(url: str) -> None:
    refusal(url)


def test_no_server_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "cannot be reached" in refusal(f"http://127.0.0.1:{port}/")
    # A plain server does not speak TLS.
    with socket.create_server(("127.0.0.1", 0)) as server:
        refusal(f"https://127.0.0.1:{server.getsockname()[1]}/")


def test_local_addresses_need_permission(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = base.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
        text = refusal(f"http://{host}:{port}/file", allow_local_urls=False)
        assert "`allow_local_urls`" in text or "not known" in text
    # A public server that leads inside: only the first address is public.
    public = {"public.example": ["127.0.0.1"]}
    monkeypatch.setattr(http, "resolve", lambda host, _: public.get(host) or [host])
    monkeypatch.setattr(http, "check_public", _first_is_public)
    text = refusal(
        f"http://public.example:{port}/away?http://127.0.0.1:{port}/file", allow_local_urls=False
    )
    assert "`allow_local_urls`" in text


def _first_is_public(host: str, found: list[str]) -> None:
    if host != "public.example":
        check_public(host, found)


def test_one_local_address_among_public_ones_is_enough() -> None:
    with pytest.raises(MediaError, match="own network"):
        http.check_public("two.example", ["8.8.8.8", "10.0.0.1"])
    http.check_public("two.example", ["8.8.8.8", "2606:4700::1111"])


def test_the_checked_address_is_the_one_connected_to(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that changes its mind after the check is never asked again."""
    looked_up: list[str] = []
    real = socket.getaddrinfo

    def once(host: str, *rest: object, **more: object) -> object:
        looked_up.append(host)
        target = "127.0.0.1" if host == "rebind.example" else host
        return real(target, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", once)
    assert fetch(f"http://rebind.example:{base.rpartition(':')[2]}/file") == BODY
    assert looked_up.count("rebind.example") == 1


def test_a_name_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5) or [])
    timeouts = Timeouts(connect_s=0.2)
    assert "took over" in refusal("http://slow.example/", timeouts=timeouts)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.9.9.9",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fc00::1",
        "fe80::1%eth0",
        "ff02::1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "nonsense",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_and_urls() -> None:
    assert is_public("8.8.8.8")
    assert is_public("2606:4700:4700::1111")
    assert is_url("HTTP://x")
    assert is_url("https://x")
    assert not is_url("http:")
    assert not is_url("movie.mp4")
