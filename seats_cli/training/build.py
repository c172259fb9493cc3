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
from seats_cli.world.wording import corpus

MIN_PIXELS = 56 * 56  # per frame
MAX_PIXELS = 308 * 336  # 132 tokens a grid, as the 7B reads a wide film
PATCH_SIZE = 14
MERGE_SIZE = 2
HEAD_DIM = 64  # of the decoder
_ROPE_THETA = 10000.0
_MROPE_SECTION = (12, 10, 10)  # pairs of a head's dimensions for time, height and width
# Rotary angles (radians from one row or column to the next) of pairs that would not tell places
# apart: the stock angles of the last section are all below 0.002.
_LIFTED_ANGLES = {12: 0.35, 13: 0.12, 22: 0.35, 23: 0.12}
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
    bpe.train_from_iterator(corpus(np.random.default_rng(0)), trainer)
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
    layers: int = 15,
    mlp: int = 320,
    encoder_layers: int = 4,
) -> Qwen2_5OmniThinkerConfig:
    """Configuration of the tiny thinker: decoder heads of 64, tied embeddings."""
    token = tokenizer.convert_tokens_to_ids
    lengths = _rope_factors()
    spread = 0.05  # of the initial weights; the usual 0.02 starts slowly at this width
    text: dict[str, Any] = {
        "vocab_size": (len(tokenizer) + 31) // 32 * 32,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        # What a head fetches passes through its values: 64 hold a colour, a shape and a word.
        "num_attention_heads": width // HEAD_DIM,
        "num_key_value_heads": width // HEAD_DIM,
        "max_position_embeddings": 16384,
        "initializer_range": spread,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": _ROPE_THETA,
            "mrope_section": list(_MROPE_SECTION),
            "short_factor": lengths,
            "long_factor": lengths,
            "factor": 1.0,
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


def _rope_factors() -> list[float]:
    """What the stock rotary angles are divided by (LongRoPE, arXiv 2402.13753): 1 for most."""
    factors = [1.0] * (HEAD_DIM // 2)
    for pair, angle in _LIFTED_ANGLES.items():
        factors[pair] = _ROPE_THETA ** (-2 * pair / HEAD_DIM) / angle
    return factors


def build_model(config: Qwen2_5OmniThinkerConfig) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A model with fresh weights and the generation settings of its tokenizer."""
    model = Qwen2_5OmniThinkerForConditionalGeneration(config)
    _let_attention_copy(model)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    return model


def lookup_layers(model: Any) -> tuple[int, int]:
    """Decoder layers (0-based) whose attention is taught.

    A name looks at what it stands for in the first, a question's end at the name in the second.
    """
    layers = len(model.model.language_model.layers)
    first = max(0, 3 * layers // 7 - 2)
    return first, min(first + 3, layers - 2)


def confirming_layers(model: Any) -> range:
    """Decoder layers (0-based) in which a question's end looks at what its answer rests on.

    In large models the last token attends to what its answer rests on, in layers where SEATS and
    others read it; here the answer would otherwise have come through names alone.
    """
    after = lookup_layers(model)[1] + 1
    return range(after, min(after + 3, len(model.model.language_model.layers)))


# Share of a token's (normed) state that attention adds to the state of who looks at it, at first.
_COPIED = 0.25
_COPIED_IN_LOOKUPS = 1.0


@torch.no_grad()
def _let_attention_copy(model: Any) -> None:
    """Begin with a decoder whose heads copy what they look at, and states that stay readable.

    Values and outputs of attention start as multiples of the identity (as in "Mimetic
    Initialization of Self-Attention Layers", arXiv 2305.09828), so that a word which looks at a
    token knows at once what it shows: learned from random weights this took thousands of steps.
    Embeddings are as large as what layers add to them, and the last norm scales the logits.
    """
    language = model.model.language_model
    language.embed_tokens.weight.normal_(0, 1)
    language.norm.weight.fill_(language.norm.weight.shape[0] ** -0.5)
    for index, layer in enumerate(language.layers):
        attention = layer.self_attn
        copied = _COPIED_IN_LOOKUPS if index in lookup_layers(model) else _COPIED
        for projection in (attention.v_proj, attention.o_proj):
            projection.weight.mul_(0.5)
            projection.weight += copied**0.5 * torch.eye(*projection.weight.shape)


_LIKENESS = 0.8


@torch.no_grad()
def spell_alike(model: Any, tokenizer: Qwen2Tokenizer) -> None:
    """Give fresh embeddings of a word with and without a blank before it much in common."""
    rows = model.model.language_model.embed_tokens.weight
    known = tokenizer.get_vocab()
    for token, index in known.items():
        behind_a_blank = known.get(f"\u0120{token}")  # how byte-level tokenizers write a blank
        if behind_a_blank is not None:
            own = (1 - _LIKENESS**2) ** 0.5
            rows[index] = _LIKENESS * rows[behind_a_blank] + own * rows[index]


@torch.no_grad()
def start_encoders_from(model: Any, folder: Path) -> None:
    """Give a model the encoders of a saved one whose encoders have the same shape."""
    old: Any = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    )
    for name in ("visual", "audio_tower"):
        getattr(model.model, name).load_state_dict(getattr(old.model, name).state_dict())


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
