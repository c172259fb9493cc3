"""Random-weights checkpoints on disk in the layout of the hub: sharded, with the talker's keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from seats_cli.models.load import BUNDLED_PATH

# Special tokens by role; the families spell them differently.
TOKENS = {
    "qwen3_omni_moe": {
        "<|AUDIO|>": "<|audio_pad|>",
        "<|IMAGE|>": "<|image_pad|>",
        "<|VIDEO|>": "<|video_pad|>",
        "<|audio_bos|>": "<|audio_start|>",
        "<|audio_eos|>": "<|audio_end|>",
        "<|vision_bos|>": "<|vision_start|>",
        "<|vision_eos|>": "<|vision_end|>",
    },
    "qwen2_5_omni": {},
}
VISION = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 64,
}
AUDIO = {
    "num_mel_bins": 128,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "output_dim": 64,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}


def write_checkpoint(folder: Path, family: str) -> dict[str, Tensor]:
    """Write config, processor and two shards; returns the thinker's weights by module name."""
    torch.manual_seed(0)
    tokenizer = write_processor(folder, family)
    thinker_config = _thinker_config(family, tokenizer)
    name = "Qwen2_5Omni" if family == "qwen2_5_omni" else "Qwen3OmniMoe"
    model = getattr(transformers, f"{name}ThinkerForConditionalGeneration")(thinker_config)
    config = {
        "model_type": family,
        "architectures": [f"{name}ForConditionalGeneration"],
        "thinker_config": thinker_config.to_dict(),
        "enable_audio_output": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = {f"thinker.{key}": value for key, value in _hub_names(model.state_dict()).items()}
    weights["talker.model.norm.weight"] = torch.ones(4)
    _save_shards(folder, weights)
    return {key: value.clone() for key, value in model.state_dict().items()}


def write_processor(folder: Path, family: str) -> Any:
    """The bundled tokenizer and processors under the family's token names."""
    for path in BUNDLED_PATH.iterdir():
        if path.suffix in (".json", ".jinja") and path.name not in ("config.json", "seats.json"):
            text = path.read_text()
            for old, new in TOKENS[family].items():
                text = text.replace(old, new)
            if family == "qwen3_omni_moe":
                text = text.replace("Qwen2_5OmniProcessor", "Qwen3OmniMoeProcessor")
                text = text.replace('"patch_size": 14', '"patch_size": 16')
            (folder / path.name).write_text(text)
    return transformers.AutoTokenizer.from_pretrained(folder)


def _thinker_config(family: str, tokenizer: Any) -> Any:
    rename = TOKENS[family]

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(rename.get(name, name)))

    text = {**TEXT, "vocab_size": len(tokenizer), "tie_word_embeddings": False}
    if family == "qwen2_5_omni":
        text["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 3, 3],
        }
        return transformers.Qwen2_5OmniThinkerConfig(
            text_config=text,
            vision_config={**VISION, "window_size": 56, "fullatt_block_indexes": [2]},
            audio_config={**AUDIO, "n_window": 100},
            audio_token_index=token("<|AUDIO|>"),
            image_token_index=token("<|IMAGE|>"),
            video_token_index=token("<|VIDEO|>"),
            audio_start_token_id=token("<|audio_bos|>"),
            audio_end_token_id=token("<|audio_eos|>"),
            vision_start_token_id=token("<|vision_bos|>"),
            vision_end_token_id=token("<|vision_eos|>"),
        )
    text |= {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    }
    return transformers.Qwen3OmniMoeThinkerConfig(
        text_config=text,
        vision_config={
            **VISION,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        audio_config={**AUDIO, "n_window": 50, "n_window_infer": 800, "downsample_hidden_size": 16},
        audio_token_id=token("<|AUDIO|>"),
        image_token_id=token("<|IMAGE|>"),
        video_token_id=token("<|VIDEO|>"),
        audio_start_token_id=token("<|audio_bos|>"),
        vision_start_token_id=token("<|vision_bos|>"),
    )


def _hub_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Module names to those of the published checkpoints (decoder in `model`, experts apart)."""
    named: dict[str, Tensor] = {}
    for key, value in weights.items():
        key = key.replace("model.language_model.", "model.")
        for tower in ("visual.", "audio_tower."):
            key = key.removeprefix("model.") if key.startswith(f"model.{tower}") else key
        if key.endswith("experts.gate_up_proj"):
            for number, expert in enumerate(value):
                gate, up = expert.chunk(2)
                prefix = key.removesuffix("gate_up_proj") + f"{number}."
                named[prefix + "gate_proj.weight"] = gate.contiguous()
                named[prefix + "up_proj.weight"] = up.contiguous()
        elif key.endswith("experts.down_proj"):
            for number, expert in enumerate(value):
                name = key.removesuffix("down_proj") + f"{number}.down_proj.weight"
                named[name] = expert.contiguous()
        else:
            named[key] = value.contiguous()
    return named


def _save_shards(folder: Path, weights: dict[str, Tensor]) -> None:
    names = sorted(weights)
    half = len(names) // 2
    index: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
