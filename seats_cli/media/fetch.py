"""Bringing what comes from a pipe or a URL into a local file: bounded in bytes and in time."""

from __future__ import annotations

import errno
import http.client
from collections.abc import Callable
from http import HTTPStatus
from typing import IO, Protocol
from urllib.parse import urljoin

from seats_cli.errors import MediaError, TooLargeError
from seats_cli.media.http import Response, Timeouts, printable, request

# 8 hours of 1080p from a phone or camera are more, but so is a temporary folder's room.
MAX_BYTES = 4 << 30
_BLOCK = 1 << 20
_REDIRECTS = 5
_ELSEWHERE = frozenset({301, 302, 303, 307, 308})

Progress = Callable[[int, int | None], None]  # bytes so far, bytes expected


class Readable(Protocol):
    """The part of a binary file that is needed."""

    def read1(self, size: int, /) -> bytes:
        """At most `size` bytes, as soon as there are any; nothing at the end."""


def copy_bounded(
    source: Readable,
    target: IO[bytes],
    what: str,
    *,
    limit: int = MAX_BYTES,
    expected: int | None = None,
    on_progress: Progress | None = None,
) -> int:
    """Copy a stream to its end.

    Parameters
    ----------
    source, target
        Binary files.
    what : str
        The source's name in messages.
    limit : int
        Bytes at most.
    expected : int or None
        Bytes that will come, if known.
    on_progress : callable or None
        Called with the bytes so far and those expected.

    Returns
    -------
    int
        Bytes copied.

    Raises
    ------
    TooLargeError
        If there is more than `limit` allows.
    MediaError
        If the disk is full.
    OSError
        If reading fails.
    """
    done, size = 0, expected or 0
    while size <= limit and (block := source.read1(_BLOCK)):
        done += len(block)
        size = max(size, done)
        if size <= limit:
            _write(target, block)
            if on_progress is not None:
                on_progress(done, expected)
    if size > limit:
        bound = f"{limit / (1 << 30):.3g} GiB" if limit >= 1 << 20 else f"{limit} bytes"
        raise TooLargeError(
            f"{what} is larger than {bound}; save it to a file and name that instead."
        )
    return done


def _write(target: IO[bytes], block: bytes) -> None:
    try:
        target.write(block)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise MediaError(
            "The folder for temporary files is full; free some room or set TMPDIR to another."
        ) from error


def is_url(text: str) -> bool:
    """Whether this is an http(s) URL and not the name of a file."""
    return text[:8].lower().startswith(("http://", "https://"))


def download(
    url: str,
    target: IO[bytes],
    *,
    allow_local_urls: bool = False,
    limit: int = MAX_BYTES,
    timeouts: Timeouts | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Fetch a file.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``; every redirect is checked like the URL itself.
    target : binary file
        Where the bytes go.
    allow_local_urls : bool
        Also fetch from this machine and its own network.
    limit : int
        Bytes at most.
    timeouts : Timeouts, optional
        Other than the usual ones.
    on_progress : callable or None
        Called with the bytes so far and the bytes expected (None if unknown).

    Raises
    ------
    TooLargeError
        If there is more than `limit` allows.
    MediaError
        For whatever else goes wrong, in one sentence.
    """
    for _ in range(_REDIRECTS + 1):
        with request(
            url, allow_local_urls=allow_local_urls, timeouts=timeouts or Timeouts()
        ) as response:
            if response.head.status not in _ELSEWHERE:
                _receive(response, target, limit, on_progress)
                return
            url = _redirected(url, response)
    raise MediaError(f"The URL is redirected more than {_REDIRECTS} times; check it.")


def _redirected(url: str, response: Response) -> str:
    location = response.head.getheader("Location")
    try:
        if location:
            return urljoin(url, location)
    except ValueError:
        pass
    raise MediaError(f"{response.host} redirects without saying where; check the URL.")


def _receive(
    response: Response, target: IO[bytes], limit: int, on_progress: Progress | None
) -> None:
    host, body = response.host, response.head
    _check_head(body, host)
    expected = body.length  # None for chunks and for nonsense
    what = "The file behind the URL"
    with response.reading():
        try:
            got = copy_bounded(
                body, target, what, limit=limit, expected=expected, on_progress=on_progress
            )
        except http.client.IncompleteRead:
            raise MediaError(f"{host} broke off before the end; try again.") from None
    if expected is not None and got < expected:
        raise MediaError(f"{host} broke off after {got:,} of {expected:,} bytes; try again.")


def _check_head(head: http.client.HTTPResponse, host: str) -> None:
    """Refuse what is not the bytes of a file."""
    if head.status != HTTPStatus.OK:
        known = head.status in set(HTTPStatus)  # the server's own words may be anything
        phrase = f" {HTTPStatus(head.status).phrase}" if known else ""
        raise MediaError(f"{host} answers {head.status}{phrase}; check the URL.")
    kind = (head.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise MediaError(
            "The URL is a web page, not a video file; give the file's own address, or "
            "fetch the video with a tool made for that page."
        )
    coding = (head.getheader("Content-Encoding") or "identity").strip().lower()
    if coding != "identity":
        raise MediaError(
            f"{host} sends the file compressed ({printable(coding)}); download it yourself and "
            "pass the file."
        )
