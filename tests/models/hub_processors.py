"""The processor's files of published Qwen-Omni repositories: vocabulary, preprocessor, template.

Facts (file names, keys, token ids, values) are those of the hub; the vocabulary is the bundled
model's. Control tokens stand right behind it, or at the published ids if `first_control` says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from seats_cli.families.registry import BUNDLED_PATH

PUBLISHED_FIRST_CONTROL = (
    151643  # id of <|endoftext|>, which follows the 151,643 words of Qwen's BPE
)

_TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CODE = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
_CODE += ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
_BOXES = ("<|box_end|>", "<|quad_start|>", "<|quad_end|>")
# In the order of their ids: Qwen2.5-Omni gave ids of Qwen2.5 to media, Qwen3-Omni added some.
CONTROL_2_5 = (
    *_TURNS,
    *("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", *_BOXES),
    *("<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>"),
    *_CODE,
)
CONTROL_3 = (
    *_TURNS,
    *("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", *_BOXES),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
    *_CODE,
    *("<tool_response>", "</tool_response>", "<think>", "</think>"),
    *("<|audio_start|>", "<|audio_end|>", "<tts_pad>", "<tts_text_bos>", "<tts_text_eod>"),
    *("<tts_text_bos_single>", "<|audio_pad|>"),
)
# Added tokens that are no "special" ones: they stay in decoded text.
PLAIN = {*_CODE, "<tool_response>", "</tool_response>", "<think>", "</think>"}

_ROLES = ("image", "audio", "video", "vision_bos", "vision_eos", "audio_bos", "audio_eos")
_SPELLED_2_5 = ("<|IMAGE|>", "<|AUDIO|>", "<|VIDEO|>", "<|vision_bos|>", "<|vision_eos|>")
_SPELLED_2_5 += ("<|audio_bos|>", "<|audio_eos|>")
_SPELLED_3 = ("<|image_pad|>", "<|audio_pad|>", "<|video_pad|>", "<|vision_start|>")
_SPELLED_3 += ("<|vision_end|>", "<|audio_start|>", "<|audio_end|>")

# No system turn of its own, in contrast to Qwen2.5-Omni's; an empty block of reasoning only where
# `enable_thinking` is given and false.
_TEMPLATE_3 = """\
{%- macro flat(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}{%- for part in content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'audio' -%}<|audio_start|><|audio_pad|><|audio_end|>
{%- elif part.type == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\n' ~ flat(message.content) ~ '<|im_end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{ '<think>\n\n</think>\n\n' }}{%- endif -%}{%- endif -%}
"""

_IMAGES = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "max_pixels": 12845056,
    "merge_size": 2,
    "min_pixels": 3136,
    "patch_size": 14,
    "temporal_patch_size": 2,
}
_SOUND = {
    "chunk_length": 300,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 128,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 4800000,
    "nb_max_frames": 30000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": True,
    "sampling_rate": 16000,
}


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE and the control tokens behind it."""

    words: dict[str, int]
    merges: list[str]
    control: dict[str, int]

    def __len__(self) -> int:
        return 1 + max(self.control.values())


def vocabulary(generation: str, first_control: int | None = None) -> Vocabulary:
    """The bundled model's words under a generation's ("2.5" or "3") control tokens.

    `first_control` pads the words up to that id with made-up ones that no merge leads to.
    """
    model = json.loads((BUNDLED_PATH / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    words = dict(sorted(model["vocab"].items(), key=lambda item: item[1]))
    assert list(words.values()) == list(range(len(words)))
    for number in range(len(words), first_control or 0):
        words[f"Ġunused{number}"] = number
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    names = CONTROL_3 if generation == "3" else CONTROL_2_5
    return Vocabulary(words, merges, {name: len(words) + n for n, name in enumerate(names)})


def media_tokens(generation: str) -> dict[str, str]:
    """What Qwen's processors call the control tokens ("image_token" and so on)."""
    spelled = _SPELLED_3 if generation == "3" else _SPELLED_2_5
    return {f"{role}_token": text for role, text in zip(_ROLES, spelled, strict=True)}


def chat_template(generation: str) -> str:
    """A template with the output of the published one."""
    bundled = (BUNDLED_PATH / "chat_template.jinja").read_text(encoding="utf-8")
    return _TEMPLATE_3 if generation == "3" else bundled


def processor_class(generation: str) -> str:
    """Its name in transformers."""
    return "Qwen3OmniMoeProcessor" if generation == "3" else "Qwen2_5OmniProcessor"


def write_tokenizer(folder: Path, generation: str, words: Vocabulary, *, fast: bool) -> None:
    """vocab.json and merges.txt, settings, and what only Qwen2.5-Omni's repositories have.

    `fast` adds tokenizer.json, which the 7B and most fine-tunes have and Qwen3-Omni has not.
    """
    _write(folder / "vocab.json", words.words)
    merges = ["#version: 0.2", *words.merges, ""]
    (folder / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    special = [name for name in words.control if name not in PLAIN]
    media = media_tokens(generation)
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = {
        str(number): {"content": name, **flags, "special": name not in PLAIN}
        for name, number in words.control.items()
    }
    settings: dict[str, Any] = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": special[1:],
        **media,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "extra_special_tokens": media,
        "model_max_length": 131072 if generation == "3" else 32768,
        "pad_token": "<|endoftext|>",
        "processor_class": processor_class(generation),
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    _write(folder / "tokenizer_config.json", settings)
    if generation == "2.5":
        _write(folder / "added_tokens.json", words.control)
        ends = {
            name: {"content": text, **flags}
            for name, text in (("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>"))
        }
        map_file = folder / "special_tokens_map.json"
        _write(map_file, {"additional_special_tokens": special[1:], **media, **ends})
    if fast:
        tokenizer = transformers.Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def write_preprocessor(folder: Path, generation: str, *, recent: bool = False) -> None:
    """preprocessor_config.json and the template.

    `recent` is what training frameworks save today: the template as .jinja, and the video
    processor's settings in a file of their own.
    """
    values = {
        **_IMAGES,
        **_SOUND,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": processor_class(generation),
    }
    if generation == "3":
        values |= {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        del values["chunk_length"]
    _write(folder / "preprocessor_config.json", values)
    template = chat_template(generation)
    if not recent:
        _write(folder / "chat_template.json", {"chat_template": template})
        return
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    steps = ("do_convert_rgb", "do_normalize", "do_rescale", "do_resize")
    video = {
        **_IMAGES,
        **dict.fromkeys(steps, True),
        "do_sample_frames": False,
        "fps": None,
        "max_frames": 768,
        "min_frames": 4,
        "processor_class": processor_class(generation),
        "resample": 3,
        "rescale_factor": 1 / 255,
        "return_metadata": False,
        "size": {"longest_edge": 12845056, "shortest_edge": 3136},
        "video_processor_type": "Qwen2VLVideoProcessor",
    }
    _write(folder / "video_preprocessor_config.json", video)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
