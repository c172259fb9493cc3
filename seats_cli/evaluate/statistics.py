"""How far a share of right answers can be trusted.

Questions about one clip are not independent of each other, so clips are what is drawn again. All
intervals are at 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 2000
FEWEST = 10  # questions for which an interval is given: resampling fewer of them says nothing
INTERVALS = (
    "95 % percentile bootstrap over clips; exact binomial where all answers are the same; "
    f"null from fewer than {FEWEST} questions"
)


@dataclass(frozen=True)
class Estimate:
    """A value and, from at least `FEWEST` questions, the ends of its interval."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both ends; None from too few questions."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class ClipBootstrap:
    """Percentile bootstrap over clips; the same draws for every estimate, so that they pair.

    Where all answers agree, so that resampling shows no spread, the interval is the exact
    binomial one for as many independent trials as there are clips (Clopper and Pearson 1934).
    Fewer than `FEWEST` questions have none.

    Parameters
    ----------
    clips : sequence of str
        The clip of each question, length n.
    seed : int
        Of the draws.
    resamples : int
        Number of draws.
    """

    def __init__(self, clips: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> None:
        names, self._place = np.unique(np.asarray(clips, dtype=object), return_inverse=True)
        self._clips = len(names)
        rng = np.random.default_rng(seed)
        # How often each clip is drawn: (resamples, clips).
        self._weights = np.empty((resamples, self._clips), dtype=np.float32)
        for draw in range(resamples):
            picked = rng.integers(self._clips, size=self._clips)
            self._weights[draw] = np.bincount(picked, minlength=self._clips)

    def share(self, right: BoolArray, counted: BoolArray) -> Estimate | None:
        """Share of right answers.

        Parameters
        ----------
        right, counted : bool array, shape (n,)
            Which answers are right, and which questions count.

        Returns
        -------
        Estimate or None
            0..1; None if no question counts.
        """
        if not counted.any():
            return None
        value = float(right[counted].mean())
        if counted.sum() < FEWEST:
            return Estimate(value)
        if value in (0.0, 1.0):
            bound = self._one_sided(counted)
            return Estimate(value, *((0.0, bound) if value == 0.0 else (1.0 - bound, 1.0)))
        return self._estimate(value, self._shares(right, counted))

    def difference(
        self, right: BoolArray, reference: BoolArray, counted: BoolArray
    ) -> Estimate | None:
        """Share of right answers less that of a reference, on the same questions, -1..1."""
        if not counted.any():
            return None
        value = float(right[counted].mean() - reference[counted].mean())
        if counted.sum() < FEWEST:
            return Estimate(value)
        if not (right != reference)[counted].any():
            bound = self._one_sided(counted)
            return Estimate(0.0, -bound, bound)
        return self._estimate(
            value, self._shares(right, counted) - self._shares(reference, counted)
        )

    def ratio(self, right: BoolArray, reference: BoolArray, counted: BoolArray) -> Estimate | None:
        """Share of right answers over that of a reference; None if the reference has none."""
        if not counted.any() or not reference[counted].any():
            return None
        base = float(reference[counted].mean())
        value = float(right[counted].mean()) / base
        if counted.sum() < FEWEST:
            return Estimate(value)
        if not (right != reference)[counted].any():
            bound = self._one_sided(counted)
            return Estimate(1.0, max(0.0, 1.0 - bound / base), 1.0 + bound / base)
        drawn, whole = self._shares(right, counted), self._shares(reference, counted)
        usable = whole > 0
        return self._estimate(value, drawn[usable] / whole[usable])

    def _shares(self, right: BoolArray, counted: BoolArray) -> FloatArray:
        """The share in every draw, shape (resamples,); NaN where no question counts."""
        per_clip = np.bincount(self._place[counted], minlength=self._clips)
        good = np.bincount(self._place[counted & right], minlength=self._clips)
        total = self._weights @ per_clip.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._weights @ good.astype(np.float64) / total)

    def _one_sided(self, counted: BoolArray) -> float:
        """Upper bound on the share of clips that differ, given that none of these did."""
        clips = len(np.unique(self._place[counted]))
        return float(1.0 - ((1.0 - CONFIDENCE) / 2) ** (1.0 / clips))

    @staticmethod
    def _estimate(value: float, drawn: FloatArray) -> Estimate:
        tail = 50.0 * (1.0 - CONFIDENCE)
        low, high = np.nanpercentile(drawn, [tail, 100.0 - tail])
        # With few clips the value itself may lie outside; an interval that excludes it misleads.
        return Estimate(value, min(float(low), value), max(float(high), value))


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p that two methods are right equally often.

    Parameters
    ----------
    gained, lost : int
        Questions that only the one, and only the other, answers rightly (McNemar 1947). It takes
        questions for independent; with several of them to a clip it is too small.

    Returns
    -------
    float
        0..1; 1 if they never differ.

    Raises
    ------
    ValueError
        If a count is negative.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"counts must not be negative, got {gained} and {lost}")
    total = gained + lost
    tail, ways = 0, 1
    for count in range(min(gained, lost) + 1):
        tail += ways
        ways = ways * (total - count) // (count + 1)  # each from the last: afresh takes seconds
    return float(min(1.0, 2 * tail / 2**total))  # of exact integers, whatever their size
