"""Opening a file with FFmpeg such that nothing but this file is ever read.

The file is opened by Python and handed over as an object: any file name works, and
FFmpeg's protocols are switched off, so a playlist dressed up as a video cannot make it
fetch something from the network or read other files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer

from seats_cli.errors import MediaError
from seats_cli.media.limits import bound_allocations, check_png

_READ_BYTES = 1 << 18  # each read is a call back into Python: fewer, larger ones
_NO_PROTOCOLS = {"protocol_whitelist": "none"}
_PLAYLISTS = {"hls", "concat", "concatf", "dash", "imf", "sdp", "rtsp", "image2"}

StrPath = str | os.PathLike[str]


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
    name = shown(path)
    _check_regular(path, name)
    bound_allocations()
    try:
        with open(path, "rb") as file:
            check_png(file, name)
            with _demuxer(file, name) as container:
                yield container
    except av.error.FFmpegError as error:
        raise MediaError(f"{name} could not be read to the end: {_reason(error)}.") from error
    except PermissionError as error:
        raise MediaError(f"{name} may not be read; check its permissions.") from error
    except OSError as error:
        raise MediaError(f"{name} could not be read: {error.strerror or error}.") from error


def shown(path: StrPath) -> str:
    """The file's name as it appears in messages: without its folder, printable, short."""
    name = Path(path).name or str(path)
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return name if len(name) <= 80 else f"{name[:50]}…{name[-25:]}"


def _check_regular(path: StrPath, name: str) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise MediaError(f"There is no file {name}; check the path.") from None
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
        raise MediaError(f"{name} is a playlist, not a video; name the media file itself.")
    return container


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.MemoryError):
        return "it claims to need more memory than there is"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")
