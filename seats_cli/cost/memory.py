"""Bytes of the KV cache, and an estimate of those of the activations."""

from __future__ import annotations

from collections.abc import Sequence

from seats_cli.cost.flops import check_layers
from seats_cli.families.base import Architecture


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
    cached : sequence of int
        Tokens in each layer's cache.
    bytes_per_value : int
        2 for float16 and bfloat16, 4 for float32.
    """
    check_layers(architecture, cached)
    per_token = 2 * architecture.num_kv_heads * architecture.head_dim * bytes_per_value
    return per_token * sum(cached)


def activation_bytes(architecture: Architecture, alive: Sequence[int], bytes_per_value: int) -> int:
    """Estimate of the largest number of bytes that a prefill holds besides weights and cache.

    The layer with the most tokens decides: the hidden states and their residual, and the larger
    of what attention holds at once (normed states, queries, keys, values, output) and what the
    MLP holds (normed states, gate, up and their product; with experts, for the tokens that each
    visits). A fused attention kernel is assumed, which never holds the weights of all pairs.
    Allocators round up and keep freed blocks, so a measured peak is somewhat larger.

    Parameters
    ----------
    alive : sequence of int
        Tokens that each layer processes.
    bytes_per_value : int
        2 for float16 and bfloat16, 4 for float32.
    """
    check_layers(architecture, alive)
    query_width = architecture.num_heads * architecture.head_dim
    key_width = architecture.num_kv_heads * architecture.head_dim
    attention = architecture.hidden_size + 2 * query_width + 2 * key_width
    if architecture.num_experts:
        visited = architecture.experts_per_token * architecture.moe_intermediate_size
        copies = architecture.experts_per_token * architecture.hidden_size
        mlp = architecture.hidden_size + copies + 3 * visited
    else:
        mlp = architecture.hidden_size + 3 * architecture.intermediate_size
    values = 2 * architecture.hidden_size + max(attention, mlp)
    return max(alive, default=0) * values * bytes_per_value
