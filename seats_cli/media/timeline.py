"""One timeline for picture and sound, on which parts that were strung together follow each other.

Time 0 is where the earliest track starts. Where the clock of a file starts again, or leaps over a
stretch in which neither picture nor sound continues, the parts are joined, both tracks alike.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from av.packet import Packet

from seats_cli.media.packets import Integers, PacketList

Times = npt.NDArray[np.float64]

# A pause is shorter: that long without picture and sound may be a gap.
DEAD_S = 60.0
# A player shows pauses as they are, but this much is a clock that was set, not a pause.
_REST_S = 3600.0
_REST_WITHOUT_PICTURE_S = 600.0
# Formats whose clock may leap by their rules: there, players close what is longer (FFmpeg's own
# bound), unless all frames come that rarely.
_LEAP_S = 10.0
_RARE = 5.0
# What remains of a gap: about a frame, so that its two sides stay apart.
_LEFT_S = 0.04


@dataclass(frozen=True, eq=False)
class Gaps:
    """Stretches that are taken out of the file's timeline."""

    # float64 array, shape (k,): seconds on the file's timeline at which the gaps begin, increasing.
    begins: Times
    lengths: Times  # float64 array, shape (k,): seconds taken out after each

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def limits(self) -> Times:
        """Seconds behind which a gap's length is taken out, float64, shape (k,)."""
        # With some tolerance: the same stamp may come from another stream's coarser time base.
        limits: Times = self.begins + _LEFT_S / 2
        return limits

    @property
    def taken(self) -> Times:
        """Seconds taken out of what lies between the gaps, float64, shape (k + 1,)."""
        taken: Times = np.concatenate([[0.0], np.cumsum(self.lengths)])
        return taken

    def close(self, times: Times) -> Times:
        """From times as the file has them to times without the gaps, float64, shape (n,)."""
        closed: Times = times - self.taken[np.searchsorted(self.limits, times)]
        return closed


def find_gaps(
    picture: Times, sound: Times | None, length_s: float | None, *, clock_may_leap: bool = False
) -> Gaps:
    """The stretches without a new frame and without sound that are no pause.

    Parameters
    ----------
    picture : float64 array, shape (n,)
        Seconds on the file's timeline at which frames appear; empty if the file has none.
    sound : float64 array, shape (m,), or None
        The same of the packets of the sound; None if the file has none.
    length_s : float or None
        Seconds the file says it lasts; a leap to beyond them is none of its pauses.
    clock_may_leap : bool
        Whether the format's clock may leap by its rules, so that leaps of seconds are gaps too.
    """
    events, steps = _steps(picture, sound)
    if clock_may_leap:
        usual = float(np.median(steps)) if len(steps) else 0.0
        dead = steps > max(_LEAP_S, _RARE * usual)
    else:
        beyond = events[1:] > (np.inf if length_s is None else length_s + DEAD_S)
        rest_s = _REST_S if len(picture) else _REST_WITHOUT_PICTURE_S
        dead = (steps > rest_s) | (beyond & (steps > DEAD_S))
    return Gaps(events[:-1][dead], steps[dead] - _LEFT_S)


def find_pauses(picture: Times, sound: Times) -> list[tuple[float, float]]:
    """Long stretches without a new frame and without sound, in seconds, from and to."""
    events, steps = _steps(picture, sound)
    return [(float(events[k]), float(events[k + 1])) for k in np.flatnonzero(steps > DEAD_S)]


def _steps(picture: Times, sound: Times | None) -> tuple[Times, Times]:
    """All times in order, and the seconds between them."""
    events = np.unique(picture if sound is None else np.concatenate([picture, sound]))
    return events, np.diff(events)


@dataclass(frozen=True, eq=False)
class StreamClock:
    """From the stamps of one stream's packets to its ticks on the joined timeline."""

    starts: Integers  # shape (k,): number of the packet with which each part but the first begins
    shifts: Integers  # shape (k + 1,): ticks to add in each part
    limits: Integers  # shape (g,): ticks, after that shift, behind which a gap is taken out
    taken: Integers  # shape (g + 1,): ticks taken out of what lies between the gaps
    strays: frozenset[int] = frozenset()  # numbers of packets whose stamps are wrong

    def move(self, numbers: Integers, ticks: Integers) -> Integers:
        """Ticks on the joined timeline, shape (n,), of packets by number and stated ticks."""
        shifted = ticks + self.shifts[np.searchsorted(self.starts, numbers, side="right")]
        joined: Integers = shifted - self.taken[np.searchsorted(self.limits, shifted)]
        return joined


class Mover:
    """Moves a stream's packets to the joined timeline as they come, in the order of the file.

    Parameters
    ----------
    clock : StreamClock
        The stream's clock.
    """

    def __init__(self, clock: StreamClock) -> None:
        self.number = 0  # of the next packet, from 0 at the start of the file
        self.has_parts = len(clock.starts) > 0
        self._starts, self._shifts = clock.starts.tolist(), clock.shifts.tolist()
        self._limits, self._taken = clock.limits.tolist(), clock.taken.tolist()
        self._strays = clock.strays

    def move(self, packet: Packet[Any]) -> Packet[Any]:
        """The packet with its stamps on the joined timeline."""
        part = bisect_right(self._starts, self.number)
        if part and packet.is_discard:
            # FFmpeg takes the first fragment of an MP4 that starts again for hidden.
            packet = _shown_copy(packet)
        stray = self.number in self._strays
        shift = self._shifts[part]
        packet.pts = None if stray else self._moved(packet.pts, shift)
        packet.dts = None if stray else self._moved(packet.dts, shift)
        self.number += 1
        return packet

    def _moved(self, ticks: int | None, shift: int) -> int | None:
        if ticks is None:
            return None
        return int(ticks + shift - self._taken[bisect_left(self._limits, ticks + shift)])


def _shown_copy(packet: Packet[Any]) -> Packet[Any]:
    """The packet without the mark that keeps it from being shown."""
    copy: Packet[Any] = Packet(bytes(packet))
    copy.stream, copy.time_base = packet.stream, packet.time_base
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.is_keyframe = packet.is_keyframe
    return copy


@dataclass(frozen=True, eq=False)
class Timeline:
    """How the time stamps of a file become one timeline, and what was joined for it."""

    # One per stream whose stamps change, by its index; no entry means as the file has them.
    clocks: dict[int, StreamClock] = field(default_factory=dict)
    restarts_s: tuple[float, ...] = ()  # seconds at which parts begin whose stamps start again
    leaps_s: tuple[float, ...] = ()  # seconds at which parts begin before which a gap was closed
    closed_s: float = 0.0  # seconds of gaps that were closed
    pauses: tuple[tuple[float, float], ...] = ()  # seconds without picture and sound, from and to
    length_s: float | None = None  # seconds to the end of the last packet; None if not known

    def mover(self, index: int) -> Mover | None:
        """What moves the packets of a stream that are read from the file's start."""
        clock = self.clocks.get(index)
        return None if clock is None else Mover(clock)

    def ticks(self, index: int, listing: PacketList, numbers: Integers) -> Integers:
        """Time stamps of some packets of a stream on the joined timeline, shape (n,)."""
        stated = listing.pts[numbers]
        clock = self.clocks.get(index)
        return stated if clock is None else clock.move(numbers, stated)


AS_STATED = Timeline()


def clock_in_ticks(
    starts: Integers,
    shifts_s: Times,
    gaps: Gaps,
    origin_s: float,
    time_base: Fraction,
    strays: frozenset[int] = frozenset(),
) -> StreamClock:
    """A stream's clock in its own ticks.

    Parameters
    ----------
    starts, shifts_s : int64 array, shape (k,), and float64 array, shape (k + 1,)
        As the fields of `StreamClock`, but in seconds.
    gaps : Gaps
        The gaps on the file's timeline.
    origin_s : float
        Time stamp in seconds at which that timeline starts.
    time_base : Fraction
        Seconds per tick.
    strays : set of int
        Numbers of packets whose stamps are wrong.
    """

    def ticks(seconds: Times) -> Integers:
        return np.rint(seconds / float(time_base)).astype(np.int64)

    limits, taken = ticks(gaps.limits + origin_s), ticks(gaps.taken)
    return StreamClock(starts, ticks(shifts_s), limits, taken, strays)
