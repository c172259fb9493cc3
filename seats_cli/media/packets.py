"""Walking through the packets of one stream, over damage and to a place in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

StreamT = TypeVar("StreamT", AudioStream, VideoStream)

_MAX_READ_ERRORS = 100


def select_only(container: InputContainer, stream: StreamT) -> None:
    """Let the demuxer pass over all other streams (older PyAV cannot: slower, no more)."""
    discard = getattr(av.stream, "Discard", None)
    for other in container.streams:
        if discard is not None and other.index != stream.index:
            other.discard = discard.all


def packets(
    container: InputContainer, stream: StreamT, on_error: Callable[[], None]
) -> Iterator[Packet[StreamT]]:
    """Packets of a stream to the end of the file, the last one empty to flush the decoder.

    Parameters
    ----------
    container, stream
        An open file and one of its streams.
    on_error : callable
        Called for every read error; reading goes on behind it, up to a limit.
    """
    errors = 0
    while errors < _MAX_READ_ERRORS:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            # PyAV fails on packets of streams that turn up after opening (MPEG-TS); each
            # failure has passed over such a packet.
            continue
        except av.error.FFmpegError:
            errors += 1
            on_error()


def stamp(packet: Packet[AudioStream] | Packet[VideoStream]) -> int | None:
    """The packet's presentation time in ticks, else its decoding time, else None."""
    return packet.pts if packet.pts is not None else packet.dts


def seek_before(container: InputContainer, stream: StreamT, ticks: int) -> bool:
    """Go to the last keyframe at or before a time stamp.

    Some containers land late (no index, or an index by decoding time), so the landing is
    checked and repeated from further back.

    Returns
    -------
    bool
        False if the file cannot be searched. Reading then goes on from where it was, or
        from the start, either of which is before the time stamp.

    Raises
    ------
    av.error.FFmpegError
        If the container moved and can neither find the place nor go back.
    """
    time_base = stream.time_base or Fraction(1, 1000)
    moved = False
    for back_s in (0, 10, 60):
        there = ticks - int(back_s / time_base)
        try:
            container.seek(there, stream=stream)
            moved = True
            landed = next((p for p in packets(container, stream, ignore_errors) if p.size), None)
            when = None if landed is None else stamp(landed)
            if when is not None and when <= ticks:
                container.seek(there, stream=stream)
                return True
        except av.error.FFmpegError:
            continue
    if moved:
        container.seek(container.start_time or 0)
    return False


def ignore_errors() -> None:
    """For `packets` where an error does not matter: decoding meets it again."""
