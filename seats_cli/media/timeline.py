"""The time stamps of a file's picture in seconds, with dead time closed up."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream

from seats_cli.media.gaps import NO_GAPS, Gaps, Times, find_gaps, may_have_gaps
from seats_cli.media.opening import StrPath, open_media
from seats_cli.media.probe import AudioTrack, Source
from seats_cli.media.scan import PacketTable, packet_times


def picture_times(
    path: StrPath, source: Source, table: PacketTable, listened: AudioTrack | None
) -> tuple[Times, Gaps]:
    """When each frame of a table is shown, and what was taken out of the file's timeline.

    Parameters
    ----------
    path, source : str or path-like, Source
        The file and what it says about itself.
    table : PacketTable
        The picture's frames.
    listened : AudioTrack or None
        The sound that is used; where it goes on, time is not dead.

    Returns
    -------
    (float64 array, shape (N,), Gaps)
        Seconds on the file's timeline.
    """
    times = table.seconds() - origin_of(source, table)
    if not may_have_gaps(times):
        return times, NO_GAPS
    gaps = find_gaps(times, _sound_times(path, source, listened), source.duration_s)
    return gaps.close(times), gaps


def origin_of(source: Source, table: PacketTable) -> float:
    """Seconds of time 0 in the table's stamps: a table that was counted begins at 0."""
    return 0.0 if table.counted else source.origin_s


def stamps_at(
    times: Times, source: Source, table: PacketTable, gaps: Gaps
) -> npt.NDArray[np.int64]:
    """Seconds as `picture_times` has them to the table's ticks, int64, shape (n,)."""
    stated = gaps.reopen(times) + origin_of(source, table)
    return np.rint(stated / float(table.time_base)).astype(np.int64)


def _sound_times(path: StrPath, source: Source, listened: AudioTrack | None) -> Times | None:
    if listened is None:
        return None
    with open_media(path) as container:
        stream = container.streams[listened.index]
        assert isinstance(stream, AudioStream)
        return packet_times(container, stream) - source.origin_s
