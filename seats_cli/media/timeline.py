"""One timeline for picture and sound, and the gaps that are taken out of it.

Time 0 is where the earliest track starts. Recordings that were strung together can have hours
between their parts; where neither picture nor sound continues, that time is closed up for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream

from seats_cli.media.container import StrPath
from seats_cli.media.packets import PacketTable, open_stream, packet_times
from seats_cli.media.probe import AudioTrack, MediaSource

Times = npt.NDArray[np.float64]

# A pause is shorter: that long without picture and sound is a gap.
DEAD_S = 60.0
# A silent film (slides) may hold one frame for long, but not longer than this.
_REST_S = 3600.0
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

    def close(self, times: Times) -> Times:
        """From times as the file has them to times without the gaps, float64, shape (n,)."""
        taken = np.concatenate([[0.0], np.cumsum(self.lengths)])
        # With some tolerance: the same stamp may come from another stream's coarser time base.
        closed: Times = times - taken[np.searchsorted(self.begins + _LEFT_S / 2, times)]
        return closed

    def reopen(self, times: Times) -> Times:
        """The reverse of `close`."""
        taken = np.concatenate([[0.0], np.cumsum(self.lengths)])
        resumes = self.begins - taken[:-1] + _LEFT_S
        opened: Times = times + taken[np.searchsorted(resumes - 1e-6, times)]
        return opened


NO_GAPS = Gaps(np.empty(0), np.empty(0))


def may_have_gaps(picture: Times) -> bool:
    """Whether the picture alone leaves room for a gap, so that the sound must be scanned."""
    return len(picture) > 0 and float(np.diff(picture, prepend=0.0).max()) > DEAD_S


def find_gaps(picture: Times, sound: Times | None, length_s: float | None) -> Gaps:
    """The stretches without a new frame and without sound.

    Parameters
    ----------
    picture : float64 array, shape (n,)
        Seconds on the file's timeline at which frames appear, increasing.
    sound : float64 array, shape (m,), or None
        The same of the packets of the sound; None if the file has none.
    length_s : float or None
        Seconds the file says it lasts.
    """
    events = picture if sound is None else np.union1d(picture, sound)
    steps = np.diff(events)
    dead = steps > DEAD_S
    # Without sound, a long hold and a gap look the same: a gap is what leads beyond the length
    # that the header claims, or what no film holds.
    if sound is None:
        beyond = events[1:] > (np.inf if length_s is None else length_s + DEAD_S)
        dead &= beyond | (steps > _REST_S)
    return Gaps(events[:-1][dead], steps[dead] - _LEFT_S)


def picture_times(
    path: StrPath, source: MediaSource, table: PacketTable, audio_track: AudioTrack | None
) -> tuple[Times, Gaps]:
    """When each frame of a table is shown, and the gaps that were closed for it.

    Parameters
    ----------
    path, source : str or path-like, MediaSource
        The file and what it says about itself.
    table : PacketTable
        The picture's frames.
    audio_track : AudioTrack or None
        The sound that is used; where it continues, there is no gap.

    Returns
    -------
    (float64 array, shape (N,), Gaps)
        Seconds on the file's timeline.
    """
    times = table.seconds() - origin_of(source, table)
    if not may_have_gaps(times):
        return times, NO_GAPS
    sound = None
    if audio_track is not None:
        with open_stream(path, audio_track.index, AudioStream) as (container, stream):
            sound = packet_times(container, stream) - source.origin_s
    gaps = find_gaps(times, sound, source.duration_s)
    return gaps.close(times), gaps


def origin_of(source: MediaSource, table: PacketTable) -> float:
    """Seconds at which the timeline starts in the table's stamps; counted ones begin at 0."""
    return 0.0 if table.counted else source.origin_s


def stamps_at(
    times: Times, source: MediaSource, table: PacketTable, gaps: Gaps
) -> npt.NDArray[np.int64]:
    """From seconds as in `picture_times` to the table's ticks, int64, shape (n,)."""
    stated = gaps.reopen(times) + origin_of(source, table)
    return np.rint(stated / float(table.time_base)).astype(np.int64)
