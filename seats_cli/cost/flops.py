"""FLOPs of the LLM as it is executed.

Convention: 2 FLOPs per multiply-add; matrix products only (norms, activations, rotary
embedding and softmax are left out, as in `torch.utils.flop_counter`); attention as the full
square of the sequence, which is what an SDPA kernel is credited with although a causal one
may skip half; the LM head on the positions it runs on, one in a prefill for generation.

All functions return FLOPs. Those that take a count for each layer raise ValueError if there are
more or fewer (`check_layers`).
"""

from __future__ import annotations

from collections.abc import Sequence

from seats_cli.families.base import Architecture


def projection_flops(architecture: Architecture, tokens: int) -> int:
    """Query, key, value and output projections of one layer (grouped-query attention)."""
    query_width = architecture.num_heads * architecture.head_dim
    key_width = architecture.num_kv_heads * architecture.head_dim
    return 2 * tokens * architecture.hidden_size * (2 * query_width + 2 * key_width)


def attention_flops(architecture: Architecture, queries: int, keys: int) -> int:
    """QK^T and AV of one layer, every query against every key."""
    return 2 * 2 * queries * keys * architecture.num_heads * architecture.head_dim


def mlp_flops(architecture: Architecture, tokens: int) -> int:
    """SwiGLU of one layer, or the router and the experts that each token visits."""
    hidden = architecture.hidden_size
    if not architecture.num_experts:
        return 2 * tokens * 3 * hidden * architecture.intermediate_size
    router = 2 * tokens * hidden * architecture.num_experts
    visited = tokens * architecture.experts_per_token
    return router + 2 * visited * 3 * hidden * architecture.moe_intermediate_size


def layer_flops(architecture: Architecture, tokens: int, keys: int | None = None) -> int:
    """One decoder layer.

    Parameters
    ----------
    tokens : int
        Tokens that the layer processes.
    keys : int, optional
        Tokens they attend to, cached ones included; by default just themselves.
    """
    return (
        projection_flops(architecture, tokens)
        + attention_flops(architecture, tokens, tokens if keys is None else keys)
        + mlp_flops(architecture, tokens)
    )


def head_flops(architecture: Architecture, positions: int) -> int:
    """The LM head on some positions."""
    return 2 * positions * architecture.hidden_size * architecture.vocab_size


def prefill_flops(architecture: Architecture, alive: Sequence[int], head_positions: int = 1) -> int:
    """The prefill of one prompt, without encoders and selection.

    Parameters
    ----------
    alive : sequence of int
        Tokens that each layer processes.
    head_positions : int
        Positions that the LM head runs on.
    """
    check_layers(architecture, alive)
    layers = sum(layer_flops(architecture, tokens) for tokens in alive)
    return layers + head_flops(architecture, head_positions)


def decode_flops(architecture: Architecture, cached: Sequence[int], steps: int) -> int:
    """Steps of one token each after a prefill.

    Parameters
    ----------
    cached : sequence of int
        Tokens in each layer's KV cache after the prefill.
    steps : int
        Answer tokens that are fed back to the model.
    """
    check_layers(architecture, cached)
    # Step i sees the cache, the i - 1 earlier answer tokens and itself.
    seen = sum(steps * tokens for tokens in cached)
    seen += len(cached) * steps * (steps + 1) // 2
    fixed = projection_flops(architecture, 1) + mlp_flops(architecture, 1)
    return (
        steps * (architecture.num_layers * fixed + head_flops(architecture, 1))
        + attention_flops(architecture, 1, 1) * seen
    )


def check_layers(architecture: Architecture, counts: Sequence[int]) -> None:
    """Refuse counts that are not one for each decoder layer."""
    if len(counts) != architecture.num_layers:
        raise ValueError(
            f"{len(counts)} token counts for {architecture.num_layers} layers; "
            "one for each is needed"
        )
