"""Stretches of a file's timeline in which there is nothing, closed up.

One damaged time stamp can put a frame hours away from the rest, and recordings that were
strung together leap where they meet. Taken at its word, such a file lasts for days, and the
frames taken from it would all show the same moment.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Longer than this without picture and sound is no pause.
DEAD_S = 60.0
# A silent film may rest on one frame (slides) for as long as its header has time for it.
_REST_S = 3600.0
# What is left of a gap: about a frame, so that both sides stay apart.
_LEFT_S = 0.04

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gaps:
    """Where time is closed up.

    Parameters
    ----------
    begins : float64 array, shape (k,)
        Seconds on the file's timeline after which nothing comes, increasing.
    lengths : float64 array, shape (k,)
        Seconds taken out after each.
    """

    begins: Times
    lengths: Times

    def __len__(self) -> int:
        return len(self.begins)

    def close(self, times: Times) -> Times:
        """Times as the file has them to times without the gaps, float64, shape (n,)."""
        taken = np.concatenate([[0.0], np.cumsum(self.lengths)])
        # A hair's breadth of tolerance: the same stamp may come by way of another time base.
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
    """Whether it is worth looking at the sound's time stamps, too."""
    return len(picture) > 0 and float(np.diff(picture, prepend=0.0).max()) > DEAD_S


def find_gaps(picture: Times, sound: Times | None, length_s: float | None) -> Gaps:
    """The stretches without a picture and without sound.

    Parameters
    ----------
    picture : float64 array, shape (n,)
        Seconds on the file's timeline at which frames appear, increasing.
    sound : float64 array, shape (m,), or None
        The same of the packets of the sound; None if the file has none.
    length_s : float or None
        Seconds the file says it lasts.

    Returns
    -------
    Gaps
    """
    events = picture if sound is None else np.union1d(picture, sound)
    steps = np.diff(events)
    dead = steps > DEAD_S
    if sound is None:
        beyond = events[1:] > (np.inf if length_s is None else length_s + DEAD_S)
        dead &= beyond | (steps > _REST_S)
    return Gaps(events[:-1][dead], steps[dead] - _LEFT_S)
