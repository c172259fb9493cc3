"""Qwen3-Omni (30B-A3B Instruct and Thinking): mixture of experts, DeepStack.

The named shape is that of the published config.json, written out in full: the configuration
class of transformers 5.24 has 28 layers as its default instead of 48.
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

_CHUNK = 100  # mel frames that the convolutions take at a time: 1 s, which becomes 13 positions
_CHUNKS_AT_A_TIME = 500  # `conv_chunksize` of the published config.json files


def _shapes(config: Any) -> dict[str, Any]:
    """Encoders, experts and DeepStack of a `Qwen3OmniMoeThinkerConfig`."""
    text, vision, audio = config.text_config, config.vision_config, config.audio_config
    deepstack = tuple(vision.deepstack_visual_indexes)
    return {
        "vision": VisionShape(**vision_fields(vision), gated_mlp=False, deepstack_blocks=deepstack),
        "audio": AudioShape(
            **audio_fields(audio),
            window_frames=audio.n_window_infer,
            conv_channels=audio.downsample_hidden_size,
            tokens_per_second=13.0,
        ),
        # 13 in the published configs; 25 is what transformers takes where a config has none.
        "positions_per_second": getattr(config, "position_id_per_seconds", 25),
        "num_experts": text.num_experts,
        "experts_per_token": text.num_experts_per_tok,
        "moe_intermediate_size": text.moe_intermediate_size,
        "deepstack_layers": len(deepstack),
    }


def _audio_positions(mel_frames: int) -> int:
    """Three stride-2 convolutions over chunks of 1 s."""
    return sum(halved(halved(halved(chunk))) for chunk in parts(mel_frames, _CHUNK))


def _audio_flops(shape: AudioShape, frames: int) -> int:
    """Three 2-D convolutions over chunks of 1 s, blocks in longer windows, two projections."""
    hidden, channels = shape.hidden_size, shape.conv_channels
    chunks = parts(frames, _CHUNK)
    steps, bands = max(chunks), shape.num_mel_bins
    front, inputs = 0, 1
    for _ in range(3):
        steps, bands = halved(steps), halved(bands)
        front += 2 * steps * bands * channels * 9 * inputs
        inputs = channels
    front += 2 * steps * bands * channels * hidden
    positions = _audio_positions(frames)
    segments = parts(positions, steps * (shape.window_frames // _CHUNK))
    projections = 2 * positions * hidden * (hidden + shape.out_hidden_size)
    return len(chunks) * front + audio_block_flops(shape, segments) + projections


def _audio_front(shape: AudioShape, frames: int) -> tuple[int, int]:
    """Three 2-D convolutions and two projections; the first convolution's output is the largest.

    It is held with its activation. At most 500 chunks are convolved at a time.
    """
    channels, bands = shape.conv_channels, shape.num_mel_bins
    weights = 9 * channels * (1 + 2 * channels) + shape.hidden_size**2
    weights += channels * halved(halved(halved(bands))) * shape.hidden_size
    chunks = min(len(parts(frames, _CHUNK)), _CHUNKS_AT_A_TIME)
    return weights, 2 * chunks * channels * halved(bands) * halved(_CHUNK)


FAMILY = Family(
    name="qwen3_omni_moe",
    title="Qwen3-Omni",
    model_types=("qwen3_omni_moe", "qwen3_omni_moe_thinker"),
    inner_config="thinker_config",
    shapes=_shapes,
    pads_sound=False,
    audio_positions=_audio_positions,
    audio_pool=1,
    audio_statistics_window=52,  # 4 s, as in the reference
    audio_flops=_audio_flops,
    audio_front=_audio_front,
    retention_pairs=(
        (0.10, 0.07, 0.45),
        (0.15, 0.12, 0.50),
        (0.25, 0.22, 0.60),
        (0.35, 0.32, 0.70),
    ),
    temperature=0.3,
    published_layers={48: ((27, 31, 35), 40)},
    named_shapes={
        "qwen3-omni-30b-a3b": {
            "model_type": "qwen3_omni_moe_thinker",
            "tie_word_embeddings": False,
            "position_id_per_seconds": 13,
            "text_config": {
                "vocab_size": 152064,
                "hidden_size": 2048,
                "intermediate_size": 768,
                "num_hidden_layers": 48,
                "num_attention_heads": 32,
                "num_key_value_heads": 4,
                "head_dim": 128,
                "max_position_embeddings": 65536,
                "num_experts": 128,
                "num_experts_per_tok": 8,
                "moe_intermediate_size": 768,
                "decoder_sparse_step": 1,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e6,
                    "mrope_section": [24, 20, 20],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": {
                "depth": 27,
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_heads": 16,
                "in_channels": 3,
                "patch_size": 16,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "out_hidden_size": 2048,
                "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [8, 16, 24],
            },
            "audio_config": {
                "num_mel_bins": 128,
                "encoder_layers": 32,
                "encoder_attention_heads": 20,
                "encoder_ffn_dim": 5120,
                "d_model": 1280,
                "max_source_positions": 1500,
                "n_window": 50,
                "n_window_infer": 800,
                "conv_chunksize": 500,
                "downsample_hidden_size": 480,
                "output_dim": 2048,
            },
        }
    },
    checkpoints={
        "Qwen/Qwen3-Omni-30B-A3B-Instruct": Checkpoint("qwen3-omni-30b-a3b", 71),
        "Qwen/Qwen3-Omni-30B-A3B-Thinking": Checkpoint("qwen3-omni-30b-a3b", 64),
        "Qwen/Qwen3-Omni-30B-A3B-Captioner": Checkpoint("qwen3-omni-30b-a3b", 64),
    },
)
