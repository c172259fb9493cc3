"""Bytes of weights, encoders, activations and KV cache, and the cards that they fit on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seats_cli.cost.flops import check_layers
from seats_cli.cost.token_counts import MediaSizes
from seats_cli.families.base import Architecture, AudioShape, VisionShape
from seats_cli.families.registry import family_of


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


# -------------------------------------------------------------------- weights

BITS = (16, 8, 4)
# Bytes of a weight that bitsandbytes quantizes: one with a scale for each row, or half of one with
# a float32 scale for each 64.
_QUANTIZED = {8: 1.0, 4: 0.5 + 4 / 64}


@dataclass(frozen=True)
class WeightCounts:
    """Weights of a thinker by what becomes of them; biases and norms, under 0.1 %, are left out."""

    decoder_linear: int  # linear layers of the decoder, which bitsandbytes quantizes
    experts: int  # one 3-D parameter for all experts of a layer, which it skips
    embedding: int  # with the LM head, unless they are tied
    encoders: int

    @classmethod
    def of(cls, shape: Architecture, *, tied_embeddings: bool = False) -> WeightCounts:
        """The weights of an architecture."""
        hidden, width = shape.hidden_size, shape.num_heads * shape.head_dim
        attention = 2 * hidden * (width + shape.num_kv_heads * shape.head_dim)
        experts = 3 * hidden * shape.moe_intermediate_size * shape.num_experts
        mlp = 0 if shape.num_experts else 3 * hidden * shape.intermediate_size
        return cls(
            decoder_linear=shape.num_layers * (attention + mlp),
            experts=shape.num_layers * (experts + hidden * shape.num_experts),
            embedding=(1 if tied_embeddings else 2) * shape.vocab_size * hidden,
            encoders=_vision_weights(shape.vision) + _audio_weights(shape, shape.audio),
        )

    @property
    def total(self) -> int:
        """All of them."""
        return self.decoder_linear + self.experts + self.embedding + self.encoders

    def bytes_in(self, bits: int, bytes_per_value: int = 2) -> int:
        """Bytes of the loaded model with linear layers of the decoder in 16, 8 or 4 bits."""
        if bits not in _QUANTIZED:
            return self.total * bytes_per_value
        rest = (self.total - self.decoder_linear) * bytes_per_value
        return rest + round(self.decoder_linear * _QUANTIZED[bits])


def _vision_weights(shape: VisionShape) -> int:
    hidden, wide = shape.hidden_size, shape.hidden_size * shape.merge_size**2
    matrices = 3 if shape.gated_mlp else 2
    block = 4 * hidden**2 + matrices * hidden * shape.intermediate_size
    mergers = (1 + len(shape.deepstack_blocks)) * wide * (wide + shape.out_hidden_size)
    return _patch_values(shape) * hidden + shape.depth * block + mergers


def _audio_weights(architecture: Architecture, shape: AudioShape) -> int:
    hidden = shape.hidden_size
    block = 4 * hidden**2 + 2 * hidden * shape.intermediate_size
    front, _ = family_of(architecture).audio_front(shape, 1)
    return front + shape.depth * block + hidden * shape.out_hidden_size


def _patch_values(shape: VisionShape) -> int:
    return shape.in_channels * shape.temporal_patch_size * shape.patch_size**2


# ------------------------------------------------------------------- encoders

# Patches that an MLP of the vision encoder is given at once: enough to keep any device busy.
MLP_ROWS = 1 << 15


def encoder_bytes(architecture: Architecture, sizes: MediaSizes, bytes_per_value: int) -> int:
    """Estimate of the largest number of bytes that encoding holds besides weights.

    The encoders run one after the other, each on all of the clip. In a block of the vision encoder
    either attention holds the most (normed states, queries, keys, values, and the rotation of
    queries and keys in float32), or the MLP, which takes `MLP_ROWS` patches at once. Pixel values
    are there in float32 and, where the model computes in another precision, in that as well. Fused
    kernels on a GPU need less.

    Parameters
    ----------
    sizes : MediaSizes
        What the encoders are given.
    bytes_per_value : int
        2 for float16 and bfloat16, 4 for float32.
    """
    vision = architecture.vision
    patches = sum(times * rows * columns for times, rows, columns in sizes.grids)
    pixels = _patch_values(vision) * (4 if bytes_per_value == 4 else 4 + bytes_per_value)
    rotation = 26 * vision.hidden_size  # 6.5 float32 values for each of a patch's
    attention = 5 * vision.hidden_size * bytes_per_value + rotation
    inner = (3 if vision.gated_mlp else 2) * vision.intermediate_size * bytes_per_value
    mlp = 2 * vision.hidden_size * bytes_per_value * patches + inner * min(patches, MLP_ROWS)
    deepstack = len(vision.deepstack_blocks) * vision.out_hidden_size * bytes_per_value
    kept = pixels + deepstack // vision.merge_size**2
    seen = patches * kept + max(patches * attention, mlp)
    frames = max(sizes.mel_frames, default=0)
    return max(seen, _audio_bytes(architecture, frames, bytes_per_value))


def _audio_bytes(architecture: Architecture, frames: int, bytes_per_value: int) -> int:
    shape, family = architecture.audio, family_of(architecture)
    if not frames:
        return 0
    hidden, positions = shape.hidden_size, family.audio_positions(frames)
    block = positions * (2 * hidden + max(4 * hidden, 2 * shape.intermediate_size))
    _, front = family.audio_front(shape, frames)
    # the sound, and as it is cut into chunks
    return (2 * frames * shape.num_mel_bins + max(block, front)) * bytes_per_value


# ---------------------------------------------------------------------- cards

CARDS = (12, 16, 24, 48, 80)  # GB on the box of a GPU, which are GiB
# Of a card, for the driver's context, kernels' workspaces and what an allocator cannot use.
_RESERVED = 1 << 30


@dataclass(frozen=True)
class MemoryNeed:
    """What a question takes on a GPU, unpruned and pruned, in bytes."""

    bits: int  # of linear layers in the decoder; all else has 16
    weight_bytes: int
    full_peak_bytes: int
    peak_bytes: int

    @property
    def full_fits(self) -> tuple[bool, ...]:
        """Whether the unpruned run fits each of `CARDS`."""
        return tuple(self.full_peak_bytes <= _usable(card) for card in CARDS)

    @property
    def fits(self) -> tuple[bool, ...]:
        """Whether the pruned run fits each of `CARDS`."""
        return tuple(self.peak_bytes <= _usable(card) for card in CARDS)


def _usable(card: int) -> int:
    return (card << 30) - _RESERVED


@dataclass(frozen=True)
class MemoryPlan:
    """Where the memory of a question goes, in bytes; computed in 16 bits."""

    encoder_bytes: int
    full_activation_bytes: int
    activation_bytes: int
    full_kv_bytes: int
    kv_bytes: int
    retain: float  # share of tokens to which the pruned numbers belong
    needs: tuple[MemoryNeed, ...]  # by precision; 16 bits alone where no other helps
    note: str | None  # why there is no other

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the cards that each precision fits on by the GB on their box."""
        needs = [
            {
                **asdict(need),
                "cards": [
                    {"gigabytes": card, "full_fits": full, "fits": pruned}
                    for card, full, pruned in zip(CARDS, need.full_fits, need.fits, strict=True)
                ],
            }
            for need in self.needs
        ]
        return {**asdict(self), "needs": needs}


def plan_memory(
    architecture: Architecture,
    sizes: MediaSizes,
    alive: Sequence[int],
    prompt: int,
    *,
    kv: str,
    retain: float,
    tied_embeddings: bool = False,
    bytes_per_value: int = 2,
) -> MemoryPlan:
    """What a question takes beside what GPUs have.

    Encoders and prefill do not run at the same time, so the larger of the two decides.

    Parameters
    ----------
    alive : sequence of int
        Tokens in each layer of the pruned run.
    prompt : int
        Tokens of the unpruned prompt.
    kv : str
        Policy of the pruned run's cache (`cached_tokens`).
    retain : float
        Share of tokens that is kept, for the report.
    bytes_per_value : int
        2 for float16 and bfloat16; 4 for float32, in which the need of 16 bits is that of 32.
    """
    full = [prompt] * architecture.num_layers
    encoders = encoder_bytes(architecture, sizes, bytes_per_value)
    runs = [(full, full), (list(alive), cached_tokens(alive, kv))]
    activations = [activation_bytes(architecture, tokens, bytes_per_value) for tokens, _ in runs]
    caches = [kv_bytes(architecture, cached, bytes_per_value) for _, cached in runs]
    # what the encoders gave to the LLM
    embedded = prompt * architecture.hidden_size * bytes_per_value
    peaks = [
        max(encoders, embedded + activation + cache)
        for activation, cache in zip(activations, caches, strict=True)
    ]
    counts = WeightCounts.of(architecture, tied_embeddings=tied_embeddings)
    needs = []
    for bits in BITS if not counts.experts else BITS[:1]:
        weights = counts.bytes_in(bits, bytes_per_value)
        needs.append(MemoryNeed(bits, weights, *(weights + peak for peak in peaks)))
    note = None
    if counts.experts:
        note = (
            "8 and 4 bits are left out: bitsandbytes skips the experts, "
            f"{100 * counts.experts / counts.total:.0f} % of these weights, because they are 3-D "
            "parameters."
        )
    return MemoryPlan(
        encoder_bytes=encoders,
        full_activation_bytes=activations[0],
        activation_bytes=activations[1],
        full_kv_bytes=caches[0],
        kv_bytes=caches[1],
        retain=retain,
        needs=tuple(needs),
        note=note,
    )
