"""The retention schedule of Stage II: how much each drop step keeps.

Pure Python; importing this module does not import torch. Source: arXiv 2605.20035, the
progressive schedule of Stage II.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import exp, fsum

RATIO_DECIMALS = 4


def active_layers(
    num_layers: int, drop_layers: Sequence[int], late_layer: int | None
) -> tuple[list[int], int]:
    """Drop layers that take effect, and the last layer that sees any audio-visual token.

    Parameters
    ----------
    num_layers : int
        Decoder layers L.
    drop_layers : sequence of int
        1-based layers after which tokens are dropped, in any order.
    late_layer : int | None
        First layer without audio-visual tokens; None for no late block.

    Returns
    -------
    steps : list of int
        The drop layers below the last audio-visual layer, ascending. A drop right after that
        layer would coincide with the late removal (or with the end of the model).
    last_layer : int
        `min(late_layer - 1, num_layers)`.
    """
    last_layer = num_layers if late_layer is None else min(late_layer - 1, num_layers)
    return sorted(layer for layer in drop_layers if layer < last_layer), last_layer


def alive_fractions(initial: float, steps: int, strength: float) -> list[float]:
    """Fractions alive before the first drop step and after each one.

    Parameters
    ----------
    initial : float
        Fraction N_0 alive after Stage I.
    steps : int
        Number of drop steps K.
    strength : float
        Share t in [0, 1] of N_0 that all steps together remove; step i takes the part
        `e**(i-1) / sum(e**(k-1))` of it, so that deeper steps remove exponentially more.

    Returns
    -------
    list of float
        N_0, N_1, ..., N_K.
    """
    weights = [exp(step) for step in range(steps)]
    total = fsum(weights)
    removed = accumulate((weight / total for weight in weights), initial=0.0)
    return [initial * (1.0 - strength * share) for share in removed]


def average_of_fractions(
    fractions: Sequence[float],
    num_layers: int,
    drop_layers: Sequence[int],
    late_layer: int | None,
) -> float:
    """Average retention over all layers when `fractions` are alive between the drop steps.

    Parameters
    ----------
    fractions : sequence of float
        N_0 ... N_K, one more than there are effective drop layers.
    num_layers, drop_layers, late_layer
        As for `active_layers`.

    Returns
    -------
    float
        Mean over the L layers of the fraction of a modality's tokens alive in the layer.

    Raises
    ------
    ValueError
        If the number of fractions does not fit the number of effective drop layers.
    """
    steps, last_layer = active_layers(num_layers, drop_layers, late_layer)
    if len(fractions) != len(steps) + 1:
        raise ValueError(
            f"fractions has {len(fractions)} values; {len(steps)} effective drop layers "
            f"need {len(steps) + 1}"
        )
    bounds = [0, *steps, last_layer]
    spans = [end - start for start, end in pairwise(bounds)]
    return fsum(n * span for n, span in zip(fractions, spans, strict=True)) / num_layers


def average_retention(
    initial: float,
    ratios: Sequence[float],
    num_layers: int,
    drop_layers: Sequence[int],
    late_layer: int | None,
) -> float:
    """Average retention that an initial fraction and keep ratios result in.

    Parameters
    ----------
    initial : float
        Fraction alive after Stage I.
    ratios : sequence of float
        Keep ratio of each effective drop step.
    num_layers, drop_layers, late_layer
        As for `active_layers`.

    Returns
    -------
    float
        Mean over all layers of the fraction alive, before rounding to whole tokens.
    """
    fractions = list(accumulate(ratios, lambda alive, ratio: alive * ratio, initial=initial))
    return average_of_fractions(fractions, num_layers, drop_layers, late_layer)


def reachable_range(
    initial: float, num_layers: int, drop_layers: Sequence[int], late_layer: int | None
) -> tuple[float, float]:
    """Lowest and highest average retention that drop steps can give from `initial`.

    Parameters
    ----------
    initial : float
        Fraction alive after Stage I.
    num_layers, drop_layers, late_layer
        As for `active_layers`.

    Returns
    -------
    lowest, highest : float
        Averages when the steps remove everything and nothing; equal without drop steps.
    """
    steps, _ = active_layers(num_layers, drop_layers, late_layer)
    lowest, highest = (
        average_of_fractions(
            alive_fractions(initial, len(steps), strength), num_layers, drop_layers, late_layer
        )
        for strength in (1.0, 0.0)
    )
    return lowest, highest


def keep_ratios(
    target: float,
    initial: float,
    num_layers: int,
    drop_layers: Sequence[int],
    late_layer: int | None,
) -> list[float]:
    """Keep ratio of each drop step so that the average over all layers equals `target`.

    The average is linear in the removal strength t, so t follows directly; it is clamped to
    [0, 1] where the target is out of reach (see `reachable_range`).

    Parameters
    ----------
    target : float
        Average retention R of the modality, a fraction.
    initial : float
        Fraction alive after Stage I. Values above 1 are taken as they are.
    num_layers : int
        Decoder layers L.
    drop_layers : sequence of int
        1-based layers after which tokens are dropped; those at or beyond the late removal
        are ignored.
    late_layer : int | None
        First layer without audio-visual tokens; None for no late block.

    Returns
    -------
    list of float
        Fraction of the tokens alive before each effective step that stays, rounded to 4
        decimals.
    """
    steps, _ = active_layers(num_layers, drop_layers, late_layer)
    lowest, highest = reachable_range(initial, num_layers, drop_layers, late_layer)
    spread = highest - lowest
    strength = min(1.0, max(0.0, (highest - target) / spread)) if spread > 0 else 0.0
    fractions = alive_fractions(initial, len(steps), strength)
    return [
        round(after / before, RATIO_DECIMALS) if before > 0 else 0.0
        for before, after in pairwise(fractions)
    ]
