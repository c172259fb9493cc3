"""What a model family is, as plain numbers and functions of numbers: no torch in here.

A family is one file that ends in a `FAMILY`, and a line in `seats_cli.families.registry`. Planning
and cost accounting need no more than that; running a model needs an adapter beside it
(`seats_cli.models`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

SAMPLE_RATE = 16_000  # Hz, what Whisper-style feature extractors expect
HOP = SAMPLE_RATE // 100  # samples per mel frame: 100 frames per second
MIN_SAMPLES = 10 * HOP  # a shorter sound would give the encoder no token at all: it is padded

# The official pipeline's budget for a whole video: 90 % of a 128,000 token context.
TOKEN_BUDGET = 128_000 * 9 // 10
MIN_TOKENS_PER_FRAME, MAX_TOKENS_PER_FRAME = 128, 768

# Overall share of audio-visual tokens, and the average retention of video and of audio it means.
Pairs = tuple[tuple[float, float, float], ...]

# From the paper (arXiv 2605.20035, implementation details), for all families alike: tokens that
# enter the LLM as a multiple of the average retention, overall shares, and how deep tokens are
# dropped in models whose layers are not published.
ENCODER_SCALE = 1.4
PRESETS = {"35%": 0.35, "25%": 0.25, "15%": 0.15, "10%": 0.10}
_DROP_DEPTHS = (0.57, 0.64, 0.71)
_LATE_DEPTH = 0.86


def parts(length: int, part: int) -> list[int]:
    """`length` cut into runs of `part`, the last one shorter."""
    return [part] * (length // part) + ([length % part] if length % part else [])


def halved(length: int) -> int:
    """Outputs of a convolution with stride 2, kernel 3 and padding 1."""
    return (length - 1) // 2 + 1


@dataclass(frozen=True)
class FrameSizing:
    """Size rules of the vision processor, in pixels of a frame (qwen-omni-utils names)."""

    factor: int = 28  # both sides become multiples: patch size times merge size
    min_pixels: int = MIN_TOKENS_PER_FRAME * 28 * 28  # height x width of one frame
    max_pixels: int = MAX_TOKENS_PER_FRAME * 28 * 28  # wins where the two contradict
    # Of all frames together, two counted as one because they share their tokens; None: no bound.
    total_pixels: int | None = TOKEN_BUDGET * 28 * 28

    @classmethod
    def for_factor(
        cls, factor: int, *, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> FrameSizing:
        """The official rules for tokens of `factor` x `factor` pixels, or a model's own bounds."""
        area = factor * factor
        return cls(
            factor,
            MIN_TOKENS_PER_FRAME * area if min_pixels is None else min_pixels,
            MAX_TOKENS_PER_FRAME * area if max_pixels is None else max_pixels,
            TOKEN_BUDGET * area,
        )

    @classmethod
    def for_model(cls, vision: VisionShape, own: Mapping[str, Any]) -> FrameSizing:
        """The rules for a model, from its shapes and its own settings (see `with_own_settings`)."""
        bounds = {name: own[name] for name in ("min_pixels", "max_pixels") if name in own}
        return cls.for_factor(vision.patch_size * vision.merge_size, **bounds)


@dataclass(frozen=True)
class VisionShape:
    """The vision encoder."""

    depth: int  # blocks
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int  # side of a square patch in pixels
    temporal_patch_size: int  # frames per grid
    merge_size: int  # side of the merge unit in patches: merge_size**2 become one LLM token
    in_channels: int
    out_hidden_size: int  # of merged tokens: the hidden size of the LLM
    gated_mlp: bool  # SwiGLU (three matrices), or a plain MLP of two
    window_size: int | None = None  # side of an attention window in pixels; None: whole grids
    full_attention_blocks: tuple[int, ...] = ()  # from 0, those that see whole grids all the same
    deepstack_blocks: tuple[int, ...] = ()  # from 0, those merged again for the first LLM layers


@dataclass(frozen=True)
class AudioShape:
    """The audio encoder."""

    depth: int  # blocks
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_mel_bins: int  # bands of the input, which has 100 frames per second
    out_hidden_size: int  # of audio tokens: the hidden size of the LLM
    window_frames: int  # mel frames that attend to each other in one segment
    conv_channels: int  # of the convolutional front end
    tokens_per_second: float  # in the LLM


@dataclass(frozen=True)
class Architecture:
    """The LLM that answers, its encoders, and the defaults of SEATS for it."""

    family: str  # name of a registered family
    num_layers: int  # decoder layers, numbered from 1 everywhere
    hidden_size: int
    intermediate_size: int  # of a dense MLP
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int  # rows of the LM head
    vision: VisionShape
    audio: AudioShape
    num_experts: int = 0  # 0 for a dense MLP, as the next two
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    deepstack_layers: int = 0  # first decoder layers whose output receives DeepStack features
    drop_layers: tuple[int, ...] = ()  # tokens leave after these
    late_layer: int | None = None  # first layer of the late block, without audio-visual tokens
    temperature: float = 0.1  # softmax of the window budgets
    max_positions: int = 32768  # context length in tokens
    positions_per_second: float = 25.0  # of picture and sound (M-RoPE)
    retention_pairs: Pairs = ()  # the model's own, in place of its family's
    layers_from: str = "depth"  # "paper", "depth" (in proportion) or "model" (its config.json)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on the hub: the named shape that it has, and the size of its download."""

    shape: str
    gigabytes: int


@dataclass(frozen=True, eq=False)
class Family:
    """Everything that is known of a family without running a model of it."""

    name: str  # as in `Architecture.family`
    title: str  # as people say
    model_types: tuple[str, ...]  # of its config.json files
    # From a config (with the attributes of the transformers class) to the fields of `Architecture`
    # that `describe` does not know: both encoders, and experts.
    shapes: Callable[[Any], dict[str, Any]]
    # Whether the official processor puts silence behind a sound: then a hop that the sound begins
    # counts as a mel frame, else only those that it fills.
    pads_sound: bool
    audio_positions: Callable[[int], int]  # of the encoder, from the mel frames of a sound
    audio_flops: Callable[[AudioShape, int], int]  # of the encoder on mel frames, at least 1
    audio_pool: int  # encoder positions that become one LLM token
    audio_statistics_window: int  # encoder positions per softmax of the importance (Stage I)
    retention_pairs: Pairs
    temperature: float  # softmax of the window budgets
    # From a number of layers to drop layers and the first layer of the late block.
    published_layers: Mapping[int, tuple[tuple[int, ...], int | None]] = field(default_factory=dict)
    # Of the convolutions in front of the audio encoder: weights, and values that they hold at their
    # largest for the mel frames of a sound.
    audio_front: Callable[[AudioShape, int], tuple[int, int]] = lambda shape, frames: (0, 0)
    # Whether positions of picture and sound are time (M-RoPE), or places in the prompt.
    timed_positions: bool = True
    # Positions that the marks around a picture and those around its sound have in common.
    shared_positions: int = 0
    inner_config: str = ""  # where the config of a larger model holds that of the one that answers
    # config.json values by name, to plan and to measure without a checkpoint.
    named_shapes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)  # by hub id

    def mel_frames(self, samples: int) -> int:
        """Mel frames of a sound of so many samples."""
        samples = max(samples, MIN_SAMPLES)
        return -(-samples // HOP) if self.pads_sound else samples // HOP

    def audio_tokens(self, mel_frames: int) -> int:
        """LLM tokens of a sound; positions left over at its end make none."""
        return self.audio_positions(mel_frames) // self.audio_pool

    def describe(self, config: Any) -> Architecture:
        """Shapes and defaults of a model from its config, or an object with the same attributes."""
        text = getattr(config, "text_config", config)
        depth, heads = text.num_hidden_layers, text.num_attention_heads
        drop_layers, late_layer = self.default_layers(depth)
        return Architecture(
            family=self.name,
            num_layers=depth,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_heads=heads,
            num_kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocab_size=text.vocab_size,
            drop_layers=drop_layers,
            late_layer=late_layer,
            temperature=self.temperature,
            max_positions=text.max_position_embeddings,
            layers_from="paper" if depth in self.published_layers else "depth",
            **self.shapes(config),
        )

    def default_layers(self, num_layers: int) -> tuple[tuple[int, ...], int | None]:
        """Drop layers and the first layer of the late block for a model of `num_layers`.

        The published layers where there are any; otherwise 57, 64, 71 and 86 % of the depth,
        rounded. Where rounding makes layers meet, the drop layers move down the model, and those
        that would reach the late block are left out. In very shallow models the late block
        starts later, or not at all, so that Stage I does not have to keep more than everything.

        Parameters
        ----------
        num_layers : int
            Decoder layers L.

        Returns
        -------
        drop_layers : tuple of int
            1-based layers after which tokens are dropped, strictly increasing.
        late_layer : int | None
            First layer without audio-visual tokens.
        """
        if num_layers in self.published_layers:
            return self.published_layers[num_layers]
        # The late block must leave room for the target: scale * (late - 1) / L >= 1.
        late_layer = next(
            (
                layer
                for layer in range(max(2, round(_LATE_DEPTH * num_layers)), num_layers + 1)
                if ENCODER_SCALE * (layer - 1) >= num_layers
            ),
            None,
        )
        last_layer = num_layers if late_layer is None else late_layer - 1
        drops: list[int] = []
        for depth in _DROP_DEPTHS:
            drops.append(max(1, round(depth * num_layers), drops[-1] + 1 if drops else 1))
        return tuple(layer for layer in drops if layer < last_layer), late_layer

    def retention_pair(self, overall: float, own: Pairs = ()) -> tuple[float, float]:
        """Average retention of video and of audio for an overall share.

        The pairs are interpolated linearly, up to (1, 1) at 1; below the smallest share both
        shrink in proportion.

        Parameters
        ----------
        overall : float
            Nominal share of audio-visual tokens, in (0, 1].
        own : tuple of (overall, video, audio)
            A model's own pairs, in place of the family's.

        Returns
        -------
        video, audio : float
            Average fractions over all layers.
        """
        known = {share: (video, audio) for share, video, audio in own or self.retention_pairs}
        pairs = dict(sorted({**known, 1.0: (1.0, 1.0)}.items()))
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


# What families have in common. The attributes are those of transformers' configuration classes.


def vision_fields(vision: Any) -> dict[str, Any]:
    """The fields of `VisionShape` under the names that Qwen's vision configs have."""
    return {
        "depth": vision.depth,
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_heads": vision.num_heads,
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "in_channels": vision.in_channels,
        "out_hidden_size": vision.out_hidden_size,
    }


def audio_fields(audio: Any) -> dict[str, Any]:
    """The fields of `AudioShape` under the names that Whisper's configs have."""
    return {
        "depth": audio.encoder_layers,
        "hidden_size": audio.d_model,
        "intermediate_size": audio.encoder_ffn_dim,
        "num_heads": audio.encoder_attention_heads,
        "num_mel_bins": audio.num_mel_bins,
        "out_hidden_size": audio.output_dim,
    }


def audio_block_flops(shape: AudioShape, segments: Sequence[int]) -> int:
    """All transformer blocks of an audio encoder; positions attend within their segment."""
    hidden = shape.hidden_size
    dense = 2 * sum(segments) * (4 * hidden**2 + 2 * hidden * shape.intermediate_size)
    attention = 2 * 2 * hidden * sum(length**2 for length in segments)
    return shape.depth * (dense + attention)
