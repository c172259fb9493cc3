"""Walking over packets without decoding: one stream of a file, seeking in it, scanning it.

A scan gives the time stamps of all frames before any is decoded, so that the frames to sample are
known in advance. Bounds on packets and errors keep crafted files from being walked forever.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.media.container import StrPath, open_media

StreamT = TypeVar("StreamT", AudioStream, VideoStream)

_MAX_READ_ERRORS = 100
MAX_PACKETS = 20_000_000  # 46 hours at 120 frames per second
_REORDER_S = 2.0  # packets come in decoding order, this far from the order of display at most


@contextmanager
def open_stream(
    path: StrPath, index: int, kind: type[StreamT]
) -> Iterator[tuple[InputContainer, StreamT]]:
    """Open a file to read one of its streams, as `open_media`.

    Yields
    ------
    (InputContainer, AudioStream or VideoStream)
        At the beginning; the demuxer passes over all other streams.
    """
    with open_media(path) as container:
        stream = container.streams[index]
        assert isinstance(stream, kind)
        discard = getattr(av.stream, "Discard", None)  # older PyAV cannot: slower, no more
        for other in container.streams:
            if discard is not None and other.index != index:
                other.discard = discard.all
        yield container, stream


def packets(
    container: InputContainer, stream: StreamT, on_error: Callable[[], None] | None = None
) -> Iterator[Packet[StreamT]]:
    """Packets of a stream to the end of the file, the last one empty to flush the decoder.

    Parameters
    ----------
    container, stream
        An open file and one of its streams.
    on_error : callable, optional
        Called for every read error; reading continues after it, up to a limit. A scan need not
        count them, because decoding meets them again.
    """
    errors = 0
    while errors < _MAX_READ_ERRORS:
        try:
            yield from container.demux(stream)
            return
        except IndexError:
            # PyAV fails on packets of streams that turn up after opening (MPEG-TS); each
            # failure has consumed such a packet.
            continue
        except av.error.FFmpegError:
            errors += 1
            if on_error is not None:
                on_error()


def stamp(packet: Packet[AudioStream] | Packet[VideoStream]) -> int | None:
    """The packet's presentation time in ticks, else its decoding time, else None."""
    return packet.pts if packet.pts is not None else packet.dts


def seek_before(container: InputContainer, stream: StreamT, ticks: int) -> bool:
    """Go to the last keyframe at or before a time stamp.

    Some containers land too late (no index, or an index by decoding time), so where the seek
    has landed is checked, and the seek repeated from further back.

    Returns
    -------
    bool
        False if the file cannot be searched. Reading then continues from where it was, or
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
            landed = next((p for p in packets(container, stream) if p.size), None)
            when = None if landed is None else stamp(landed)
            if when is not None and when <= ticks:
                container.seek(there, stream=stream)
                return True
        except av.error.FFmpegError:
            continue
    if moved:
        container.seek(container.start_time or 0)
    return False


@dataclass(frozen=True, eq=False)
class PacketTable:
    """When each frame of a stream is shown, in ticks of `time_base`."""

    # int64 array, shape (N,): strictly increasing time stamps of the frames.
    pts: npt.NDArray[np.int64]
    # int64 array, shape (K,): the time stamps among them at which decoding can start, increasing.
    keyframes: npt.NDArray[np.int64]
    last_duration: int  # ticks the last frame stays, 0 if unknown
    time_base: Fraction  # seconds per tick
    # The file has no time stamps: `pts` was made from the frame rate, and frame number k belongs to
    # `pts[k]`.
    counted: bool = False
    # The table begins at a keyframe inside the file, because only a range was requested.
    partial: bool = False
    discarded: int = 0  # packets that an edit list keeps from being shown

    def seconds(self) -> npt.NDArray[np.float64]:
        """`pts` in seconds, float64, shape (N,)."""
        return self.pts.astype(np.float64) * float(self.time_base)


def scan_packets(
    container: InputContainer,
    stream: VideoStream,
    start_s: float | None = None,
    end_s: float | None = None,
) -> PacketTable:
    """List the frames of a video stream without decoding them.

    Parameters
    ----------
    container, stream
        An open file and one of its video streams; reading starts at the beginning.
    start_s, end_s : float or None
        Range of time stamps in seconds. The table also holds what is needed to decode and show
        the frame at `start_s`, and may hold more.

    Returns
    -------
    PacketTable
        Possibly empty.

    Raises
    ------
    MediaError
        If the file has more packets than any real video.
    """
    # 1. Begin at the keyframe from which the frame at `start_s` is decoded.
    time_base = stream.time_base or Fraction(1, 1000)
    partial = start_s is not None and seek_before(container, stream, int(start_s / time_base))
    # 2. Collect stamps to the end of the range, and beyond it as far as frames may be reordered.
    stop = None if end_s is None else int((end_s + _REORDER_S) / time_base)
    times, keys = array("q"), array("q")
    last_pts, last_duration, untimed, discarded = None, 0, 0, 0
    for packet in packets(container, stream):
        if packet.size == 0:
            continue
        if packet.is_discard:
            discarded += 1
            continue
        when = stamp(packet)
        if when is None:
            untimed += 1
            continue
        times.append(when)
        if packet.is_keyframe:
            keys.append(when)
        if last_pts is None or when >= last_pts:
            last_pts, last_duration = when, packet.duration or 0
        if len(times) + untimed > MAX_PACKETS:
            raise MediaError(f"The file has over {MAX_PACKETS:,} pictures; cut it first.")
        if stop is not None and (packet.dts if packet.dts is not None else when) > stop:
            break
    # 3. Sort them; a stream that has hardly any stamps gets them from its frame rate.
    pts = np.unique(np.array(times, dtype=np.int64))
    if untimed > len(pts):
        return _counted(stream, untimed + len(times), time_base)
    keyframes = np.unique(np.array(keys, dtype=np.int64))
    return PacketTable(
        pts, keyframes, max(last_duration, 0), time_base, partial=partial, discarded=discarded
    )


def packet_times(container: InputContainer, stream: AudioStream) -> npt.NDArray[np.float64]:
    """Time stamps of all packets of a sound track in seconds, float64, shape (n,)."""
    times = array("q")
    for packet in packets(container, stream):
        when = stamp(packet)
        if when is not None and packet.size and len(times) < MAX_PACKETS:
            times.append(when)
    return np.array(times, np.float64) * float(stream.time_base or 0)


def _counted(stream: VideoStream, count: int, time_base: Fraction) -> PacketTable:
    """A table for a stream without time stamps (raw H.264): frames at its nominal rate."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    step = max(1, round(1 / (rate * time_base)))
    pts = np.arange(count, dtype=np.int64) * step
    return PacketTable(pts, pts[:1], step, time_base, counted=True)
