"""Qwen2.5-Omni (3B and 7B), the bundled model, and `cpu-0.5b`.

The named shapes are those of the published config.json files. They are written out in full: the
defaults of the configuration classes differ from the checkpoints in places (transformers 5.24
gives the vision encoder a width of 3,584 instead of 1,280). `cpu-0.5b` is for machines without a
GPU: the decoder of Qwen2.5-0.5B, a quarter as wide as the 7B's, with encoders a quarter as wide and
half as deep as the 7B's, which leaves about the same share of the work to them.
"""

from __future__ import annotations

from typing import Any

from seats_cli.families.base import (
    AudioShape,
    Checkpoint,
    Family,
    VisionShape,
    audio_block_flops,
    audio_fields,
    halved,
    parts,
    vision_fields,
)


def _shapes(config: Any) -> dict[str, Any]:
    """Encoders of a `Qwen2_5OmniThinkerConfig`."""
    vision, audio = config.vision_config, config.audio_config
    return {
        "vision": VisionShape(
            **vision_fields(vision),
            gated_mlp=True,
            window_size=vision.window_size,
            full_attention_blocks=tuple(vision.fullatt_block_indexes),
        ),
        "audio": AudioShape(
            **audio_fields(audio),
            window_frames=2 * audio.n_window,
            conv_channels=audio.d_model,
            tokens_per_second=25.0,
        ),
        "positions_per_second": getattr(config, "position_id_per_seconds", 25),
    }


def _audio_flops(shape: AudioShape, frames: int) -> int:
    """Two convolutions over chunks of `window_frames`, blocks, pairwise pooling, projection."""
    hidden = shape.hidden_size
    chunks = parts(frames, shape.window_frames)
    longest = max(chunks)  # chunks are padded to the longest before the convolutions
    convolutions = len(chunks) * 2 * 3 * hidden
    convolutions *= longest * shape.num_mel_bins + halved(longest) * hidden
    segments = [halved(chunk) for chunk in chunks]
    projection = 2 * FAMILY.audio_tokens(frames) * hidden * shape.out_hidden_size
    return convolutions + audio_block_flops(shape, segments) + projection


def _audio_front(shape: AudioShape, frames: int) -> tuple[int, int]:
    """Two 1-D convolutions with kernels of 3; inputs, activations and masks are held together."""
    weights = 3 * shape.hidden_size * (shape.num_mel_bins + shape.hidden_size)
    return weights, 11 * frames * shape.hidden_size // 2  # measured


_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_AUDIO = {
    "num_mel_bins": 128,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "d_model": 1280,
    "max_source_positions": 1500,
    "n_window": 100,
}
_ROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}


def _named(
    text: dict[str, Any],
    vision: dict[str, Any] | None = None,
    audio: dict[str, Any] | None = None,
    *,
    tied: bool = False,
) -> dict[str, Any]:
    """A thinker's config.json; the encoders are the published ones, with changes."""
    width = text["hidden_size"]
    return {
        "model_type": "qwen2_5_omni_thinker",
        "tie_word_embeddings": tied,
        "text_config": {
            "max_position_embeddings": 32768,
            "rope_parameters": _ROPE,
            "tie_word_embeddings": tied,
            **text,
        },
        "vision_config": {**_VISION, **(vision or {}), "out_hidden_size": width},
        "audio_config": {**_AUDIO, **(audio or {}), "output_dim": width},
    }


FAMILY = Family(
    name="qwen2_5_omni",
    title="Qwen2.5-Omni",
    model_types=(
        "qwen2_5_omni",
        "qwen2_5_omni_thinker",
        # As the authors of EchoingPixels save it; the decoder, its encoders and names are the same.
        "qwen2_5_omni_compress",
        "qwen2_5_omni_compress_thinker",
    ),
    inner_config="thinker_config",
    shapes=_shapes,
    pads_sound=True,  # to 300 s
    shared_positions=2,
    audio_positions=halved,  # one stride-2 convolution: 50 positions per second
    audio_pool=2,
    audio_statistics_window=100,  # 2 s
    audio_flops=_audio_flops,
    audio_front=_audio_front,
    retention_pairs=(
        (0.10, 0.06, 0.35),
        (0.15, 0.10, 0.45),
        (0.25, 0.20, 0.55),
        (0.35, 0.30, 0.65),
    ),
    temperature=0.1,
    published_layers={28: ((16, 18, 20), 24)},
    named_shapes={
        "qwen2.5-omni-3b": _named(
            {
                "vocab_size": 151936,
                "hidden_size": 2048,
                "intermediate_size": 11008,
                "num_hidden_layers": 36,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
            }
        ),
        "qwen2.5-omni-7b": _named(
            {
                "vocab_size": 152064,
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
            }
        ),
        "cpu-0.5b": _named(
            {
                "vocab_size": 151936,
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "rope_parameters": {**_ROPE, "mrope_section": [8, 12, 12]},
            },
            {
                "depth": 16,
                "hidden_size": 320,
                "intermediate_size": 855,
                "num_heads": 4,
                "fullatt_block_indexes": [7, 15],
            },
            {
                "encoder_layers": 16,
                "encoder_attention_heads": 5,
                "encoder_ffn_dim": 1280,
                "d_model": 320,
            },
            tied=True,
        ),
    },
    checkpoints={
        "Qwen/Qwen2.5-Omni-3B": Checkpoint("qwen2.5-omni-3b", 12),
        "Qwen/Qwen2.5-Omni-7B": Checkpoint("qwen2.5-omni-7b", 22),
    },
)
