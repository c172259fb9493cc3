"""Build the tokenizer, processor and configuration of the bundled model, and write it as a folder.

Stock Hugging Face classes of Qwen2.5-Omni with small numbers, so that loading and running it takes
the same path as the real models. The weights of a training run, finished or not, are written by

    python -m seats_cli.training.build runs/tiny/state.pt FOLDER
"""

from __future__ import annotations

import argparse
import copy
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from seats_cli.world.vocabulary import AUDIO_TOKENS_PER_SECOND, SAMPLE_RATE
from seats_cli.world.wording import corpus_of_scripts

MIN_PIXELS = 56 * 56  # per frame
MAX_PIXELS = 308 * 336  # 132 tokens a grid, as the 7B reads a wide film
PATCH_SIZE = 14
MERGE_SIZE = 2
TEMPORAL_PATCH_SIZE = 2
SECONDS_PER_CHUNK = 2

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|vision_pad|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
)
_NAMED_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
SYSTEM_PROMPT = "You are a helpful assistant."

# The template of the real model, its tests of a content's type written on several lines.
CHAT_TEMPLATE = """\
{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}\
{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}\
<|vision_bos|><|IMAGE|><|vision_eos|>\
{% elif content['type'] == 'audio' or 'audio' in content or 'audio_url' in content %}\
<|audio_bos|><|AUDIO|><|audio_eos|>\
{% elif content['type'] == 'video' or 'video' in content %}\
<|vision_bos|><|VIDEO|><|vision_eos|>\
{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@lru_cache(maxsize=1)
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE that is trained on the questions' words."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=2048 - len(SPECIAL_TOKENS),  # an upper bound: the templates give about 1000
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    bpe.train_from_iterator(corpus_of_scripts(np.random.default_rng(0)), trainer)
    trained = json.loads(bpe.to_str())["model"]
    return trained["vocab"], [(first, second) for first, second in trained["merges"]]


def build_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer of the questions' words; every byte is a token, so any text encodes."""
    vocabulary, merges = _vocabulary()
    tokenizer = Qwen2Tokenizer(
        vocab=dict(vocabulary),
        merges=list(merges),
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=_NAMED_TOKENS,
        model_max_length=32768,
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5OmniProcessor:
    """The processor with the model's sizes: frames of 56*56 to 308*336 pixels, 128 mels."""
    size = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    patches = {
        "patch_size": PATCH_SIZE,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
        "merge_size": MERGE_SIZE,
    }
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **patches),
        video_processor=Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False, **patches),
        feature_extractor=WhisperFeatureExtractor(
            feature_size=128,
            sampling_rate=SAMPLE_RATE,
            hop_length=160,
            chunk_length=60,
            n_fft=400,
            return_attention_mask=True,
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(
    tokenizer: Qwen2Tokenizer,
    *,
    width: int = 128,
    layers: int = 14,
    mlp: int = 320,
    encoder_layers: int = 4,
) -> Qwen2_5OmniThinkerConfig:
    """Configuration of the tiny thinker: heads of 32, two key-value heads, tied embeddings."""
    token = tokenizer.convert_tokens_to_ids
    spread = 0.05  # of the initial weights; the usual 0.02 starts slowly at this width
    text: dict[str, Any] = {
        "vocab_size": (len(tokenizer) + 31) // 32 * 32,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "num_key_value_heads": max(1, width // 64),
        "max_position_embeddings": 16384,
        "initializer_range": spread,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [6, 5, 5],
        },
        "tie_word_embeddings": True,
        "pad_token_id": token("<|endoftext|>"),
        "eos_token_id": token("<|im_end|>"),
    }
    vision: dict[str, Any] = {
        "depth": encoder_layers,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_heads": width // 32,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": TEMPORAL_PATCH_SIZE,
        "window_size": 56,
        "out_hidden_size": width,
        # Half of the blocks see the whole frame: small shapes often straddle two windows.
        "fullatt_block_indexes": list(range(1, encoder_layers, 2)),
        "initializer_range": spread,
    }
    audio: dict[str, Any] = {
        "num_mel_bins": 128,
        "encoder_layers": encoder_layers,
        "encoder_attention_heads": width // 32,
        "encoder_ffn_dim": 2 * width,
        "d_model": width,
        "max_source_positions": 1500,
        "n_window": 100,
        "output_dim": width,
        "initializer_range": spread,
    }
    return Qwen2_5OmniThinkerConfig(
        text_config=text,
        vision_config=vision,
        audio_config=audio,
        audio_token_index=token("<|AUDIO|>"),
        image_token_index=token("<|IMAGE|>"),
        video_token_index=token("<|VIDEO|>"),
        audio_start_token_id=token("<|audio_bos|>"),
        audio_end_token_id=token("<|audio_eos|>"),
        vision_start_token_id=token("<|vision_bos|>"),
        vision_end_token_id=token("<|vision_eos|>"),
        user_token_id=token("user"),
        position_id_per_seconds=AUDIO_TOKENS_PER_SECOND,
        seconds_per_chunk=SECONDS_PER_CHUNK,
        initializer_range=spread,
        tie_word_embeddings=True,
        pad_token_id=token("<|endoftext|>"),
        eos_token_id=token("<|im_end|>"),
        # Read by the adapter, which otherwise assumes the frame sizes of the real models.
        seats={"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS},
    )


def build_model(config: Qwen2_5OmniThinkerConfig) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A model with fresh weights and the generation settings of its tokenizer."""
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model


@torch.no_grad()
def start_from(model: Any, tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """Give a model the weights of a saved one of the same shape, whose tokenizer may differ.

    Tokens that both know keep their rows of the embedding. A token that is new gets the mean of the
    rows that it was spelled with before.
    """
    old: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    )
    spelling = Qwen2Tokenizer.from_pretrained(folder)
    known = spelling.get_vocab()
    rows = old.model.language_model.embed_tokens.weight
    weights = old.state_dict()
    table = model.model.language_model.embed_tokens.weight
    fresh = table.clone()
    for token, index in tokenizer.get_vocab().items():
        if token in known:
            fresh[index] = rows[known[token]]
            continue
        pieces = spelling.encode(tokenizer.decode([index]))
        if pieces:
            fresh[index] = rows[pieces].mean(dim=0)
    for name in list(weights):
        if weights[name].shape == rows.shape and ("embed_tokens" in name or "lm_head" in name):
            weights[name] = fresh
    model.load_state_dict(weights)


def export(model: Any, processor: Qwen2_5OmniProcessor, folder: Path) -> None:
    """Save fp16 weights, configuration, processor and tokenizer in the layout of the hub."""
    half = copy.deepcopy(model).half().eval()
    half.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for the owner only


def main(arguments: list[str] | None = None) -> None:
    """Command line: export the weights of a training run's `state.pt`."""
    parser = argparse.ArgumentParser(description="Write a trained model as a folder.")
    parser.add_argument("state", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    # The run's own: a wording that has changed since gives another one.
    tokenizer = Qwen2Tokenizer.from_pretrained(options.state.parent / "tokenizer")
    processor = build_processor(tokenizer)
    model = build_model(build_config(processor.tokenizer))
    model.load_state_dict(torch.load(options.state, weights_only=True)["model"])
    export(model, processor, options.folder)


if __name__ == "__main__":
    main()
