"""Opening a file with FFmpeg such that nothing but this file is ever read.

The file is opened by Python and handed over as an object: any file name works, and
FFmpeg's protocols are switched off, so a playlist dressed up as a video cannot make it
fetch something from the network or read other files.

FFmpeg does not decode animated WebP. Pillow does, and puts every frame together from the parts that
changed: written without loss into another container, it is read like any other video, each frame
for the time that the file gives it and the animation once, whatever number of loops it asks for.
"""

from __future__ import annotations

import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

import av
import numpy as np
from av.container import InputContainer

from seats_cli.errors import MediaError
from seats_cli.media.clip import refuse_index
from seats_cli.media.extent import StrPath, whole_file
from seats_cli.media.limits import bound_allocations, check_decoded_size, check_png

_READ_BYTES = 1 << 18  # each read is a call back into Python: fewer, larger ones
# As options of the container alone: PyAV hands those of streams to FFmpeg as a list with an entry
# for each track of the header, and up to 17.0 frees one for each track there is in the end, which
# crashes on MPEG-PS, whose header has none.
_NO_PROTOCOLS = {"protocol_whitelist": "none"}
_PLAYLISTS = {"hls", "concat", "concatf", "dash", "imf", "sdp", "rtsp"}

# How playlists begin that FFmpeg does not take for one, or not without its protocols.
_LISTS = (b"#EXTM3U", b"<MPD", b"[playlist]", b"<asx", b"<smil", b"ffconcat version")
_HEAD_BYTES = 1024
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://|(data|blob|magnet|urn):", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:www\.[^/]+|(?:[\w-]+\.)+[a-z]{2,}(?::\d+)?/.*)", re.IGNORECASE)

_ANIMATED, _TRANSPARENT = 0x02, 0x10  # among the flags of the VP8X chunk
_TICK = Fraction(1, 1000)
# Browsers take frames of up to 10 ms, which nobody means, for a tenth of a second.
_SHORTEST_MS, _USUAL_MS = 10, 100
_MAX_PIXELS = 1 << 26  # 8,192 x 8,192, as of other videos
_MAX_VIDEO_BYTES = 1 << 30  # what is held in memory


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
    UsageError
        If it is an indexed clip.
    """
    path = local_file(path)
    name = shown(path)
    refuse_index(os.fspath(path))
    _check_regular(path, name)
    bound_allocations()
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
            if _is_list(head):
                raise MediaError(_LIST.format(name))
            file.seek(0)
            check_png(file, name)
            whole = whole_file(path, file)
            if _is_animated(head):
                whole = _animation(path, name)
            with _demuxer(whole, name) as container:
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
            container_options=_NO_PROTOCOLS,
            metadata_errors="replace",
            buffer_size=_READ_BYTES,
        )
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise MediaError(
            f"{name} is not a video or sound file that can be read, or its table of contents "
            f"(moov) is missing because it was cut off ({_reason(error)})."
        ) from error
    if set(container.format.name.split(",")) & _PLAYLISTS:
        container.close()
        raise MediaError(_LIST.format(name))
    if container.format.name == "image2":  # by the name's ending alone, and to read by a pattern
        container.close()
        raise MediaError(f"{name} is not a picture that can be read; save it as PNG or JPEG.")
    return container


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.MemoryError):
        return "it claims to need more memory than there is"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:].rstrip(".")


def is_animated_webp(path: StrPath) -> bool:
    """Whether the file is an animated WebP, which is handed over as a video."""
    with open(path, "rb") as file:
        return _is_animated(file.read(_HEAD_BYTES))


def _is_animated(head: bytes) -> bool:
    """Whether a file that begins so is an animated WebP."""
    named = head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X"
    return named and len(head) > 20 and bool(head[20] & _ANIMATED)


def _animation(path: StrPath, name: str) -> BinaryIO:
    """The animation as a QuickTime file of PNGs.

    Parameters
    ----------
    path : str or path-like
        An animated WebP.
    name : str
        Its name in messages.

    Raises
    ------
    MediaError
        If nothing in it can be decoded, or it would unpack to more than any real one does.
    """
    status = os.stat(path)
    return BytesIO(_video(os.fspath(path), name, status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)  # every pass over the packets opens the file anew
def _video(path: str, name: str, size: int, changed_ns: int) -> bytes:
    from PIL import Image  # only animations need it

    too_large = f"{name} is too large an animation; make a video of it."
    if size > _MAX_VIDEO_BYTES:
        raise MediaError(too_large)
    # 1. The parts that are whole: Pillow refuses a file that ends early.
    with open(path, "rb") as file:
        data = _whole_chunks(file.read())
    written = BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures: the bound is below
            image = Image.open(BytesIO(data), formats=["WEBP"])
        with image:
            count = getattr(image, "n_frames", 1)
            if image.width * image.height > _MAX_PIXELS:
                raise MediaError(
                    f"The picture claims {image.width} x {image.height} pixels, more than can be "
                    "decoded safely; scale the animation down first."
                )
            check_decoded_size(name, size, count, image.width, image.height)
            # 2. Frame by frame, so that one at a time is in memory.
            with av.open(written, "w", format="mov") as container:
                stream = container.add_stream("png", rate=1000, options={"compression_level": "1"})
                stream.width, stream.height = image.size
                stream.pix_fmt = "rgba"
                stream.codec_context.time_base = _TICK
                at_ms = 0
                for number in range(count):
                    image.seek(number)
                    picture = image.convert("RGBA")
                    length_ms = round(image.info.get("duration", 0))
                    length_ms = length_ms if length_ms > _SHORTEST_MS else _USUAL_MS
                    frame = av.VideoFrame.from_ndarray(np.asarray(picture), stream.pix_fmt)
                    frame.pts, frame.time_base = at_ms, _TICK
                    for packet in stream.encode(frame):
                        packet.duration = length_ms
                        container.mux(packet)
                    at_ms += length_ms
                    if written.tell() > _MAX_VIDEO_BYTES:
                        raise MediaError(too_large)
                container.mux(stream.encode(None))
    except (OSError, EOFError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"The animation in {name} cannot be decoded ({error}).") from error
    return written.getvalue()


def _whole_chunks(data: bytes) -> bytes:
    """The RIFF file up to the last chunk that is complete, with the size to match."""
    end = 12
    while end + 8 <= len(data):
        size = int.from_bytes(data[end + 4 : end + 8], "little")
        after = end + 8 + size + size % 2
        if after > len(data):
            break
        end = after
    # Without the flag for transparency, what no frame covers would be black: browsers show what is
    # behind it.
    flags = bytes([data[20] | _TRANSPARENT])
    return data[:4] + (end - 8).to_bytes(4, "little") + data[8:20] + flags + data[21:end]
