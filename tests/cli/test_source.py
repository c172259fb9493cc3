"""Pipes and URLs as the video: brought here once, named as given, gone afterwards."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from seats_cli.cli import runtime
from seats_cli.cli.sources import _file_name
from tests.cli.fakes import CALLS, tiny_wav
from tests.cli.test_process import start


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "my clip.wav").write_bytes(tiny_wav())
    (tmp_path / "notes.mp4").write_text("nothing to see\n" * 9)
    handler = partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_piped_video(run, temporary):
    result = run("ask", "-", "What?", input=tiny_wav())
    assert result.exit_code == 0, result.stderr
    path = CALLS["read_clip"]["path"]
    assert path.startswith(str(temporary))
    assert path.endswith("/stdin")
    assert os.listdir(temporary) == []


def test_each_run_reads_its_own_pipe(run, temporary):
    assert run("ask", "-", "What?", input=tiny_wav()).exit_code == 0
    result = run("ask", "-", "What?", input=b"no media at all")
    assert result.exit_code == 3
    assert "stdin is not a video" in result.stderr
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_video_and_question_cannot_share_a_pipe(run, arguments):
    result = run("ask", "-", *arguments, input=tiny_wav())
    assert result.exit_code == 2
    assert "question must be an argument" in result.stderr


def test_an_empty_pipe(run):
    result = run("ask", "-", "What?", input=b"")
    assert result.exit_code == 3
    assert "Stdin was empty" in result.stderr


def test_too_much_on_the_pipe(run, monkeypatch, temporary):
    import functools

    from seats_cli.media import fetch

    small = functools.partial(fetch.copy_bounded, limit=1000)
    monkeypatch.setattr(fetch, "copy_bounded", small)
    result = run("ask", "-", "What?", input=tiny_wav())
    assert result.exit_code == 3
    assert "larger than 1000 bytes" in result.stderr
    assert os.listdir(temporary) == []


def test_a_url(run, url, temporary):
    result = run("ask", f"{url}/my%20clip.wav", "What?", "--allow-local-urls")
    assert result.exit_code == 0, result.stderr
    assert CALLS["read_clip"]["path"].endswith("/my clip.wav")
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(
    ("path", "flags", "code", "words"),
    [
        ("my%20clip.wav", (), 3, "--allow-local-urls"),
        ("my%20clip.wav", ("--allow-local-urls", "--offline"), 2, "--offline"),
        ("absent.mp4", ("--allow-local-urls",), 3, "404"),
        ("notes.mp4", ("--allow-local-urls",), 3, "notes.mp4 is not a video"),
    ],
)
def test_urls_that_are_refused(run, url, temporary, path, flags, code, words):
    result = run("ask", f"{url}/{path}", "What?", *flags)
    assert result.exit_code == code
    assert words in result.stderr
    assert "load_model" not in CALLS
    assert os.listdir(temporary) == []


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://a/b/talk.mp4?x=1#y", "talk.mp4"),
        ("http://a/", "download"),
        ("http://a", "download"),
        ("http://a/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("http://a/%2e%2e", "download"),
        ("http://a/x%00%1b[31m.mp4", "x___31m.mp4"),
        ("http://a/" + "ü" * 300 + ".mp4", "ü" * 48 + ".mp4"),
    ],
)
def test_names_of_downloads_are_harmless(url, name):
    assert _file_name(url) == name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_that_never_ends_can_be_ended(tmp_path, temporary, number):
    environment = {"TMPDIR": str(temporary)}
    process = start("-", "What?", folder=tmp_path, stdin=subprocess.PIPE, env=environment)
    process.stdin.write(bytes(1000))
    process.stdin.flush()
    # Ours: Python's tempfile first tries the folder with a file of its own, for an instant.
    while not any(name.startswith("seats-") for name in os.listdir(temporary)):
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=20) == (130 if number == signal.SIGINT else 143)
    process.communicate()
    assert os.listdir(temporary) == []


def test_a_signal_ends_the_wait_for_a_pipe_however_it_was_lost():
    """One between Python's last look and the read, or one that a library swallowed."""
    read, write = os.pipe()
    with open(read, "rb") as stream, open(write, "wb", buffering=0) as pipe:
        waiting = runtime.Pipe(stream)
        pipe.write(b"some")
        assert waiting.read1(1000) == b"some"
        timer = threading.Timer(0.1, lambda: runtime._pending.append(KeyboardInterrupt()))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            waiting.read1(1000)
        runtime.forget_interrupts()
        pipe.write(b"more")
        assert waiting.read1(2) == b"mo"
        assert waiting.read1(1000) == b"re"


def test_a_file_url_is_the_file(run, tmp_path):
    path = tmp_path / "my clip #1.wav"
    path.write_bytes(tiny_wav())
    for name in (path.as_uri(), path.as_uri().replace("file:///", "file://localhost/", 1)):
        assert run("ask", name, "What?").exit_code == 0
        assert CALLS["read_clip"]["path"] == str(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("file://nas/clip.mp4", "on another machine, nas"),
        ("rtsp://camera/1", "rtsp: addresses cannot be read"),
        ("s3://bucket/clip.mp4", "s3: addresses cannot be read"),
        ("ftp://host/clip.mp4", "ftp: addresses cannot be read"),
        ("data:video/mp4;base64,AAAA", "data: addresses cannot be read"),
        ("www.example.com/clip.mp4", "write https://www.example.com/clip.mp4"),
        ("youtube.com/watch?v=1", "write https://youtube.com/watch?v=1"),
        ("example.com:8080/clip.mp4", "write https://example.com:8080/clip.mp4"),
    ],
)
def test_other_addresses_get_their_own_sentence(run, name, words):
    result = run("ask", name, "What?")
    assert result.exit_code == 3
    assert words in result.stderr
    assert "There is no file" not in result.stderr


@pytest.mark.parametrize("name", ["clips/a.mp4", "a.mp4", "v1.2/a.mp4", "a:b.mp4"])
def test_a_missing_file_is_missing(run, name):
    Path("v1.2").mkdir(exist_ok=True)
    assert "There is no file" in run("ask", name, "What?").stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:2,\na.ts\n"),
        ("a.m3u", "\ufeff#EXTM3U\na.mp3\n"),
        ("a.mpd", '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'),
        ("a.pls", "[playlist]\nFile1=a.mp3\n"),
        ("film.mp4", "#EXTM3U\n#EXTINF:2,\na.ts\n"),
    ],
)
def test_playlists_are_called_playlists(run, name, text):
    Path(name).write_text(text, encoding="utf-8")
    result = run("ask", name, "What?")
    assert result.exit_code == 3
    assert "is a playlist" in result.stderr
