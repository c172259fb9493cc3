"""Repositories in the layout of the hub's, small and with random weights.

`write_repository` writes every file that the published repository has, under its published name:
old config keys, vocabulary without tokenizer.json where there is none, shards with an index,
experts apart, the keys of the talker and the vocoder, and spk_dict.pt, a pickle that must not be
read. Tensor names are written out here, not taken from transformers' modules: that they are found
is what tests want to know.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.models import hub_configs as configs
from tests.models.hub_configs import Sizes
from tests.models.hub_processors import vocabulary, write_preprocessor, write_tokenizer

LAYOUTS = {  # by the generation of their files
    "omni-7b": "2.5",
    "omni-3b": "2.5",
    "omni3-instruct": "3",
    "omni3-thinking": "3",
    "thinker-2.5": "2.5",  # the thinker alone, as vLLM users and some fine-tunes save it
    "thinker-3": "3",
    "finetune-2.5": "2.5",  # saved again by transformers 4.57 after training
}
UNPICKLED = "UNPICKLED"  # the file that a pickle of these repositories leaves behind if it is read
Shapes = Iterator[tuple[str, tuple[int, ...]]]


def write_repository(
    folder: Path, layout: str, *, sizes: Sizes | None = None, seed: int = 0, shards: int = 4
) -> dict[str, Tensor]:
    """Write the repository of that name (`LAYOUTS`); about 2 MB.

    Returns
    -------
    dict
        The thinker's tensors (bfloat16) as written, by their names in a full repository without
        the prefix `thinker.`.
    """
    generation, alone = LAYOUTS[layout], layout.startswith("thinker")
    sizes = sizes or Sizes()
    folder.mkdir(parents=True, exist_ok=True)
    words = vocabulary(generation)
    # Embeddings have rows beyond the last token, as published (152,064 for 151,665).
    rows = -(-len(words) // 64) * 64
    fast = layout in ("omni-7b", "finetune-2.5")
    write_tokenizer(folder, generation, words, fast=fast)
    write_preprocessor(folder, generation, recent=layout == "finetune-2.5")
    if generation == "3":
        thinker = configs.thinker_3(sizes, words, rows)
        values = configs.whole_3(thinker, speaks=layout == "omni3-instruct")
        answering = configs.SPEAKS if layout == "omni3-instruct" else configs.THINKS
        shapes, speech = thinker_shapes_3(sizes, rows), _speech_3()
    else:
        thinker = configs.thinker_2_5(sizes, words, rows)
        values = configs.whole_2_5(thinker, words)
        answering = configs.SAYS_NOTHING
        shapes, speech = thinker_shapes_2_5(sizes, rows), _speech_2_5()
    if layout == "finetune-2.5":
        # Such frameworks leave the talker out.
        values |= {
            "architectures": ["Qwen2_5OmniForConditionalGeneration"],
            "transformers_version": "4.57.1",
        }
        stops = [words.control["<|im_end|>"], words.control["<|endoftext|>"]]
        answering = {**configs.SAYS_NOTHING, "eos_token_id": stops}
    if alone:
        name = "Qwen3OmniMoe" if generation == "3" else "Qwen2_5Omni"
        values = {
            **thinker,
            "architectures": [f"{name}ThinkerForConditionalGeneration"],
            "transformers_version": "4.57.1",
        }
    write_json(folder / "config.json", values)
    write_json(folder / "generation_config.json", answering)
    generator = torch.Generator().manual_seed(seed)
    written = {name: _random(name, shape, generator) for name, shape in shapes}
    stored = {name if alone else f"thinker.{name}": value for name, value in written.items()}
    if layout in ("omni-7b", "omni-3b", "omni3-instruct"):
        stored |= {name: _random(name, shape, generator) for name, shape in speech}
    write_shards(folder, stored, shards)
    if layout in ("omni-7b", "omni-3b"):
        write_bomb(folder / "spk_dict.pt")
    (folder / "README.md").write_text("# Small and random\n", encoding="utf-8")
    return written


def write_shards(folder: Path, weights: dict[str, Tensor], count: int = 4) -> None:
    """Shards of about equally many tensors, and their index."""
    names = list(weights)
    size = -(-len(names) // count)
    places: dict[str, str] = {}
    for number in range(count):
        part = names[number * size : (number + 1) * size]
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        tensors = {name: weights[name].contiguous() for name in part}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(part, file))
    total = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    write_json(folder / "model.safetensors.index.json", index)


def write_bomb(path: Path) -> None:
    """A pickle that fails when it is read, and leaves `UNPICKLED` beside itself."""
    path.write_bytes(pickle.dumps(_Bomb(path)))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """As transformers writes it."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def thinker_prefix(folder: Path) -> str:
    """What the thinker's tensors begin with in a repository: nothing where it stands alone."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return "thinker." if "thinker.lm_head.weight" in index["weight_map"] else ""


def thinker_parts(written: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What the modules of a loaded thinker must hold: the written tensors, experts together.

    By the adapter's attribute (`language_model`, `visual`, `audio_tower`, `lm_head`), so that it
    does not matter where a version of transformers keeps them.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    experts: dict[str, dict[int, dict[str, Tensor]]] = {}
    for name, value in written.items():
        part, _, rest = name.partition(".")
        part = "language_model" if part == "model" else part
        before, found, after = rest.partition(".experts.")
        if not found:
            parts.setdefault(part, {})[rest] = value
            continue
        number, kind, _ = after.split(".")
        experts.setdefault(f"{before}.experts", {}).setdefault(int(number), {})[kind] = value
    for prefix, by_number in experts.items():
        ordered = [by_number[number] for number in sorted(by_number)]
        fused = [torch.cat([one["gate_proj"], one["up_proj"]]) for one in ordered]
        parts["language_model"][f"{prefix}.gate_up_proj"] = torch.stack(fused)
        down = [one["down_proj"] for one in ordered]
        parts["language_model"][f"{prefix}.down_proj"] = torch.stack(down)
    return parts


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        mark = str(self.path.parent.resolve() / UNPICKLED)
        code = f"open({mark!r}, 'w').close()\nraise AssertionError('a pickle was read')"
        return exec, (code,)


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Weights large enough that attention and positions matter."""
    noise = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        value = 0.1 * noise + (1 if name.endswith("weight") else 0)
    else:
        value = noise * (0.5 if "embed" in name else 1.6 / noise[0].numel() ** 0.5)
    return value.to(torch.bfloat16)


# ------------------------------------------------------------- tensors' names and shapes


def thinker_shapes_2_5(sizes: Sizes, rows: int) -> Shapes:
    """Of Qwen2.5-Omni, without the prefix `thinker.`."""
    keys, wide = 2 * sizes.head, sizes.hidden
    yield "model.embed_tokens.weight", (rows, wide)
    for number in range(sizes.layers):
        layer = f"model.layers.{number}"
        yield from _linear(f"{layer}.self_attn.q_proj", wide, wide)
        yield from _linear(f"{layer}.self_attn.k_proj", keys, wide)
        yield from _linear(f"{layer}.self_attn.v_proj", keys, wide)
        yield f"{layer}.self_attn.o_proj.weight", (wide, wide)
        yield from _gated(f"{layer}.mlp", sizes.mlp, wide)
        yield f"{layer}.input_layernorm.weight", (wide,)
        yield f"{layer}.post_attention_layernorm.weight", (wide,)
    yield "model.norm.weight", (wide,)
    yield "lm_head.weight", (rows, wide)

    size, inner = sizes.encoder, sizes.encoder_mlp
    yield "visual.patch_embed.proj.weight", (size, 3, 2, 14, 14)
    for number in range(sizes.blocks):
        block = f"visual.blocks.{number}"
        yield f"{block}.norm1.weight", (size,)
        yield f"{block}.norm2.weight", (size,)
        for part in ("q", "k", "v", "proj"):
            yield from _linear(f"{block}.attn.{part}", size, size)
        yield from _gated(f"{block}.mlp", inner, size, bias=True)
    yield "visual.merger.ln_q.weight", (size,)
    yield from _linear("visual.merger.mlp.0", 4 * size, 4 * size)
    yield from _linear("visual.merger.mlp.2", wide, 4 * size)

    for number, channels in ((1, sizes.mels), (2, size)):
        yield f"audio_tower.conv{number}.weight", (size, channels, 3)
        yield f"audio_tower.conv{number}.bias", (size,)
    yield "audio_tower.audio_bos_eos_token.weight", (2, wide)
    yield from _audio_layers(sizes, key_bias=False)
    yield from _linear("audio_tower.proj", wide, size)


def thinker_shapes_3(sizes: Sizes, rows: int) -> Shapes:
    """Of Qwen3-Omni, without the prefix `thinker.`."""
    keys, wide = 2 * sizes.head, sizes.hidden
    yield "model.embed_tokens.weight", (rows, wide)
    for number in range(sizes.layers):
        layer = f"model.layers.{number}"
        for part, out in (("q", wide), ("k", keys), ("v", keys)):
            yield f"{layer}.self_attn.{part}_proj.weight", (out, wide)
        yield f"{layer}.self_attn.o_proj.weight", (wide, wide)
        yield f"{layer}.self_attn.q_norm.weight", (sizes.head,)
        yield f"{layer}.self_attn.k_norm.weight", (sizes.head,)
        for expert in range(sizes.experts):
            yield from _gated(f"{layer}.mlp.experts.{expert}", sizes.expert_mlp, wide)
        yield f"{layer}.mlp.gate.weight", (sizes.experts, wide)
        yield f"{layer}.input_layernorm.weight", (wide,)
        yield f"{layer}.post_attention_layernorm.weight", (wide,)
    yield "model.norm.weight", (wide,)
    yield "lm_head.weight", (rows, wide)

    size, inner = sizes.encoder, sizes.encoder_mlp
    yield "visual.patch_embed.proj.weight", (size, 3, 2, 16, 16)
    yield "visual.patch_embed.proj.bias", (size,)
    yield "visual.pos_embed.weight", (sizes.places, size)
    for number in range(sizes.blocks):
        block = f"visual.blocks.{number}"
        yield from _norm(f"{block}.norm1", size)
        yield from _norm(f"{block}.norm2", size)
        yield from _linear(f"{block}.attn.qkv", 3 * size, size)
        yield from _linear(f"{block}.attn.proj", size, size)
        yield from _linear(f"{block}.mlp.linear_fc1", inner, size)
        yield from _linear(f"{block}.mlp.linear_fc2", size, inner)
    for merger, normed in (("merger", size), *((f"merger_list.{n}", 4 * size) for n in range(3))):
        yield from _norm(f"visual.{merger}.ln_q", normed)
        yield from _linear(f"visual.{merger}.mlp.0", 4 * size, 4 * size)
        yield from _linear(f"visual.{merger}.mlp.2", wide, 4 * size)

    for number, channels in ((1, 1), (2, sizes.conv), (3, sizes.conv)):
        yield f"audio_tower.conv2d{number}.weight", (sizes.conv, channels, 3, 3)
        yield f"audio_tower.conv2d{number}.bias", (sizes.conv,)
    yield "audio_tower.conv_out.weight", (size, sizes.conv * sizes.mels // 8)
    yield from _audio_layers(sizes, key_bias=True)
    yield from _linear("audio_tower.proj1", size, size)
    yield from _linear("audio_tower.proj2", wide, size)


def _audio_layers(sizes: Sizes, *, key_bias: bool) -> Shapes:
    size = sizes.encoder
    for number in range(sizes.audio_layers):
        layer = f"audio_tower.layers.{number}"
        yield from _linear(f"{layer}.self_attn.k_proj", size, size, bias=key_bias)
        for part in ("v_proj", "q_proj", "out_proj"):
            yield from _linear(f"{layer}.self_attn.{part}", size, size)
        yield from _norm(f"{layer}.self_attn_layer_norm", size)
        yield from _linear(f"{layer}.fc1", sizes.encoder_mlp, size)
        yield from _linear(f"{layer}.fc2", size, sizes.encoder_mlp)
        yield from _norm(f"{layer}.final_layer_norm", size)
    yield from _norm("audio_tower.ln_post", size)


def _linear(name: str, out: int, into: int, *, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (out, into)
    if bias:
        yield f"{name}.bias", (out,)


def _norm(name: str, size: int) -> Shapes:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _gated(name: str, inner: int, size: int, *, bias: bool = False) -> Shapes:
    yield from _linear(f"{name}.gate_proj", inner, size, bias=bias)
    yield from _linear(f"{name}.up_proj", inner, size, bias=bias)
    yield from _linear(f"{name}.down_proj", size, inner, bias=bias)


def _speech_2_5() -> Shapes:
    """Some of the talker's and the vocoder's tensors, which nothing may load."""
    yield "talker.codec_head.weight", (8448, 32)
    yield "talker.model.embed_tokens.weight", (64, 64)
    yield from _linear("talker.model.layers.0.self_attn.q_proj", 32, 32)
    yield from _gated("talker.model.layers.0.mlp", 64, 32)
    yield "talker.model.norm.weight", (32,)
    yield from _linear("talker.thinker_to_talker_proj", 32, 64)
    yield "token2wav.code2wav_bigvgan_model.conv_pre.weight", (32, 16, 7)
    yield from _linear("token2wav.code2wav_dit_model.transformer_blocks.0.attn.to_q", 32, 32)


def _speech_3() -> Shapes:
    yield "talker.codec_head.weight", (3072, 32)
    yield from _gated("talker.model.layers.0.mlp.experts.0", 16, 32)
    yield from _gated("talker.model.layers.0.mlp.shared_expert", 16, 32)
    yield "talker.code_predictor.lm_head.0.weight", (2048, 32)
    yield from _linear("talker.hidden_projection.linear_fc1", 32, 64)
    yield "code2wav.code_embedding.weight", (64, 32)
    yield "code2wav.decoder.0.conv.weight", (32, 32, 7)
    yield "code2wav.pre_transformer.layers.0.self_attn.q_proj.weight", (32, 32)
