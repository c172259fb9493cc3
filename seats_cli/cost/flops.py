"""FLOPs of the LLM and of the encoders as they are executed.

Convention: 2 FLOPs per multiply-add; matrix products only (norms, activations, rotary
embedding and softmax are left out, as in `torch.utils.flop_counter`); attention as the full
square of the sequence, which is what an SDPA kernel is credited with although a causal one
may skip half; the LM head on the positions it runs on, one in a prefill for generation.

The formula of the vision encoder follows from its shape; an audio encoder's is its family's.

All functions return FLOPs. Those that take a count for each layer raise ValueError if there are
more or fewer (`check_layers`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from seats_cli.cost.token_counts import MediaSizes
from seats_cli.families.base import Architecture, VisionShape, parts
from seats_cli.families.registry import family_of


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


# ------------------------------------------------------------- encoders


def encoder_flops(architecture: Architecture, sizes: MediaSizes) -> int:
    """Both encoders on everything they are given."""
    audio = sum(audio_flops(architecture, frames) for frames in sizes.mel_frames)
    return vision_flops(architecture.vision, sizes.grids) + audio


def audio_flops(architecture: Architecture, mel_frames: int) -> int:
    """The audio encoder on one sound, by the formula of the model's family."""
    return family_of(architecture).audio_flops(architecture.audio, mel_frames) if mel_frames else 0


def vision_flops(shape: VisionShape, grids: Iterable[Sequence[int]]) -> int:
    """The vision encoder with its patch embedding and mergers.

    Parameters
    ----------
    shape : VisionShape
    grids : iterable of (int, int, int)
        Temporal grids, and patches in height and width, of each video or image.
    """
    grids = tuple(grids)
    patches = sum(times * height * width for times, height, width in grids)
    return packed_vision_flops(shape, patches, *vision_pairs(shape, grids))


def packed_vision_flops(
    shape: VisionShape, patches: int, full_pairs: int, windowed_pairs: int
) -> int:
    """The vision encoder on any set of patches.

    Parameters
    ----------
    shape : VisionShape
    patches : int
        Patches that are encoded.
    full_pairs, windowed_pairs : int
        Query-key pairs in one block that sees whole grids, and in one that sees windows.
    """
    patch_values = shape.in_channels * shape.temporal_patch_size * shape.patch_size**2
    embedding = 2 * patches * patch_values * shape.hidden_size
    return embedding + vision_block_flops(shape, 0, patches, full_pairs, windowed_pairs)


def vision_block_flops(
    shape: VisionShape, first: int, patches: int, full_pairs: int, windowed_pairs: int
) -> int:
    """The vision encoder from one of its blocks on, with the mergers behind them.

    Parameters
    ----------
    first : int
        The block, from 0.
    patches, full_pairs, windowed_pairs : int
        As for `packed_vision_flops`.
    """
    hidden, blocks = shape.hidden_size, range(first, shape.depth)
    matrices = 3 if shape.gated_mlp else 2
    dense = 2 * patches * (4 * hidden**2 + matrices * hidden * shape.intermediate_size)
    whole = shape.window_size is None
    full_blocks = sum(whole or block in shape.full_attention_blocks for block in blocks)
    pairs = full_blocks * full_pairs + (len(blocks) - full_blocks) * windowed_pairs
    merged = patches // shape.merge_size**2
    wide = hidden * shape.merge_size**2
    merger = 2 * merged * wide * (wide + shape.out_hidden_size)
    mergers = 1 + sum(block in blocks for block in shape.deepstack_blocks)
    return len(blocks) * dense + 2 * 2 * pairs * hidden + mergers * merger


def vision_pairs(shape: VisionShape, grids: Iterable[Sequence[int]]) -> tuple[int, int]:
    """Query-key pairs of complete grids: in a block that sees them whole, and in a windowed one."""
    full = windowed = 0
    for times, height, width in grids:
        whole, parts_of_it = _attention_pairs(shape, height, width)
        full, windowed = full + times * whole, windowed + times * parts_of_it
    return full, windowed


def _attention_pairs(shape: VisionShape, height: int, width: int) -> tuple[int, int]:
    """Query-key pairs in one temporal grid: of a full block, and of a windowed one."""
    full = (height * width) ** 2
    if shape.window_size is None:
        return full, full
    # Windows hold whole merge units; the last ones of a row or column may be smaller.
    side = shape.window_size // shape.merge_size // shape.patch_size * shape.merge_size
    rows, columns = (sum(n * n for n in parts(length, side)) for length in (height, width))
    return full, rows * columns
