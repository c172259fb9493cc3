"""config.json and generation_config.json of Qwen-Omni repositories, with the hub's keys.

transformers 4.50 and 4.57 wrote them: `rope_scaling` beside `rope_theta`, `torch_dtype` or `dtype`,
every default of the generic config class dumped into every part, and parts that speak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.models.hub_processors import Vocabulary


@dataclass(frozen=True)
class Sizes:
    """Depths and widths of the small models; every width is a multiple of 32."""

    layers: int = 6  # of the decoder
    blocks: int = 4  # of the vision encoder
    audio_layers: int = 2
    experts: int = 4
    hidden: int = 64  # of the decoder
    head: int = 16  # values per attention head, in all parts
    mlp: int = 96
    expert_mlp: int = 32
    encoder: int = 32  # hidden size of both encoders
    encoder_mlp: int = 64
    conv: int = 16  # channels of Qwen3's audio convolutions
    mels: int = 128
    places: int = 2304  # of Qwen3's vision position table, 48 x 48 as published


# What the generic config class of 4.50 wrote into every part.
_FALSE = [
    "add_cross_attention",
    "do_sample",
    "early_stopping",
    "is_decoder",
    "is_encoder_decoder",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "remove_invalid_values",
    "return_dict_in_generate",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "torchscript",
    "use_bfloat16",
]
_NONE = [
    "architectures",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "pad_token_id",
    "prefix",
    "problem_type",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
]
_ZERO = [
    "chunk_size_feed_forward",
    "encoder_no_repeat_ngram_size",
    "min_length",
    "no_repeat_ngram_size",
]
_ONE = ["num_beam_groups", "num_beams", "num_return_sequences"]
_ONE_POINT = ["length_penalty", "repetition_penalty", "temperature", "top_p", "typical_p"]
_DUMP: dict[str, Any] = {
    **dict.fromkeys(_FALSE, False),
    **dict.fromkeys(_NONE, None),
    **dict.fromkeys(_ZERO, 0),
    **dict.fromkeys(_ONE, 1),
    **dict.fromkeys(_ONE_POINT, 1.0),
    **dict.fromkeys(("_attn_implementation_autoset", "return_dict", "tie_word_embeddings"), True),
    "diversity_penalty": 0.0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "max_length": 20,
    "pruned_heads": {},
    "top_k": 50,
}


def thinker_2_5(sizes: Sizes, words: Vocabulary, rows: int) -> dict[str, Any]:
    """`thinker_config` of Qwen2.5-Omni; `rows` is the embeddings' number, more than tokens."""
    ids = words.control
    rope = {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"}
    return {
        "_name_or_path": "Qwen2.5-Omni-7B/thinker",
        "architectures": ["Qwen2OmniNaViTThinkerForConditionalGeneration"],
        "audio_config": {**_DUMP, **_audio(sizes, "qwen2_5_omni"), "n_window": 100},
        "audio_end_token_id": ids["<|audio_eos|>"],
        "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_token_index": ids["<|AUDIO|>"],
        "bos_token_id": ids["<|im_start|>"],
        "eos_token_id": ids["<|im_end|>"],
        "ignore_index": -100,
        "image_token_index": ids["<|IMAGE|>"],
        "init_std": 0.02,
        "initializer_range": 0.02,
        "model_type": "qwen2_5_omni_thinker",
        "pad_token_id": ids["<|endoftext|>"],
        "position_id_per_seconds": 25,
        "seconds_per_chunk": 2,
        "text_config": {
            **_DUMP,
            **_text(sizes, rows, 32768, 1000000.0, rope),
            "intermediate_size": sizes.mlp,
            "max_window_layers": 28,
            "model_type": "qwen2_5_omni_text",
            "sliding_window": 32768,
        },
        "torch_dtype": "bfloat16",
        "user_token_id": words.words.get("user", 0),
        "video_token_index": ids["<|VIDEO|>"],
        "vision_config": {
            **_DUMP,
            **_vision(sizes, 14),
            "embed_dim": sizes.encoder,
            "fullatt_block_indexes": [1, sizes.blocks - 1],
            "in_chans": 3,
            "model_type": "qwen2_5_omni_vision_encoder",
            "tokens_per_second": 25,
            "window_size": 112,
        },
        "vision_end_token_id": ids["<|vision_eos|>"],
        "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_token_id": ids["<|vision_pad|>"],
    }


def thinker_3(sizes: Sizes, words: Vocabulary, rows: int) -> dict[str, Any]:
    """`thinker_config` of Qwen3-Omni."""
    ids = words.control
    rope = {
        "interleaved": True,
        "mrope_interleaved": True,
        "mrope_section": [4, 2, 2],
        "rope_type": "default",
        "type": "default",
    }
    return {
        "audio_config": {
            **_DUMP,
            **_audio(sizes, "qwen3_omni_moe"),
            "conv_chunksize": 500,
            "downsample_hidden_size": sizes.conv,
            "n_window": 50,
            "n_window_infer": 800,
        },
        "audio_end_token_id": ids["<|audio_end|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
        "audio_token_id": ids["<|audio_pad|>"],
        "dtype": "bfloat16",
        "image_token_id": ids["<|image_pad|>"],
        "initializer_range": 0.02,
        "model_type": "qwen3_omni_moe_thinker",
        "position_id_per_seconds": 13,
        "seconds_per_chunk": 2,
        "text_config": {
            **_DUMP,
            **_text(sizes, rows, 65536, 1000000, rope),
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "head_dim": sizes.head,
            "intermediate_size": sizes.expert_mlp,
            "mlp_only_layers": [],
            "model_type": "qwen3_omni_moe_text",
            "moe_intermediate_size": sizes.expert_mlp,
            "norm_topk_prob": True,
            "num_experts": sizes.experts,
            "num_experts_per_tok": 2,
            "output_router_logits": False,
            "router_aux_loss_coef": 0.001,
            "shared_expert_intermediate_size": 0,
            "sliding_window": None,
            "use_qk_norm": True,
        },
        "user_token_id": words.words.get("user", 0),
        "video_token_id": ids["<|video_pad|>"],
        "vision_config": {
            **_DUMP,
            **_vision(sizes, 16),
            "apply_vit_abs_pos_embed": True,
            "deepstack_visual_indexes": [0, 1, 2],
            "image_size": 768,
            "model_type": "qwen3_omni_moe_vision_encoder",
            "num_position_embeddings": sizes.places,
            "tokens_per_second": 2,
        },
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
    }


def whole_2_5(thinker: dict[str, Any], words: Vocabulary) -> dict[str, Any]:
    """config.json of a Qwen2.5-Omni repository; `enable_talker` is a leftover that nobody reads."""
    ids = words.control
    talker = {
        **_DUMP,
        **_small_decoder("qwen2_5_omni_talker"),
        "audio_token_index": ids["<|AUDIO|>"],
        "embedding_size": thinker["text_config"]["hidden_size"],
        "rope_scaling": thinker["text_config"]["rope_scaling"],
        "tts_codec_end_token_id": 8294,
        "tts_codec_start_token_id": 8293,
        "vocab_size": 8448,
    }
    return {
        "architectures": ["Qwen2_5OmniModel"],
        "enable_audio_output": True,
        "enable_talker": True,
        "model_type": "qwen2_5_omni",
        "talker_config": talker,
        "thinker_config": thinker,
        "token2wav_config": {
            **_DUMP,
            "bigvgan_config": {**_DUMP, "mel_dim": 16, "model_type": "qwen2_5_omni_bigvgan"},
            "dit_config": {**_DUMP, "hidden_size": 32, "model_type": "qwen2_5_omni_dit"},
            "model_type": "qwen2_5_omni_token2wav",
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.50.0.dev0",
    }


def whole_3(thinker: dict[str, Any], *, speaks: bool) -> dict[str, Any]:
    """config.json of a Qwen3-Omni repository: Instruct speaks, Thinking and Captioner do not."""
    values = {
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "dtype": "bfloat16",
        "enable_audio_output": speaks,
        "model_type": "qwen3_omni_moe",
        "thinker_config": thinker,
        "transformers_version": "4.57.0.dev0",
    }
    if speaks:
        small = _small_decoder("qwen3_omni_moe_talker_text")
        values["talker_config"] = {
            **_DUMP,
            "code_predictor_config": {
                **_small_decoder("qwen3_omni_moe_talker_code_predictor"),
                "num_code_groups": 16,
                "vocab_size": 2048,
            },
            "model_type": "qwen3_omni_moe_talker",
            "speaker_id": {"chelsie": 2301, "ethan": 2302, "aiden": 2303},
            "text_config": {**small, "num_experts": 4, "vocab_size": 3072},
            "thinker_hidden_size": thinker["text_config"]["hidden_size"],
        }
        values["code2wav_config"] = {
            **_small_decoder("qwen3_omni_moe_code2wav"),
            "codebook_size": 64,
            "upsample_rates": [8, 5, 4, 3],
        }
    return values


SAYS_NOTHING = {"_from_model_config": True, "transformers_version": "4.50.0.dev0"}
SPEAKS = {
    "talker_max_new_tokens": 4096,
    "talker_repetition_penalty": 1.05,
    "talker_temperature": 0.9,
    "talker_top_k": 50,
    "talker_top_p": 1.0,
}
THINKS = {
    "max_new_tokens": 32768,
    "repetition_penalty": 1.0,
    "temperature": 0.6,
    "top_k": 20,
    "top_p": 0.95,
}


def _text(
    sizes: Sizes, rows: int, context: int, theta: float, rope: dict[str, Any]
) -> dict[str, Any]:
    return {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "initializer_range": 0.02,
        "max_position_embeddings": context,
        "num_attention_heads": sizes.hidden // sizes.head,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": rope,
        "rope_theta": theta,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": rows,
    }


def _vision(sizes: Sizes, patch: int) -> dict[str, Any]:
    return {
        "depth": sizes.blocks,
        "hidden_act": "silu" if patch == 14 else "gelu_pytorch_tanh",
        "hidden_size": sizes.encoder,
        "in_channels": 3,
        "intermediate_size": sizes.encoder_mlp,
        "num_heads": sizes.encoder // sizes.head,
        "out_hidden_size": sizes.hidden,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "spatial_patch_size": patch,
        "temporal_patch_size": 2,
    }


def _audio(sizes: Sizes, family: str) -> dict[str, Any]:
    return {
        "activation_dropout": 0.0,
        "activation_function": "gelu",
        "attention_dropout": 0.0,
        "d_model": sizes.encoder,
        "dropout": 0.0,
        "encoder_attention_heads": sizes.encoder // sizes.head,
        "encoder_ffn_dim": sizes.encoder_mlp,
        "encoder_layerdrop": 0.0,
        "encoder_layers": sizes.audio_layers,
        "max_source_positions": 1500,
        "model_type": f"{family}_audio_encoder",
        "num_hidden_layers": sizes.audio_layers,
        "num_mel_bins": sizes.mels,
        "output_dim": sizes.hidden,
        "scale_embedding": False,
    }


def _small_decoder(kind: str) -> dict[str, Any]:
    return {
        **_DUMP,
        "head_dim": 16,
        "hidden_size": 32,
        "intermediate_size": 64,
        "model_type": kind,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
    }
