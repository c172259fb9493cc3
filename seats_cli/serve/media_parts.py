"""Bringing the media of a request into local files, however hostile what they name is.

URLs are fetched by `media.fetch`, which refuses addresses of this machine and its network, behind
redirects as well. Files are read below one folder only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from seats_cli.errors import MediaError, RequestError, TooLargeError
from seats_cli.media.fetch import download, is_url
from seats_cli.media.http import Timeouts
from seats_cli.serve import ServeOptions
from seats_cli.serve.chat_request import MediaPart

_PIECE = 1 << 20


@dataclass(frozen=True)
class LocalMedia:
    """A part's file on this machine."""

    path: str
    sha256: str  # of its content
    name: str  # what answers call it


class Ticket:
    """A request on its way: until when it may take, and whether somebody still waits for it."""

    def __init__(self, timeout_s: float) -> None:
        self.began = time.monotonic()
        self.deadline = self.began + timeout_s
        self.taken = False  # whether a backend has taken it, and gives its room back
        self._timeout_s = timeout_s
        self._gone = threading.Event()

    def cancel(self) -> None:
        """Nobody waits any more: the next `check` ends the work."""
        self._gone.set()

    def check(self) -> None:
        """Called between steps of the work.

        Raises
        ------
        RequestError
            If nobody waits for the answer, or it has taken too long.
        """
        if self._gone.is_set():
            raise RequestError("The client has left.", 499, "cancelled")
        if time.monotonic() > self.deadline:
            raise self.late()

    def late(self) -> RequestError:
        """What a request that takes too long is told."""
        return RequestError(
            f"The answer was not there after {self._timeout_s:g} s, the most that this server "
            "takes for one.",
            504,
            "timeout",
        )


def bring(part: MediaPart, folder: Path, options: ServeOptions, ticket: Ticket) -> LocalMedia:
    """The file of a part that has a URL.

    Parameters
    ----------
    folder : Path
        Where what is fetched goes; it is the caller's to remove.
    ticket : Ticket
        Is asked again and again whether to go on.

    Raises
    ------
    RequestError
        If the URL is of no known kind (400), not allowed (403) or leads to too much (413).
    MediaError
        If it leads to nothing.
    """
    scheme = part.url[:16].partition(":")[0].lower()
    if scheme == "file":
        return _below_root(part.url, options, ticket)
    target = folder / f"{part.kind}-{len(os.listdir(folder)) + 1}"  # as messages name it
    with target.open("wb") as file:
        if scheme == "data":
            name = "data:"
            data = _decoded(part.url, options.max_media_bytes)
            ticket.check()
            file.write(data)
        elif is_url(part.url):
            name = _without_query(part.url)
            _fetch(part.url, file, options, ticket)
        else:
            raise RequestError(
                "A URL must begin with https:, http:, data: or file:, not "
                f"{part.url[:40]!r}; local files need file: and a server with `media_root`."
            )
    return LocalMedia(str(target), _digest(target, ticket), name)


def _fetch(url: str, file: BinaryIO, options: ServeOptions, ticket: Ticket) -> None:
    if options.offline:
        raise RequestError("This server fetches no URLs: send a data: URL.", 403, "forbidden")
    left = max(ticket.deadline - time.monotonic(), 0.1)
    usual = Timeouts()
    try:
        download(
            url,
            file,
            allow_local_urls=options.allow_local_urls,
            limit=options.max_media_bytes,
            timeouts=Timeouts(
                min(usual.connect_s, left),
                min(usual.silence_s, left),
                min(usual.answer_s, left),
                left,
            ),
            on_progress=lambda _done, _expected: ticket.check(),
        )
    except TooLargeError:
        raise _too_large("The file behind the URL", options.max_media_bytes) from None


def _too_large(what: str, limit: int) -> RequestError:
    size = f"{limit / (1 << 20):,.4g} MiB" if limit >= 1 << 20 else f"{limit:,} bytes"
    sentence = f"{what} is larger than {size}, the most that this server takes."
    return RequestError(sentence, 413, "too_large")


def _decoded(url: str, limit: int) -> bytes:
    """The bytes of a data: URL."""
    head, comma, body = url.partition(",")
    if not comma:
        raise RequestError("A data: URL needs a comma before its data.")
    if not head.lower().endswith(";base64"):
        data = unquote_to_bytes(body)
    else:
        try:
            data = base64.b64decode("".join(body.split()), validate=True)
        except (binascii.Error, ValueError):
            raise RequestError("The data of a data: URL or `input_audio` is not base64.") from None
    if len(data) > limit:
        raise _too_large("The data", limit)
    return data


def _below_root(url: str, options: ServeOptions, ticket: Ticket) -> LocalMedia:
    """A regular file below the folder that is allowed, wherever links lead."""
    refusal = RequestError(
        "This file is not below the server's `media_root`, or is no file there."
        if options.media_root
        else "This server reads no files of its own machine: send a data: or https: URL.",
        403,
        "forbidden",
    )
    if options.media_root is None:
        raise refusal
    try:
        parts = urlsplit(url)
        if parts.netloc.lower() not in ("", "localhost"):
            raise refusal
        root = os.path.realpath(options.media_root)
        path = os.path.realpath(url2pathname(parts.path))
        if os.path.commonpath((root, path)) != root:
            raise refusal
        facts = os.stat(path)
    except (OSError, ValueError):
        raise refusal from None
    if not stat.S_ISREG(facts.st_mode):
        raise refusal
    if facts.st_size > options.max_media_bytes:
        raise _too_large("The file", options.max_media_bytes)
    return LocalMedia(path, _digest(Path(path), ticket), os.path.relpath(path, root))


def _digest(path: Path, ticket: Ticket) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                ticket.check()
                digest.update(piece)
    except OSError as error:
        raise MediaError(f"The file cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def _without_query(url: str) -> str:
    """A URL as answers name it: queries and fragments may hold secrets."""
    return url.partition("#")[0].partition("?")[0][:500]
