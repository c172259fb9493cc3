"""The paper's accounting, for comparison with its tables (arXiv 2605.20035).

It counts one multiply-add as one FLOP, the LLM's prefill only, attention as the full square
of the sequence, and the LM head on every position that reaches it.
"""

from __future__ import annotations

from collections.abc import Sequence

from seats_cli.architecture import Architecture
from seats_cli.cost.flops import check_layers, head_flops, layer_flops


def layer_macs(architecture: Architecture, tokens: int) -> int:
    """Multiply-adds of one decoder layer; a mixture of experts counts the visited experts."""
    return layer_flops(architecture, tokens) // 2


def paper_prefill_macs(
    architecture: Architecture, alive: Sequence[int], final: int | None = None
) -> int:
    """Multiply-adds of the prefill of one prompt.

    Parameters
    ----------
    architecture : Architecture
        Shapes of the LLM.
    alive : sequence of int
        Tokens that each layer processes.
    final : int, optional
        Tokens that leave the last layer, where the LM head runs; by default those that
        enter it.

    Returns
    -------
    int
        Multiply-adds, which the paper calls FLOPs.

    Raises
    ------
    ValueError
        If there is not one count for each layer.
    """
    check_layers(architecture, alive)
    positions = (alive[-1] if alive else 0) if final is None else final
    layers = sum(layer_macs(architecture, tokens) for tokens in alive)
    return layers + head_flops(architecture, positions) // 2


def alive_after_drops(
    initial: int, drops: Sequence[tuple[int, int]], num_layers: int
) -> tuple[list[int], int]:
    """Tokens in each layer, and after the last one, from a list of drops.

    Parameters
    ----------
    initial : int
        Tokens that enter the first layer.
    drops : sequence of (int, int)
        Pairs of a 1-based layer and the tokens left after it, in any order; the last of
        several for one layer holds.
    num_layers : int
        Decoder layers.

    Returns
    -------
    alive : list of int
        Tokens that each layer processes.
    final : int
        Tokens that leave the last layer.
    """
    left_after = dict(drops)
    alive, current = [], initial
    for layer in range(1, num_layers + 1):
        alive.append(current)
        current = left_after.get(layer, current)
    return alive, current
