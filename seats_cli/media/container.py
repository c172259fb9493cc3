"""Opening a file with FFmpeg such that nothing but this file is ever read.

The file is opened by Python and handed over as an object: any file name works, and
FFmpeg's protocols are switched off, so a playlist dressed up as a video cannot make it
fetch something from the network or read other files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import av
from av.container import InputContainer

from seats_cli.errors import MediaError
from seats_cli.media.extent import StrPath, whole_file
from seats_cli.media.limits import bound_allocations, check_png

_READ_BYTES = 1 << 18  # each read is a call back into Python: fewer, larger ones
_NO_PROTOCOLS = {"protocol_whitelist": "none"}
_PLAYLISTS = {"hls", "concat", "concatf", "dash", "imf", "sdp", "rtsp", "image2"}

# How playlists begin that FFmpeg does not take for one, or not without its protocols.
_LISTS = (b"#EXTM3U", b"<MPD", b"[playlist]", b"<asx", b"<smil", b"ffconcat version")
_HEAD_BYTES = 1024
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://|(data|blob|magnet|urn):", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:www\.[^/]+|(?:[\w-]+\.)+[a-z]{2,}(?::\d+)?/.*)", re.IGNORECASE)


@contextmanager
def open_media(path: StrPath) -> Iterator[InputContainer]:
    """Open a media file for reading; every failure inside becomes a `MediaError`.

    Parameters
    ----------
    path : str or path-like
        A regular file on this machine (links are followed).

    Yields
    ------
    av.container.InputContainer
        Open for the duration of the context.

    Raises
    ------
    MediaError
        If the file is missing, not a regular file, empty, not permitted, or not media; also if
        FFmpeg fails inside the context.
    """
    path = local_file(path)
    name = shown(path)
    _check_regular(path, name)
    bound_allocations()
    try:
        with open(path, "rb") as file:
            if _is_list(file.read(_HEAD_BYTES)):
                raise MediaError(_LIST.format(name))
            file.seek(0)
            check_png(file, name)
            with _demuxer(whole_file(path, file), name) as container:
                yield container
    except av.error.FFmpegError as error:
        raise MediaError(f"{name} could not be read to the end: {_reason(error)}.") from error
    except PermissionError as error:
        raise MediaError(f"{name} may not be read; check its permissions.") from error
    except OSError as error:
        raise MediaError(f"{name} could not be read: {error.strerror or error}.") from error


def local_file(name: StrPath) -> StrPath:
    """The file that a `file:` URL names; any other name as it is.

    Raises
    ------
    MediaError
        If the URL names another machine.
    """
    text = os.fspath(name)
    if text[:5].lower() != "file:" or os.path.exists(text):
        return name
    parts = urlsplit(text)
    if parts.netloc.lower() not in ("", "localhost"):
        raise MediaError(f"{text} is on another machine, {parts.netloc}; copy the file here.")
    return url2pathname(parts.path)


def _absent(text: str, name: str) -> str:
    """What to say of a name that no file has."""
    scheme = _SCHEME.match(text)
    if scheme is not None:
        kind = (scheme[1] or scheme[2]).lower()
        if kind in ("http", "https"):
            return f"{name} is a URL, and this reads files: download it and pass the file."
        return f"{kind}: addresses cannot be read; give a file or an http(s) URL."
    if _ADDRESS.fullmatch(text) and not os.path.isdir(text.partition("/")[0]):
        return f"{text[:200]} is no file here; if it is an address, write https://{text[:200]}."
    return f"There is no file {name}; check the path."


def _is_list(head: bytes) -> bool:
    """Whether a file begins as a playlist or a manifest, possibly behind an XML declaration."""
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    xml = begin.startswith((b"<?xml", b"<!--"))
    return begin.startswith(_LISTS) or (xml and any(word in begin for word in _LISTS))


_LIST = "{} is a playlist, which names media files; give the media file itself."


def shown(path: StrPath) -> str:
    """The file's name as it appears in messages: without its folder, printable, short."""
    name = Path(path).name or str(path)
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return name if len(name) <= 80 else f"{name[:50]}…{name[-25:]}"


def _check_regular(path: StrPath, name: str) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise MediaError(_absent(os.fspath(path), name)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{name} could not be found: {reason}.") from error
    if stat.S_ISDIR(status.st_mode):
        raise MediaError(f"{name} is a folder; name one video or sound file.")
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(
            f"{name} is not a regular file; save the video to a file, or pipe it in and name '-'."
        )
    if status.st_size == 0:
        raise MediaError(f"{name} is empty (0 bytes); copy or download it again.")


def _demuxer(file: object, name: str) -> InputContainer:
    try:
        container = av.open(
            file,
            mode="r",
            options=_NO_PROTOCOLS,
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
        )
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise MediaError(
            f"{name} is not a video or sound file that can be read, or its index is missing "
            f"because it was cut off ({_reason(error)})."
        ) from error
    if set(container.format.name.split(",")) & _PLAYLISTS:
        container.close()
        raise MediaError(_LIST.format(name))
    return container


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.MemoryError):
        return "it claims to need more memory than there is"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")
