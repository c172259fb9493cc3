"""The settings that the paper publishes, and how they carry over to other depths and budgets.

Source: arXiv 2605.20035, implementation details. Nothing here imports torch.
"""

from __future__ import annotations

from itertools import pairwise

ENCODER_SCALE = 1.4

# Average retention (video, audio) for each overall share of audio-visual tokens.
_QWEN2_5_PAIRS = {0.10: (0.06, 0.35), 0.15: (0.10, 0.45), 0.25: (0.20, 0.55), 0.35: (0.30, 0.65)}
_QWEN3_PAIRS = {0.10: (0.07, 0.45), 0.15: (0.12, 0.50), 0.25: (0.22, 0.60), 0.35: (0.32, 0.70)}
_PAIRS = {"qwen3_omni_moe": _QWEN3_PAIRS}

_TEMPERATURES = {"qwen3_omni_moe": 0.3}

_LAYERS = {
    ("qwen2_5_omni", 28): ((16, 18, 20), 24),
    ("qwen3_omni_moe", 48): ((27, 31, 35), 40),
}
_DROP_DEPTHS = (0.57, 0.64, 0.71)
_LATE_DEPTH = 0.86

PRESETS = {"35%": 0.35, "25%": 0.25, "15%": 0.15, "10%": 0.10}


def default_temperature(family: str) -> float:
    """Softmax temperature of the window budgets that the paper uses for `family`."""
    return _TEMPERATURES.get(family, 0.1)


Pairs = tuple[tuple[float, float, float], ...]


def retention_pair(family: str, overall: float, own: Pairs = ()) -> tuple[float, float]:
    """Average retention of video and of audio for an overall share.

    The published pairs are interpolated linearly, up to (1, 1) at 1; below the smallest
    published share both shrink in proportion.

    Parameters
    ----------
    family : str
        Architecture family; unknown ones get the pairs of Qwen2.5-Omni.
    overall : float
        Nominal share of audio-visual tokens, in (0, 1].
    own : tuple of (overall, video, audio)
        A model's own pairs, in place of the published ones.

    Returns
    -------
    video, audio : float
        Average fractions over all layers.
    """
    known = {share: (video, audio) for share, video, audio in sorted(own)}
    pairs = {**(known or _PAIRS.get(family, _QWEN2_5_PAIRS)), 1.0: (1.0, 1.0)}
    if overall in pairs:
        return pairs[overall]
    smallest = min(pairs)
    if overall < smallest:
        video, audio = pairs[smallest]
        return video * overall / smallest, audio * overall / smallest
    below, above = next(span for span in pairwise(pairs) if span[0] < overall < span[1])
    part = (overall - below) / (above - below)
    (video, audio), (video_above, audio_above) = pairs[below], pairs[above]
    return video + part * (video_above - video), audio + part * (audio_above - audio)


def default_layers(family: str, num_layers: int) -> tuple[tuple[int, ...], int | None]:
    """Drop layers and the first layer of the late block for a model of `num_layers`.

    The published layers where there are any; otherwise 57, 64, 71 and 86 % of the depth,
    rounded. Where rounding makes layers meet, the drop layers move down the model, and those
    that would reach the late block are left out. In very shallow models the late block
    starts later, or not at all, so that Stage I does not have to keep more than everything.

    Parameters
    ----------
    family : str
        Architecture family.
    num_layers : int
        Decoder layers L.

    Returns
    -------
    drop_layers : tuple of int
        1-based layers after which tokens are dropped, strictly increasing.
    late_layer : int | None
        First layer without audio-visual tokens.
    """
    if (family, num_layers) in _LAYERS:
        return _LAYERS[family, num_layers]
    # The late block must leave room for the target: scale * (late - 1) / L >= 1.
    first = max(2, round(_LATE_DEPTH * num_layers))
    late_layer = next(
        (
            layer
            for layer in range(first, num_layers + 1)
            if ENCODER_SCALE * (layer - 1) >= num_layers
        ),
        None,
    )
    last_layer = num_layers if late_layer is None else late_layer - 1
    drops: list[int] = []
    for depth in _DROP_DEPTHS:
        drops.append(max(1, round(depth * num_layers), drops[-1] + 1 if drops else 1))
    return tuple(layer for layer in drops if layer < last_layer), late_layer
