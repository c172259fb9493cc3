"""Stage II budgets as published: how many tokens each temporal window keeps in each modality.

Numbers in, numbers out: the few values per window are handled on the host. Source: arXiv
2605.20035, Stage II (inter-window and intra-window allocation).
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace

from torch import Tensor

Window = tuple[int, int]

# Below this a window's demand is noise and its split leans to audio, as in the published
# implementation.
MIN_DEMAND = 1e-8


def window_weights(means: Tensor, temperature: float) -> list[float]:
    """Softmax of mean relevance over windows.

    Parameters
    ----------
    means : float64 Tensor, shape (W,)
        Mean relevance of each window, finite.
    temperature : float
        Softmax temperature.

    Returns
    -------
    list of float
        Weights that sum to 1, rounded to float32 as in the published implementation: equal
        windows give shares that fall exactly on a half, where the last bit decides.
    """
    logits = means / temperature
    weights: list[float] = (logits - logits.max()).float().softmax(0).tolist()
    return weights


def _correct_sum(budgets: list[int], sizes: Sequence[int], total: int) -> None:
    """Bring the sum of the budgets to `total`, one token at a time, where bounds allow it.

    The largest budget gives, the smallest one takes; of equal ones, the first.
    """
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
    video_size, audio_size = sizes
    video = min(round(budget * video_share), video_size)
    audio = min(budget - video, audio_size)
    video += min(budget - video - audio, video_size - video)
    audio += min(budget - video - audio, audio_size - audio)
    # A modality that is present keeps one token; the other gives way if it has more.
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
    total = keep_video + keep_audio
    sizes = [video + audio for video, audio in windows]
    budgets = [
        min(max(round((pv + pa) / 2 * total), 1), size)
        for pv, pa, size in zip(video_weights, audio_weights, sizes, strict=True)
    ]
    _correct_sum(budgets, sizes, total)
    split: list[Window] = []
    for budget, pv, pa, window in zip(budgets, video_weights, audio_weights, windows, strict=True):
        video_demand, audio_demand = pv * keep_video, pa * keep_audio
        demand = max(video_demand + audio_demand, MIN_DEMAND)
        split.append(_split_window(budget, video_demand / demand, window))
    return split


def proportional_budgets(sizes: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """Share `total` tokens over windows in proportion to weights, within their sizes.

    Every window with tokens first gets one, as far as the total reaches (larger weights
    first); the rest is shared in proportion, what full windows cannot take goes to the
    others, and fractions are settled by largest remainder (ties to the earlier window).

    Parameters
    ----------
    sizes : sequence of int
        Tokens of each window, 0 where the modality is absent.
    weights : sequence of float
        Non-negative weight of each window; only ratios matter.
    total : int
        Tokens to keep, at most `sum(sizes)`.

    Returns
    -------
    list of int
        Budgets with `budget <= size` that sum to `total` exactly.
    """
    present = [w for w, size in enumerate(sizes) if size]
    budgets = [0] * len(sizes)
    for w in sorted(present, key=lambda w: -weights[w])[:total]:
        budgets[w] = 1
    open_windows = [w for w in present if 0 < budgets[w] < sizes[w]]
    remaining = total - sum(budgets)
    while remaining > 0 and open_windows:
        mass = sum(weights[w] for w in open_windows)
        shares = {
            w: remaining * (weights[w] / mass if mass > 0 else 1 / len(open_windows))
            for w in open_windows
        }
        full = [w for w in open_windows if shares[w] >= sizes[w] - budgets[w]]
        if not full:
            _largest_remainder(budgets, shares, remaining)
            break
        for w in full:
            remaining -= sizes[w] - budgets[w]
            budgets[w] = sizes[w]
        open_windows = [w for w in open_windows if budgets[w] < sizes[w]]
    return budgets


def _largest_remainder(budgets: list[int], shares: dict[int, float], remaining: int) -> None:
    """Add `shares`, which sum to `remaining`, to the budgets as whole tokens."""
    whole = {w: int(share) for w, share in shares.items()}
    left = remaining - sum(whole.values())
    by_fraction = sorted(shares, key=lambda w: whole[w] - shares[w])
    for order, w in enumerate(by_fraction):
        budgets[w] += whole[w] + (1 if order < left else 0)
