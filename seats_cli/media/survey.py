"""A look at all packets of a file before any is decoded: its timeline, its frames, its length.

What a header says about length and order is often an estimate or out of date, and recordings that
were strung together have clocks that start again. The packets tell, at a fraction of the cost of
decoding them. Only long files with a trustworthy index are not walked through: there, a range is
looked up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from seats_cli.media.clip import ReadOptions
from seats_cli.media.extent import StrPath, is_strung_together
from seats_cli.media.packets import (
    CLOCK_MAY_LEAP,
    NO_STAMP,
    AnyStream,
    Integers,
    KeyFrames,
    PacketList,
    PacketTable,
    counted_table,
    index_reaches,
    list_packets,
    open_streams,
    seek_before,
)
from seats_cli.media.probe import AudioTrack, MediaSource, VideoTrack
from seats_cli.media.timeline import (
    AS_STATED,
    DEAD_S,
    Timeline,
    Times,
    clock_in_ticks,
    find_gaps,
    find_pauses,
)

# Walking through a file of this size takes a tenth of a second.
_SMALL_BYTES = 32 << 20
# A decoding time that falls by more is a clock that starts again. Without decoding times, frames
# come out of order by as much.
_FALL_S = 0.15
_FALL_OUT_OF_ORDER_S = 1.0
_NEAR = 5  # packets on either side that must agree that the clock has started again
_MAX_PARTS = 10_000  # more restarts are damage
# What belongs together in two streams lies apart in the file by up to so many packets.
_INTERLEAVED = 32
_EDGE = 64  # packets at either end of a part among which its first and last stamp are
_STRAY_S = 1.0


@dataclass(frozen=True, eq=False)
class Survey:
    """What the packets of a file say."""

    timeline: Timeline
    table: PacketTable | None  # the frames of the picture, or of the range; None without a picture
    # Whether the container's index leads to a place in the sound; the picture's landings are
    # checked one by one.
    indexed: bool
    # Seconds on the timeline at which each stream ends, by its index, where all was listed.
    ends_s: dict[int, float] = field(default_factory=dict)
    # The share of packets that belong to tracks that turn up in the middle of the file: they are
    # not read.
    late_share: float = 0.0


def survey(
    path: StrPath,
    source: MediaSource,
    video: VideoTrack | None,
    audio: AudioTrack | None,
    options: ReadOptions,
) -> Survey:
    """List the packets of picture and sound and lay out their timeline.

    Parameters
    ----------
    path, source : str or path-like, MediaSource
        The file and what it says about itself.
    video, audio : VideoTrack or None, AudioTrack or None
        The tracks that share the timeline.
    options : ReadOptions
        The range.

    Raises
    ------
    MediaError
        If the file cannot be read or has more packets than any real video.
    """
    tracks = [track for track in (video, audio) if track is not None]
    if not tracks:
        return Survey(AS_STATED, None, False)
    # 1. A long file with an index that can be trusted: the first track alone, in the range alone.
    track = audio if audio is not None and not options.video else tracks[0]
    latest = max(options.start or 0.0, options.end or 0.0)
    if os.path.getsize(path) > _SMALL_BYTES and latest <= (source.duration_s or 0.0):
        found = _from_index(path, source, track, options)
        if found is not None:
            return found
    # 2. Otherwise both tracks, from the file's first byte to its last.
    status = os.stat(path)
    return _whole(os.fspath(path), status.st_size, status.st_mtime_ns, source, video, audio)


@lru_cache(maxsize=1)  # a command asks for it before a clip is read and when it is
def _whole(
    path: str,
    _size: int,
    _changed_ns: int,
    source: MediaSource,
    video: VideoTrack | None,
    audio: AudioTrack | None,
) -> Survey:
    tracks = [track for track in (video, audio) if track is not None]
    with open_streams(path, [track.index for track in tracks]) as container:
        streams = [_stream(container, track.index) for track in tracks]
        late = 0

        def count_late() -> None:
            nonlocal late
            late += 1

        listings = list_packets(container, streams, on_late_track=count_late)
        may_leap = bool(container.format.flags & CLOCK_MAY_LEAP)
        timeline, ends_s = lay_out(source, streams, listings, may_leap=may_leap)
        table = None
        if video is not None:
            assert isinstance(streams[0], VideoStream)
            table = _table(streams[0], listings[0], timeline)
            if table.counted:
                length = len(table.pts) * table.last_duration * table.time_base
                timeline = Timeline(length_s=float(length))
    return Survey(timeline, table, False, ends_s, late / max(late + sum(map(len, listings)), 1))


def forget_survey() -> None:
    """Let the next survey of the same file list its packets again, where reading is measured."""
    _whole.cache_clear()


def _stream(container: InputContainer, index: int) -> AnyStream:
    stream = container.streams[index]
    assert isinstance(stream, AudioStream | VideoStream)
    return stream


def _from_index(
    path: StrPath, source: MediaSource, track: VideoTrack | AudioTrack, options: ReadOptions
) -> Survey | None:
    """The survey of one track in the range, if the file's index and stamps are in order."""
    origin_s = source.origin_s
    begin_s = options.start or 0.0
    if is_strung_together(path):
        return None
    with open_streams(path, [track.index]) as container:
        stream = _stream(container, track.index)
        if not index_reaches(container, stream, begin_s + origin_s, DEAD_S):
            return None
        if isinstance(stream, AudioStream):
            return Survey(AS_STATED, None, True)
    with open_streams(path, [track.index]) as container:
        stream = _stream(container, track.index)
        assert isinstance(stream, VideoStream)
        partial = options.start is not None
        ticks = int((begin_s + origin_s) / (stream.time_base or 1))
        if partial and not seek_before(container, stream, ticks):
            return None
        end_s = None if options.end is None else options.end + origin_s
        (listing,) = list_packets(container, [stream], end_s)
        table = _table(stream, listing, AS_STATED, partial=partial)
    times = table.seconds() - origin_s
    if len(_restarts(listing)) or table.counted or not len(times):
        return None
    leaps = np.diff(times, prepend=times[0]).max() > DEAD_S
    return None if leaps else Survey(AS_STATED, table, True)


def _table(
    stream: VideoStream, listing: PacketList, timeline: Timeline, *, partial: bool = False
) -> PacketTable:
    """The frames of a picture that are shown, in the order of display."""
    timed = listing.pts != NO_STAMP
    hidden = listing.discard.copy()
    clock = timeline.clocks.get(stream.index)
    if clock is not None:
        hidden[clock.starts.min(initial=len(hidden)) :] = False  # see `Mover.move`
    if (~timed & ~hidden).sum() > (timed & ~hidden).sum():
        return counted_table(stream, listing.duration[~hidden])
    numbers = np.flatnonzero(timed & ~hidden)
    ticks = timeline.ticks(stream.index, listing, numbers)
    last = int(numbers[np.argmax(ticks)]) if len(numbers) else None
    keys = listing.key[numbers]
    key_ticks, places = np.unique(ticks[keys], return_index=True)
    key_numbers = numbers[keys][places]
    return PacketTable(
        np.unique(ticks),
        KeyFrames(key_ticks, listing.pts[key_numbers], listing.pos[key_numbers], key_numbers),
        0 if last is None else int(listing.duration[last]),
        listing.time_base,
        partial=partial,
        discarded=int(hidden.sum()),
    )


def lay_out(
    source: MediaSource,
    streams: Sequence[AnyStream],
    listings: Sequence[PacketList],
    *,
    may_leap: bool,
) -> tuple[Timeline, dict[int, float]]:
    """Join the parts of a file whose clock starts again or leaps.

    Parameters
    ----------
    source : MediaSource
        What the header says.
    streams, listings : sequence of stream and PacketList
        The tracks, the picture first, and their packets.
    may_leap : bool
        As `clock_may_leap` of `find_gaps`.

    Returns
    -------
    (Timeline, dict of int to float)
        The timeline, and the seconds on it at which each stream ends, by its index.
    """
    origin_s = source.origin_s
    # 1. Where the clock starts again, each part follows the one before.
    parts = _Parts(listings)
    # 2. What lies between is closed where neither track continues.
    times = [parts.times(k) - origin_s for k in range(len(listings))]
    strays = [
        frozenset[int]() if isinstance(stream, VideoStream) else _strays(found, at)
        for stream, found, at in zip(streams, parts.timed, times, strict=True)
    ]
    kept = [
        at[~np.isin(found, list(lost))]
        for at, found, lost in zip(times, parts.timed, strays, strict=True)
    ]
    has_picture = isinstance(streams[0], VideoStream)
    picture = kept[0] if has_picture else np.empty(0)
    sound = kept[-1] if isinstance(streams[-1], AudioStream) else None
    claimed_s = None if source.length_is_estimate or parts.starts_s else source.duration_s
    gaps = find_gaps(picture, sound, claimed_s, clock_may_leap=may_leap)
    # 3. The same in each stream's ticks.
    clocks = {
        stream.index: clock_in_ticks(
            parts.starts[k], parts.shifts[k], gaps, origin_s, listings[k].time_base, strays[k]
        )
        for k, stream in enumerate(streams)
        if len(parts.starts[k]) or len(gaps) or strays[k]
    }
    closed = [gaps.close(at) for at in kept]
    ends_s = {
        streams[k].index: float((at + parts.durations(k, strays[k])).max())
        for k, at in enumerate(closed)
        if len(at)
    }
    pauses = find_pauses(gaps.close(picture), gaps.close(sound)) if sound is not None else []
    timeline = Timeline(
        clocks=clocks,
        restarts_s=tuple(gaps.close(np.array(parts.starts_s) - origin_s).tolist()),
        leaps_s=tuple((gaps.close(gaps.begins)).tolist()),
        closed_s=float(gaps.lengths.sum()),
        pauses=tuple(pauses) if has_picture else (),
        length_s=round(max(ends_s.values()), 6) if ends_s else None,
    )
    return timeline, ends_s


def _restarts(listing: PacketList) -> Integers:
    """Numbers of the packets at which a stream's clock starts again."""
    numbers = listing.timed
    in_order = bool((listing.dts[numbers] != NO_STAMP).all())
    ticks = (listing.dts if in_order else listing.pts)[numbers]
    least = (_FALL_S if in_order else _FALL_OUT_OF_ORDER_S) / float(listing.time_base)
    falls = np.flatnonzero(np.diff(ticks) < -least) + 1
    if not 0 < len(falls) <= _MAX_PARTS:
        return np.empty(0, np.int64)
    # A single wild stamp makes the next one fall, too: those around it tell.
    bounds = [0, *falls.tolist(), len(ticks)]
    found = []
    for k, at in enumerate(falls.tolist()):
        before = ticks[max(bounds[k], at - _NEAR) : at]
        after = ticks[at : min(bounds[k + 2], at + _NEAR)]
        if np.median(after) < np.median(before):
            found.append(at)
    return numbers[np.array(found, np.int64)]


def _strays(numbers: Integers, times: Times) -> frozenset[int]:
    """Numbers of single packets whose time is far from both neighbours, which agree."""
    before, at, after = times[:-2], times[1:-1], times[2:]
    lost = (np.abs(at - before) > _STRAY_S) & (np.abs(after - before) < _STRAY_S)
    return frozenset(numbers[1:-1][lost].tolist())


def _places(listings: Sequence[PacketList]) -> tuple[list[Integers], int]:
    """Where in the file each stream's packets are, increasing, and what counts as beside.

    Bytes where they are known: the order in which packets come is not that of a file whose clock
    starts again, where the container interleaves by time.
    """
    known = all(len(found) and found.pos[0] >= 0 for found in listings)
    places = [np.maximum.accumulate(found.pos if known else found.order) for found in listings]
    ends = [(int(at[0]), int(at[-1])) for at in places if len(at)]
    spread = max((last for _, last in ends), default=0) - min((at for at, _ in ends), default=0)
    return places, _INTERLEAVED * spread // max(sum(map(len, listings)), 1)


class _Parts:
    """The parts of one or two streams whose clocks start again, and the seconds to add in each."""

    def __init__(self, listings: Sequence[PacketList]) -> None:
        self._listings = listings
        self.timed = [found.timed for found in listings]
        self.starts: list[Integers] = [np.empty(0, np.int64) for _ in listings]
        self.shifts: list[Times] = [np.zeros(1) for _ in listings]
        self.starts_s: list[float] = []  # time stamps at which the parts begin, when joined
        self._restarts = [_restarts(found) for found in listings]
        self._places, self._apart = _places(listings)
        for seam in self._seams(self._restarts):
            self._join(seam)

    def times(self, k: int) -> Times:
        """Time stamps of the timed packets of stream `k` on the joined timeline, in seconds."""
        numbers = self.timed[k]
        return (
            self._stated(k, numbers)
            + self.shifts[k][np.searchsorted(self.starts[k], numbers, side="right")]
        )

    def durations(self, k: int, without: frozenset[int] = frozenset()) -> Times:
        """Seconds that the timed packets of stream `k` stay, less some of them."""
        numbers = self.timed[k][~np.isin(self.timed[k], list(without))]
        return self._stay(k, numbers)

    def _stated(self, k: int, numbers: Integers) -> Times:
        stated: Times = self._listings[k].pts[numbers] * np.float64(self._listings[k].time_base)
        return stated

    def _stay(self, k: int, numbers: Integers) -> Times:
        """Seconds that packets of stream `k` stay."""
        seconds: Times = self._listings[k].duration[numbers] * np.float64(
            self._listings[k].time_base
        )
        return seconds if seconds.any() else np.full(len(seconds), self._usual_s(k))

    def _usual_s(self, k: int) -> float:
        """The usual seconds between packets of stream `k`."""
        steps = np.diff(np.unique(self._stated(k, self.timed[k])))
        return float(np.median(steps)) if len(steps) else 0.0

    def _seams(self, restarts: Sequence[Integers]) -> list[dict[int, int]]:
        """The restarts of both streams in the order of the file, those of one join together.

        Each is the number of the packet with which the new part begins, by stream.
        """
        seams = [{0: int(number)} for number in restarts[0]]
        taken: set[int] = set()
        for number in restarts[1].tolist() if len(restarts) > 1 else ():
            here = self._places[1]
            first, last = here[number - 1] - self._apart, here[number] + self._apart
            near = [
                (abs(int(place - here[number])), j)
                for j, place in enumerate(self._places[0][restarts[0]])
                if first <= place <= last and j not in taken
            ]
            if near:
                taken.add(min(near)[1])
                seams[min(near)[1]][1] = number
            else:
                seams.append({1: number})
        return sorted(seams, key=self._place_of)

    def _place_of(self, seam: dict[int, int]) -> int:
        """Where in the file the part behind a seam begins."""
        return min(int(self._places[k][number]) for k, number in seam.items())

    def _join(self, seam: dict[int, int]) -> None:
        """Add a part, behind all that is there."""
        place = self._place_of(seam)
        # 1. Where the part begins in each stream; one without packets there begins with them.
        for k, places in enumerate(self._places):
            if k not in seam:
                number = int(np.searchsorted(places, place))
                if self._continues(k, number):
                    (alone,) = seam
                    self._follow(alone, seam[alone], k, number)
                    return
                seam[k] = number
        # 2. It is moved to where the longest track ends, by the same time for all of them.
        ends = [self._end_s(k, number) for k, number in seam.items()]
        begins = [self._begin_s(k, number) for k, number in seam.items()]
        end = max((value for value in ends if value is not None), default=0.0)
        begin = min((value for value in begins if value is not None), default=end)
        for k, number in seam.items():
            self._add(k, number, end - begin)
        self.starts_s.append(end)

    def _continues(self, k: int, number: int) -> bool:
        """Whether stream `k` goes on across a packet: enough of it on both sides."""
        restarts = self._restarts[k]
        last = restarts[restarts >= number].min(initial=len(self._listings[k]))
        return number >= _NEAR and last - number >= _NEAR

    def _follow(self, alone: int, number: int, other: int, other_number: int) -> None:
        """Lay a stream that starts again by itself beside the other, which goes on."""
        place = min(other_number, len(self._listings[other]) - 1)
        there = self._end_s(other, place)
        begin = self._begin_s(alone, number)
        if there is not None and begin is not None:
            self._add(alone, number, there - begin)
            self.starts_s.append(there)

    def _add(self, k: int, number: int, shift_s: float) -> None:
        self.starts[k] = np.append(self.starts[k], number)
        self.shifts[k] = np.append(self.shifts[k], shift_s)

    def _end_s(self, k: int, number: int) -> float | None:
        """Where stream `k` ends before a packet, on the joined timeline."""
        numbers = self.timed[k]
        at = int(np.searchsorted(numbers, number))
        edge = numbers[max(0, at - _EDGE) : at]
        if not len(edge):
            return None
        shift = self.shifts[k][np.searchsorted(self.starts[k], edge, side="right")]
        return float((self._stated(k, edge) + shift + self._stay(k, edge)).max())

    def _begin_s(self, k: int, number: int) -> float | None:
        """The first time stamp of stream `k` from a packet on, as the file has it."""
        numbers = self.timed[k]
        at = int(np.searchsorted(numbers, number))
        edge = numbers[at : at + _EDGE]
        return float(self._stated(k, edge).min()) if len(edge) else None
