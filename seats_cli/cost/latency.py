"""Statistics of repeated measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Seconds of one stage over all repetitions."""

    median_s: float
    p10_s: float
    p90_s: float


def spread(seconds: Sequence[float]) -> Spread:
    """Median, 10th and 90th percentile of some durations.

    Parameters
    ----------
    seconds : sequence of float
        At least one.

    Raises
    ------
    ValueError
        If there is none.
    """
    return Spread(percentile(seconds, 0.5), percentile(seconds, 0.1), percentile(seconds, 0.9))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the values lie, interpolated between neighbours."""
    if not values:
        raise ValueError("a percentile needs at least one value")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
