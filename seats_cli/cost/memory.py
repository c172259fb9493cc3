"""Bytes of the KV cache."""

from __future__ import annotations

from collections.abc import Sequence

from seats_cli.architecture import Architecture
from seats_cli.cost.flops import check_layers


def cached_tokens(alive: Sequence[int], kv: str) -> list[int]:
    """Tokens in each layer's cache after the prefill.

    Parameters
    ----------
    alive : sequence of int
        Tokens that each layer processes.
    kv : str
        "layerwise": every layer keeps what it processed. "survivors": every layer keeps only
        the tokens that are still alive in the last one.

    Returns
    -------
    list of int
        One count for each layer.

    Raises
    ------
    ValueError
        If the policy is unknown.
    """
    if kv == "layerwise":
        return list(alive)
    if kv == "survivors":
        return [alive[-1]] * len(alive) if alive else []
    raise ValueError(f"kv must be layerwise or survivors, got {kv!r}")


def kv_bytes(architecture: Architecture, cached: Sequence[int], bytes_per_value: int) -> int:
    """Bytes of keys and values.

    Parameters
    ----------
    architecture : Architecture
        Shapes of the LLM.
    cached : sequence of int
        Tokens in each layer's cache.
    bytes_per_value : int
        2 for float16 and bfloat16, 4 for float32.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    ValueError
        If there is not one count for each layer.
    """
    check_layers(architecture, cached)
    per_token = 2 * architecture.num_kv_heads * architecture.head_dim * bytes_per_value
    return per_token * sum(cached)
