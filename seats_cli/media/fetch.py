"""Bringing a pipe or a URL into a local file."""

from __future__ import annotations

import errno
import http.client
from collections.abc import Callable
from http import HTTPStatus
from typing import IO, Protocol
from urllib.parse import urljoin

from seats_cli.errors import MediaError
from seats_cli.media.http import Exchange, Patience, printable, request

# 8 hours of 1080p from a phone or camera are more, but so is a temporary folder's room.
MAX_BYTES = 4 << 30
_BLOCK = 1 << 20

Progress = Callable[[int, int | None], None]  # bytes so far, bytes expected


class Readable(Protocol):
    """The part of a binary file that is needed."""

    def read1(self, size: int, /) -> bytes:
        """What is there, at most `size` bytes; nothing at the end."""


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
    MediaError
        If there is more than `limit` allows or the disk is full.
    OSError
        If reading fails.
    """
    if expected is not None and expected > limit:
        raise MediaError(_too_large(what, limit))
    done = 0
    while block := source.read1(_BLOCK):
        done += len(block)
        if done > limit:
            raise MediaError(_too_large(what, limit))
        _write(target, block)
        if on_progress is not None:
            on_progress(done, expected)
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


def _too_large(what: str, limit: int) -> str:
    size = f"{limit / (1 << 30):.3g} GiB" if limit >= 1 << 20 else f"{limit} bytes"
    return f"{what} is larger than {size}; save it to a file and name that instead."


_REDIRECTS = 5
_ELSEWHERE = frozenset({301, 302, 303, 307, 308})


def is_url(text: str) -> bool:
    """Whether this is an http(s) URL and not the name of a file."""
    return text[:8].lower().startswith(("http://", "https://"))


def download(
    url: str,
    target: IO[bytes],
    *,
    allow_local: bool = False,
    limit: int = MAX_BYTES,
    patience: Patience | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Fetch a file.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``; every redirect is checked like the URL itself.
    target : binary file
        Where the bytes go.
    allow_local : bool
        Also fetch from this machine and its own network.
    limit : int
        Bytes at most.
    patience : Patience, optional
        Other time-outs than the usual ones.
    on_progress : callable or None
        Called with the bytes so far and the bytes expected (None if unknown).

    Raises
    ------
    MediaError
        For whatever goes wrong, in one sentence.
    """
    patience = patience or Patience()
    for _ in range(_REDIRECTS + 1):
        with request(url, allow_local=allow_local, patience=patience) as exchange:
            if exchange.response.status not in _ELSEWHERE:
                _receive(exchange, target, limit, on_progress)
                return
            url = _next(url, exchange)
    raise MediaError(f"The URL leads elsewhere more than {_REDIRECTS} times; check it.")


def _next(url: str, exchange: Exchange) -> str:
    location = exchange.response.getheader("Location")
    try:
        if location:
            return urljoin(url, location)
    except ValueError:
        pass
    raise MediaError(f"{exchange.host} leads elsewhere without saying where; check the URL.")


def _receive(
    exchange: Exchange, target: IO[bytes], limit: int, on_progress: Progress | None
) -> None:
    expected = _check_head(exchange.response, exchange.host)
    with exchange.reading():
        try:
            got = copy_bounded(
                exchange.response,
                target,
                "The file behind the URL",
                limit=limit,
                expected=expected,
                on_progress=on_progress,
            )
        except http.client.IncompleteRead:
            raise MediaError(f"{exchange.host} broke off before the end; try again.") from None
    if expected is not None and got < expected:
        raise MediaError(
            f"{exchange.host} broke off after {got:,} of {expected:,} bytes; try again."
        )


def _check_head(response: http.client.HTTPResponse, host: str) -> int | None:
    """The size announced, after refusing what is no file."""
    if response.status != HTTPStatus.OK:
        raise MediaError(f"{host} answers {_status(response.status)}; check the URL.")
    kind = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise MediaError(
            "The URL is a web page, not a video file; give the file's own address, or "
            "fetch the video with a tool made for that page."
        )
    coding = (response.getheader("Content-Encoding") or "identity").strip().lower()
    if coding != "identity":
        raise MediaError(f"{host} sends the file packed ({printable(coding)}); fetch it apart.")
    # http.client has parsed it already, and knows None for chunks and for nonsense.
    return response.length


def _status(code: int) -> str:
    """The code with its usual words; not the server's, which may be anything."""
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)
