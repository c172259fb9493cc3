"""Stage II budgets: how many tokens each temporal window keeps in each modality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from math import exp, log, sqrt

from torch import Tensor

from seats_cli.selection.topk import proportional_budgets

Window = tuple[int, int]

# Below this a window's demand is noise and its split leans to audio, as in the published
# implementation.
MIN_DEMAND = 1e-8


def window_weights(means: Tensor, temperature: float) -> list[float]:
    """Softmax over windows of their mean relevance, a finite float64 Tensor (W,).

    Rounded to float32 as in the published implementation: equal windows give shares that fall
    exactly on a half, where the last bit decides.
    """
    logits = means / temperature
    weights: list[float] = (logits - logits.max()).float().softmax(0).tolist()
    return weights


def _correct_sum(budgets: list[int], sizes: Sequence[int], total: int) -> None:
    """Bring the sum of the budgets to `total`, one token at a time, where bounds allow it.

    The largest budget gives, the smallest one takes; of equal ones, the first.
    """
    # Heaps: a long clip has thousands of windows, and their roundings may add up to as many steps.
    excess = sum(budgets) - total
    largest = [(-budget, w) for w, budget in enumerate(budgets)]
    heapify(largest)
    while excess > 0 and largest[0][0] < -1:
        budget, w = largest[0]
        heapreplace(largest, (budget + 1, w))
        budgets[w] -= 1
        excess -= 1
    smallest = [
        (budget, w)
        for w, (budget, size) in enumerate(zip(budgets, sizes, strict=True))
        if budget < size
    ]
    heapify(smallest)
    while excess < 0 and smallest:
        budget, w = heappop(smallest)
        budgets[w] += 1
        excess += 1
        if budgets[w] < sizes[w]:
            heappush(smallest, (budget + 1, w))


def _split_window(budget: int, video_share: float, sizes: Window) -> Window:
    """Divide a window's budget between its video and audio tokens."""
    # 1. By share, within what the window holds; what one cannot take goes to the other.
    video_size, audio_size = sizes
    video = min(round(budget * video_share), video_size)
    audio = min(budget - video, audio_size)
    video += min(budget - video - audio, video_size - video)
    audio += min(budget - video - audio, audio_size - audio)
    # 2. A modality that is present keeps one token; the other gives way if it has more.
    if video_size and not video:
        video, audio = 1, audio - 1 if audio > 1 else audio
    if audio_size and not audio:
        video, audio = video - 1 if video > 1 else video, 1
    return video, audio


def reference_budgets(
    windows: Sequence[Window],
    video_weights: Sequence[float],
    audio_weights: Sequence[float],
    keep_video: int,
    keep_audio: int,
) -> list[Window]:
    """Budgets as the published implementation gives them.

    The clamps of each window may miss the modality totals, and the combined total where it
    is smaller than the number of windows.

    Parameters
    ----------
    windows : sequence of (int, int)
        Video and audio tokens of each window.
    video_weights, audio_weights : sequence of float
        Softmax weight of each window for either modality. A window without the modality
        takes part in the softmax with mean relevance 0.
    keep_video, keep_audio : int
        Tokens to keep of each modality, both at least 1.

    Returns
    -------
    list of (int, int)
        Video and audio tokens that each window keeps.
    """
    # 1. A window's own budget, from the mean of its two weights.
    total = keep_video + keep_audio
    sizes = [video + audio for video, audio in windows]
    budgets = [
        min(max(round((pv + pa) / 2 * total), 1), size)
        for pv, pa, size in zip(video_weights, audio_weights, sizes, strict=True)
    ]
    _correct_sum(budgets, sizes, total)
    # 2. Within the window, by how much each modality demands.
    split: list[Window] = []
    for budget, pv, pa, window in zip(budgets, video_weights, audio_weights, windows, strict=True):
        video_demand, audio_demand = pv * keep_video, pa * keep_audio
        demand = max(video_demand + audio_demand, MIN_DEMAND)
        split.append(_split_window(budget, video_demand / demand, window))
    return split


Weights = Callable[[Sequence[float]], list[float]]

# Evenly shared part of "adaptive-floor".
FLOOR = 0.5
# A window without any relevance counts as this much of the largest, so that it has a logarithm.
_LEAST = 1e-6


def by_mass(means: Sequence[float]) -> list[float]:
    """In proportion to mean relevance: twice the relevance, twice the share."""
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
    # Weights have average 1 in each modality and can be averaged across them. Mean scores cannot:
    # those of sound and of video differ in level.
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
