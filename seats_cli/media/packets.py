"""Walking over packets without decoding: streams of a file, listing them, seeking in them.

A list gives the time stamps of all frames before any is decoded, so that the frames to sample are
known in advance. Bounds on packets and errors keep crafted files from being walked forever.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.media.container import open_media
from seats_cli.media.extent import StrPath

StreamT = TypeVar("StreamT", AudioStream, VideoStream)
AnyStream = AudioStream | VideoStream
Integers = npt.NDArray[np.int64]

_MAX_READ_ERRORS = 100
_INDEX_SAMPLES = 2_000
MAX_PACKETS = 20_000_000  # 46 hours at 120 frames per second
REORDER_S = 2.0  # packets come in decoding order, this far from the order of display at most
NO_STAMP = -(1 << 63)  # FFmpeg's own value for "unknown"
# Packets looked at behind a landing for the keyframe: a minute of picture, with all its sound.
_MAX_LOOK = 6_000
# FFmpeg's marks on its formats (libavformat/avformat.h).
NO_STAMPS_AT_ALL, GENERIC_INDEX, CLOCK_MAY_LEAP, NO_BYTE_SEEK = 0x80, 0x100, 0x200, 0x8000


@contextmanager
def open_streams(path: StrPath, indices: Sequence[int]) -> Iterator[InputContainer]:
    """Open a file to read some of its streams, as `open_media`; others are passed over."""
    with open_media(path) as container:
        discard = getattr(av.stream, "Discard", None)  # older PyAV cannot: slower, no more
        for stream in container.streams:
            if discard is not None and stream.index not in indices:
                stream.discard = discard.all
        yield container


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
    with open_streams(path, [index]) as container:
        stream = container.streams[index]
        assert isinstance(stream, kind)
        yield container, stream


def packets(
    container: InputContainer,
    stream: StreamT | Sequence[AnyStream],
    on_error: Callable[[], None] | None = None,
    on_late_track: Callable[[], None] | None = None,
) -> Iterator[Packet[StreamT]]:
    """Packets of one or several streams to the end of the file, the last of each empty.

    Parameters
    ----------
    container, stream
        An open file and one or some of its streams.
    on_error : callable, optional
        Called for every read error; reading continues after it, up to a limit. A scan need not
        count them, because decoding meets them again.
    on_late_track : callable, optional
        Called for every packet of a track that turns up after opening, which cannot be read.
    """
    errors = 0
    while errors < _MAX_READ_ERRORS:
        try:
            yield from container.demux(stream)  # type: ignore[misc]
            return
        except IndexError:
            # PyAV fails on packets of streams that turn up after opening (MPEG-TS); each
            # failure has consumed such a packet.
            if on_late_track is not None:
                on_late_track()
        except av.error.FFmpegError:
            errors += 1
            if on_error is not None:
                on_error()


def stamp(packet: Packet[Any]) -> int | None:
    """The packet's presentation time in ticks, else its decoding time, else None."""
    return packet.pts if packet.pts is not None else packet.dts


@dataclass(frozen=True, eq=False)
class PacketList:
    """The packets of one stream in the order of the file; every array has shape (N,)."""

    time_base: Fraction  # seconds per tick
    order: Integers  # number of each among the packets of all streams that were listed
    pts: Integers  # ticks at which it is shown, or else decoded; `NO_STAMP` if unknown
    dts: Integers  # ticks at which it is decoded; `NO_STAMP` if unknown
    duration: Integers  # ticks it stays, 0 if unknown
    pos: Integers  # its first byte in the file, -1 if unknown
    key: npt.NDArray[np.bool_]  # whether decoding can start there, as the container says
    discard: npt.NDArray[np.bool_]  # whether an edit list keeps it from being shown

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def timed(self) -> Integers:
        """Numbers of the packets that have a time stamp, shape (n,)."""
        return np.flatnonzero(self.pts != NO_STAMP)


def index_reaches(
    container: InputContainer, stream: AnyStream, time_s: float, leap_s: float
) -> bool:
    """Whether the container has an index of its own that reaches to a time stamp.

    An index with steps of `leap_s` or more is not trusted.
    """
    base = stream.time_base
    if base is None or container.format.flags & (NO_STAMPS_AT_ALL | GENERIC_INDEX | CLOCK_MAY_LEAP):
        return False
    # FFmpeg reads the index of Matroska when it is first needed.
    with suppress(av.error.FFmpegError):
        container.seek(int(time_s / base), stream=stream)
    entries = getattr(stream, "index_entries", ())
    if len(entries) < 2:
        return False
    picked = np.unique(np.linspace(0, len(entries) - 1, _INDEX_SAMPLES).astype(int)).tolist()
    times = np.array([entries[k].timestamp for k in picked], np.float64) * float(base)
    steps = np.diff(times)
    return bool(steps.min() > 0 and steps.max() < leap_s and time_s <= times[-1] + steps.max())


def list_packets(
    container: InputContainer,
    streams: Sequence[AnyStream],
    end_s: float | None = None,
    on_late_track: Callable[[], None] | None = None,
) -> list[PacketList]:
    """List packets from where the container is, without decoding them.

    Parameters
    ----------
    container, streams
        An open file and some of its streams.
    end_s : float or None
        Time stamp in seconds at which a single stream's list may stop; None for the file's end.
    on_late_track : callable, optional
        As for `packets`.

    Raises
    ------
    MediaError
        If the file has more packets than any real video.
    """
    columns = {s.index: tuple(array(kind) for kind in "qqqqqbb") for s in streams}
    stop = None
    if end_s is not None:
        stop = int((end_s + REORDER_S) / (streams[0].time_base or Fraction(1, 1000)))
    count = 0
    wanted = [*streams, *_late_tracks(container)]
    for packet in packets(container, wanted, on_late_track=on_late_track):
        if packet.size == 0:
            continue
        if packet.stream_index not in columns:
            if on_late_track is not None:
                on_late_track()
            continue
        order, pts, dts, duration, pos, key, discard = columns[packet.stream_index]
        when, decoded = stamp(packet), packet.dts
        order.append(count)
        pts.append(NO_STAMP if when is None else when)
        dts.append(NO_STAMP if decoded is None else decoded)
        duration.append(max(packet.duration or 0, 0))
        pos.append(-1 if packet.pos is None else packet.pos)
        key.append(packet.is_keyframe)
        discard.append(packet.is_discard)
        count += 1
        if count > MAX_PACKETS:
            raise MediaError(f"The file has over {MAX_PACKETS:,} packets; cut it first.")
        last = decoded if decoded is not None else when
        if stop is not None and last is not None and last > stop:
            break
    return [_listed(s, columns[s.index]) for s in streams]


def _late_tracks(container: InputContainer) -> list[AnyStream]:
    """Tracks of which FFmpeg has seen no more than the announcement, at the end of the file."""
    late: list[AnyStream] = []
    for stream in container.streams:
        if getattr(stream, "codec_context", None) is None:  # no decoder, which is told elsewhere
            continue
        if isinstance(stream, AudioStream):
            late += [] if stream.rate else [stream]
        elif isinstance(stream, VideoStream):
            late += [] if stream.width else [stream]
    for stream in late:
        if hasattr(av.stream, "Discard"):
            stream.discard = av.stream.Discard.default
    return late


def _listed(stream: AnyStream, columns: Sequence[array[int]]) -> PacketList:
    order, pts, dts, duration, pos = (np.array(column, np.int64) for column in columns[:5])
    key, discard = (np.array(column, np.bool_) for column in columns[5:])
    time_base = stream.time_base or Fraction(1, 1000)
    return PacketList(time_base, order, pts, dts, duration, pos, key, discard)


@dataclass(frozen=True, eq=False)
class KeyFrames:
    """Packets at which decoding can start, in the order of display; arrays have shape (K,)."""

    pts: Integers  # ticks on the joined timeline, strictly increasing
    stated: Integers  # ticks in the file
    pos: Integers  # first byte in the file, -1 if unknown
    number: Integers  # which packet of the stream it is, from 0 at the start of the file

    def __len__(self) -> int:
        return len(self.pts)

    def before(self, ticks: int) -> int:
        """Index of the last one at or before a time, or 0."""
        return max(int(np.searchsorted(self.pts, ticks, side="right")) - 1, 0)

    def find(self, packet: Packet[VideoStream], last: int) -> int | None:
        """The index of a packet, if it is one of those up to index `last`."""
        when = stamp(packet)
        for k in np.flatnonzero(self.stated[: last + 1] == (NO_STAMP if when is None else when)):
            if packet.pos is None or self.pos[k] < 0 or packet.pos == self.pos[k]:
                return int(k)
        return None


NO_KEYS = KeyFrames(*(np.empty(0, np.int64) for _ in range(4)))


@dataclass(frozen=True, eq=False)
class PacketTable:
    """When each frame of a stream is shown, in ticks of `time_base` on the joined timeline."""

    # int64 array, shape (N,): strictly increasing time stamps of the frames.
    pts: Integers
    keys: KeyFrames  # those among them at which decoding can start
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


def counted_table(stream: VideoStream, durations: Integers) -> PacketTable:
    """A table for a stream without time stamps (raw H.264): frames one after the other.

    Parameters
    ----------
    stream : VideoStream
        The stream; its rate is FFmpeg's guess.
    durations : int64 array, shape (N,)
        Ticks of each frame, from the rate that the codec itself states; 0 if it does not.
    """
    time_base = stream.time_base or Fraction(1, 1000)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    step = int(np.median(durations)) if len(durations) else 0
    step = max(1, step or round(1 / (rate * time_base)))
    pts = np.arange(len(durations), dtype=np.int64) * step
    return PacketTable(pts, NO_KEYS, step, time_base, counted=True)


def seek_before(container: InputContainer, stream: StreamT, ticks: int) -> bool:
    """Go to the last keyframe at or before a time stamp.

    Some containers land too late (no index, or an index by decoding time), so where the seek
    has landed is checked, and the seek repeated from further back.

    Returns
    -------
    bool
        False if the file cannot be searched. Where reading would continue is then unknown: open
        the file anew.
    """
    time_base = stream.time_base or Fraction(1, 1000)
    for back_s in (0, 10, 60):
        there = ticks - int(back_s / time_base)
        try:
            container.seek(there, stream=stream)
            landed = _next_key(container, stream)
            when = None if landed is None else stamp(landed)
            if when is not None and when <= ticks:
                container.seek(there, stream=stream)
                return True
        except av.error.FFmpegError:
            continue
    return False


def land(
    container: InputContainer, stream: VideoStream, keys: KeyFrames, wanted: int
) -> int | None:
    """Seek to a known keyframe, or to one before it, and make sure of the place.

    Only what comes behind the landing tells where it is: many containers have no index, or one
    that is wrong, and time stamps may stand in a file more than once.

    Parameters
    ----------
    container, stream
        An open file and one of its video streams.
    keys : KeyFrames
        The stream's keyframes.
    wanted : int
        The index among them to go to.

    Returns
    -------
    int or None
        The index of the next keyframe to come. None if the file cannot be searched; where
        reading would continue is then unknown: open the file anew.
    """
    flags = container.format.flags
    by_byte = flags & CLOCK_MAY_LEAP and not flags & NO_BYTE_SEEK and keys.pos[wanted] >= 0
    ticks = int(keys.stated[wanted])
    second = int(1 / (stream.time_base or Fraction(1, 1000)))
    places = [ticks, ticks - 10 * second, ticks - 60 * second]
    if by_byte:
        places = [int(keys.pos[wanted])]
    for place in places:
        try:
            _seek(container, stream, place, bool(by_byte))
            landed = _next_key(container, stream)
            found = None if landed is None else keys.find(landed, wanted)
            if found is not None:
                _seek(container, stream, place, bool(by_byte))
                return found
        except av.error.FFmpegError:
            continue
    return None


def _seek(container: InputContainer, stream: VideoStream, place: int, by_byte: bool) -> None:
    if by_byte:
        container.seek(place, unsupported_byte_offset=True)
    else:
        container.seek(place, stream=stream)


def _next_key(container: InputContainer, stream: StreamT) -> Packet[StreamT] | None:
    """The next keyframe, if it comes soon."""
    for count, packet in enumerate(packets(container, stream)):
        if packet.size and packet.is_keyframe:
            return packet
        if count > _MAX_LOOK:
            break
    return None
