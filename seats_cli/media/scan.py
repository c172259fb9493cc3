"""The time stamps of all frames, from the packets alone: fast, and true where headers lie."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.media.packets import ignore_errors, packets, seek_before, select_only, stamp

MAX_PACKETS = 20_000_000  # 46 hours at 120 frames per second
_REORDER_S = 2.0  # packets come in decoding order, this far from the order of display at most


@dataclass(frozen=True, eq=False)
class PacketTable:
    """When each frame of a stream is shown, in ticks of `time_base`.

    Parameters
    ----------
    pts : int64 array, shape (N,)
        Strictly increasing time stamps of the frames.
    keyframes : int64 array, shape (K,)
        The time stamps among them at which decoding can start, increasing.
    last_duration : int
        Ticks the last frame stays, 0 if unknown.
    time_base : Fraction
        Seconds per tick.
    counted : bool
        The file has no time stamps: `pts` was made from the frame rate, and frame number
        k belongs to `pts[k]`.
    partial : bool
        The table begins at a keyframe inside the file, because only a range was asked for.
    discarded : int
        Packets that an edit list keeps from being shown.
    """

    pts: npt.NDArray[np.int64]
    keyframes: npt.NDArray[np.int64]
    last_duration: int
    time_base: Fraction
    counted: bool = False
    partial: bool = False
    discarded: int = 0

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
        Time stamps in seconds between which frames are of interest. The table also holds
        what is needed to decode and show the frame at `start_s`, and may hold more.

    Returns
    -------
    PacketTable
        Possibly empty.

    Raises
    ------
    MediaError
        If the file has more packets than any real video.
    """
    select_only(container, stream)
    time_base = stream.time_base or Fraction(1, 1000)
    partial = start_s is not None and seek_before(container, stream, int(start_s / time_base))
    stop = None if end_s is None else int((end_s + _REORDER_S) / time_base)
    times, keys = array("q"), array("q")
    last_pts, last_duration, untimed, discarded = None, 0, 0, 0
    for packet in packets(container, stream, ignore_errors):
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
    pts = np.unique(np.array(times, dtype=np.int64))
    if untimed > len(pts):
        return _counted(stream, untimed + len(times), time_base)
    keyframes = np.unique(np.array(keys, dtype=np.int64))
    return PacketTable(
        pts, keyframes, max(last_duration, 0), time_base, partial=partial, discarded=discarded
    )


def packet_times(container: InputContainer, stream: AudioStream) -> npt.NDArray[np.float64]:
    """Time stamps of all packets of a sound track in seconds, float64, shape (n,)."""
    select_only(container, stream)
    times = array("q")
    for packet in packets(container, stream, ignore_errors):
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
