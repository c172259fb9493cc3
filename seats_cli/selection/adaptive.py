"""Stage II budgets that do not depend on the scale of relevance, and meet both totals exactly.

Mean relevance is of the order of one over the sequence length, so that the published softmax at a
fixed temperature hardly tells windows apart. These weights only depend on how windows compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log, sqrt

from seats_cli.selection.allocation import Window, proportional_budgets

Weights = Callable[[Sequence[float]], list[float]]

# Evenly shared part of "adaptive-floor".
FLOOR = 0.5
# A window without any relevance counts as this much of the largest, so that it has a logarithm.
_LEAST = 1e-6


def by_mass(means: Sequence[float]) -> list[float]:
    """In proportion to mean relevance: a window of twice the relevance gets twice the share."""
    average = sum(means) / len(means)
    return [mean / average for mean in means]


def by_contrast(means: Sequence[float]) -> list[float]:
    """Softmax of the standardised logarithm: windows that stand out, by however little."""
    logs = [log(max(mean, _LEAST)) for mean in means]
    average = sum(logs) / len(logs)
    deviation = sqrt(sum((value - average) ** 2 for value in logs) / len(logs))
    if deviation == 0.0:
        return [1.0] * len(means)
    grown = [exp((value - average) / deviation) for value in logs]
    return by_mass(grown)


def with_floor(means: Sequence[float]) -> list[float]:
    """Half evenly, half in proportion."""
    return [FLOOR + (1.0 - FLOOR) * share for share in by_mass(means)]


WEIGHTS: dict[str, Weights] = {
    "adaptive": by_mass,
    "adaptive-contrast": by_contrast,
    "adaptive-floor": with_floor,
}


def adaptive_budgets(
    windows: Sequence[Window],
    video_means: Sequence[float],
    audio_means: Sequence[float],
    keep_video: int,
    keep_audio: int,
    weights: Weights = by_mass,
) -> list[Window]:
    """Budgets from the windows' relevance compared with each other.

    A window's weight is averaged over the modalities that it holds. Each modality then shares
    its own total in proportion to weight times size.

    Parameters
    ----------
    windows : sequence of (int, int)
        Video and audio tokens of each window.
    video_means, audio_means : sequence of float
        Mean relevance of each window, 0 where the modality is absent; negative means (no
        softmax gives them) count as 0.
    keep_video, keep_audio : int
        Tokens to keep of each modality.
    weights : callable
        One of `WEIGHTS`: from means, of which the largest is 1, to weights with average 1.

    Returns
    -------
    list of (int, int)
        Video and audio tokens that each window keeps; the columns sum to the two totals. A
        present modality keeps at least one token wherever its total reaches.
    """
    video = _relative(video_means, [v for v, _ in windows], weights)
    audio = _relative(audio_means, [a for _, a in windows], weights)
    shared = [
        (pv + pa) / ((v > 0) + (a > 0))
        for pv, pa, (v, a) in zip(video, audio, windows, strict=True)
    ]
    budgets: list[list[int]] = []
    for modality, keep in ((0, keep_video), (1, keep_audio)):
        sizes = [window[modality] for window in windows]
        mass = [weight * size for weight, size in zip(shared, sizes, strict=True)]
        budgets.append(proportional_budgets(sizes, mass, keep))
    return list(zip(*budgets, strict=True))


def _relative(means: Sequence[float], sizes: Sequence[int], weights: Weights) -> list[float]:
    """Weights of the windows that hold tokens, 0 elsewhere."""
    present = [w for w, size in enumerate(sizes) if size]
    largest = max((means[w] for w in present), default=0.0)
    found = [0.0] * len(sizes)
    if largest <= 0.0:
        shares = [1.0] * len(present)
    else:  # scaled first, so that no sum can overflow
        shares = weights([max(means[w], 0.0) / largest for w in present])
    for w, share in zip(present, shares, strict=True):
        found[w] = share
    return found
