"""Bringing what is not a file, a pipe or a URL, into one that can be read."""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from seats_cli.cli.console import Progress, Talk
from seats_cli.cli.guard import at_end
from seats_cli.cli.interrupt import note, stop_if_interrupted
from seats_cli.errors import MediaError, UsageError

if TYPE_CHECKING:
    from seats_cli.media.spool import Readable

PIPE = "-"
_NAME_BYTES = 100  # of a URL's file name; file systems allow 255

# One command reads stdin or a URL once, however often it asks for the file.
_fetched: dict[str, str] = {}
_folders: list[str] = []


def local_path(
    source: str, talk: Talk | None = None, *, allow_local_urls: bool = False, offline: bool = False
) -> str:
    """A file of this machine with what `source` stands for.

    Parameters
    ----------
    source : str
        The name of a file, which is returned as it is; "-" for stdin; or an http(s) URL.
    talk : Talk or None
        Shows how far it is.
    allow_local_urls : bool
        Whether a URL may lead to this machine or its own network.
    offline : bool
        Whether the network must not be used.

    Returns
    -------
    str
        For "-" and URLs a temporary file, which is gone when the command ends.

    Raises
    ------
    MediaError
        Nothing comes, or too much, or not from where it may come.
    UsageError
        Stdin is a terminal, or a URL contradicts `offline`.
    """
    from seats_cli.media.download import download, is_url

    if source != PIPE and not is_url(source):
        return source
    if source in _fetched:
        return _fetched[source]
    if source != PIPE and offline:
        raise UsageError("--offline forbids fetching a URL; give the name of a file.")
    talk = talk or Talk(quiet=True)
    path = _temporary("stdin" if source == PIPE else _file_name(source))
    with open(path, "wb") as target, talk.progress(f"Fetching {path.name}") as progress:
        if source == PIPE:
            _spool(target, progress)
        else:
            download(
                source,
                target,
                allow_local=allow_local_urls,
                on_progress=lambda done, total: progress.update(_amount(done, total)),
            )
    _fetched[source] = str(path)
    return str(path)


def forget() -> None:
    """Remove everything that was brought here."""
    _fetched.clear()
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _temporary(name: str) -> Path:
    """A place for a file, removed when the command ends, however it ends."""
    at_end(forget)
    _end_on_sigterm()
    folder = Path(tempfile.gettempdir()) / f"seats-{secrets.token_hex(8)}"
    _folders.append(str(folder))  # before it exists: a signal may come right after
    folder.mkdir(mode=0o700)
    return folder / name


def _end_on_sigterm() -> None:
    """Let `kill` end the process the ordinary way, so that the file does not stay behind."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, note)


def _file_name(url: str) -> str:
    """The last part of the URL's path, so that messages name what the user knows."""
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w .()+-]", "_", name).strip(". ")
    return name.encode()[-_NAME_BYTES:].decode(errors="ignore") or "download"


def _spool(target: IO[bytes], progress: Progress) -> None:
    from seats_cli.media.spool import copy_bounded

    stop_if_interrupted()  # the import brings in PyAV, which may lose a signal; reading would wait
    stdin = sys.stdin
    if stdin is None or stdin.closed:
        raise UsageError("There is no stdin to read the video from.")
    if stdin.isatty():
        raise UsageError("'-' reads the video from a pipe: cat talk.mp4 | seats ask - QUESTION.")
    try:
        size = copy_bounded(
            cast("Readable", stdin.buffer),
            target,
            "The video on stdin",
            on_progress=lambda done, total: progress.update(_amount(done, total)),
        )
    except OSError as error:
        raise MediaError(f"Stdin cannot be read: {error.strerror or error}.") from error
    if size == 0:
        raise MediaError("Nothing came on stdin; pipe a video or sound file into it.")


def _amount(done: int, total: int | None) -> str:
    mega = f"{done / 1e6:.0f} MB"
    return f"{mega} of {total / 1e6:.0f} MB" if total else mega
