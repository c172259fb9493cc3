"""Real model shapes by name, to plan and to measure without a checkpoint.

The numbers are those of the published config.json files. They are written out in full: the
defaults of the configuration classes differ from the checkpoints in places (transformers 5.24
gives Qwen2.5-Omni's vision encoder a width of 3,584 instead of 1,280, and Qwen3-Omni 28 layers).
`cpu-0.5b` is for machines without a GPU: the decoder of Qwen2.5-0.5B, a quarter as wide as the
7B's, with encoders a quarter as wide and half as deep as the 7B's, which leaves about the same
share of the work to them.
"""

from __future__ import annotations

import copy
from typing import Any

from seats_cli.errors import UsageError

_VISION_2_5 = {
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
}
_ROPE_2_5 = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}


def _qwen2_5(
    text: dict[str, Any], vision: dict[str, Any], audio: dict[str, Any], tied: bool = False
) -> dict[str, Any]:
    width = text["hidden_size"]
    return {
        "model_type": "qwen2_5_omni_thinker",
        "tie_word_embeddings": tied,
        "text_config": {
            "max_position_embeddings": 32768,
            "rope_parameters": _ROPE_2_5,
            "tie_word_embeddings": tied,
            **text,
        },
        "vision_config": {**vision, "out_hidden_size": width},
        "audio_config": {**audio, "n_window": 100, "output_dim": width},
    }


NAMED: dict[str, dict[str, Any]] = {
    "qwen2.5-omni-3b": _qwen2_5(
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
        },
        _VISION_2_5,
        _AUDIO,
    ),
    "qwen2.5-omni-7b": _qwen2_5(
        {
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        _VISION_2_5,
        _AUDIO,
    ),
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
            **_AUDIO,
            "n_window": 50,
            "n_window_infer": 800,
            "conv_chunksize": 500,
            "downsample_hidden_size": 480,
            "output_dim": 2048,
        },
    },
    "cpu-0.5b": _qwen2_5(
        {
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "rope_parameters": {**_ROPE_2_5, "mrope_section": [8, 12, 12]},
        },
        {
            **_VISION_2_5,
            "depth": 16,
            "hidden_size": 320,
            "intermediate_size": 855,
            "num_heads": 4,
            "fullatt_block_indexes": [7, 15],
        },
        {
            **_AUDIO,
            "encoder_layers": 16,
            "encoder_attention_heads": 5,
            "encoder_ffn_dim": 1280,
            "d_model": 320,
        },
        tied=True,
    ),
}

# Hub checkpoints of these shapes, so that `--model` of one plans without having it.
HUB_NAMES = {
    "Qwen/Qwen2.5-Omni-3B": "qwen2.5-omni-3b",
    "Qwen/Qwen2.5-Omni-7B": "qwen2.5-omni-7b",
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": "qwen3-omni-30b-a3b",
    "Qwen/Qwen3-Omni-30B-A3B-Thinking": "qwen3-omni-30b-a3b",
}


def named_config(
    name: str, *, layers: int | None = None, hidden: int | None = None
) -> dict[str, Any]:
    """Values of a thinker's config.json, possibly scaled.

    Parameters
    ----------
    name : str
        A key of `NAMED`, in any case.
    layers : int or None
        Decoder layers instead of the real number.
    hidden : int or None
        Decoder width instead of the real one, a multiple of the head width. Heads and MLP
        follow in proportion; the encoders stay as they are but for their output.

    Returns
    -------
    dict
        A copy that the caller may change.

    Raises
    ------
    UsageError
        If there is no such name or the scaling does not come out even.
    """
    if name.lower() not in NAMED:
        raise UsageError(f"Unknown architecture '{name}': choose from {', '.join(NAMED)}.")
    values = copy.deepcopy(NAMED[name.lower()])
    text = values["text_config"]
    if layers is not None:
        if layers < 1:
            raise UsageError(f"--layers must be at least 1, not {layers}.")
        text["num_hidden_layers"] = layers
    if hidden is not None:
        _widen(values, hidden)
    return values


def _widen(values: dict[str, Any], hidden: int) -> None:
    text = values["text_config"]
    heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
    head = text.get("head_dim") or text["hidden_size"] // heads
    # Qwen3's heads are together wider than the model: keep that proportion.
    wanted = hidden * heads * head // text["hidden_size"] // head
    if hidden < head or hidden % head or wanted < 1:
        raise UsageError(f"--hidden must be a multiple of the head width {head}, not {hidden}.")
    scale = hidden / text["hidden_size"]
    fewer = max(1, round(groups * scale))
    while wanted % fewer:
        fewer -= 1
    text.update(
        hidden_size=hidden,
        num_attention_heads=wanted,
        num_key_value_heads=fewer,
        intermediate_size=max(8, round(text["intermediate_size"] * scale / 8) * 8),
    )
    if "moe_intermediate_size" in text:
        text["moe_intermediate_size"] = max(8, round(text["moe_intermediate_size"] * scale / 8) * 8)
    values["vision_config"]["out_hidden_size"] = hidden
    values["audio_config"]["output_dim"] = hidden
