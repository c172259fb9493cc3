"""Folders that people point seats at and that are not plain 16-bit checkpoints.

Quantized repositories in the schemes that are published, other formats, adapters, and downloads
that broke off. `write_broken` starts from a good repository (`hub_layouts`) and changes what the
kind changes: names, types and shapes of tensors, and the entry that describes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.hub_layouts import (
    thinker_prefix,
    write_bomb,
    write_json,
    write_repository,
    write_shards,
)

BLOCK = 32  # side of an FP8 block here; 128 as published, where matrices are larger
GROUP = 32  # weights that share a scale
INDEX = "model.safetensors.index.json"
Stored = dict[str, Tensor]


def write_broken(folder: Path, kind: str, layout: str = "omni-7b") -> Stored | None:
    """Write a repository of `layout` (`hub_layouts.LAYOUTS`) as a kind of `BROKEN` has it.

    Returns
    -------
    dict or None
        The thinker's tensors as `hub_layouts.write_repository` names them, dequantized, of kinds
        whose weights say everything about them; None of the others.
    """
    written = write_repository(folder, layout)
    return BROKEN[kind](folder, written)


# ------------------------------------------------------------------ quantized


def _fp8_block(folder: Path, written: Stored) -> Stored:
    """float8 in squares, each with the factor to multiply by: the most downloaded kind."""
    entry = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
    }
    dequantized = dict(written)

    def quantize(name: str, weight: Tensor) -> Stored:
        rows, columns = (size // BLOCK for size in weight.shape)
        squares = weight.float().view(rows, BLOCK, columns, BLOCK)
        scale = _power_of_two(squares.abs().amax((1, 3)) / 448)
        small = (squares / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        dequantized[name] = _times(small, scale[:, None, :, None]).reshape(weight.shape)
        return {name: small.view(weight.shape), f"{name}_scale_inv": scale}

    _requantize(folder, quantize, entry)
    return dequantized


def _fp8_channel(folder: Path, written: Stored) -> Stored:
    return _by_channel(folder, written, torch.float8_e4m3fn, 448, "float")


def _int8_channel(folder: Path, written: Stored) -> Stored:
    return _by_channel(folder, written, torch.int8, 127, "int")


def _by_channel(
    folder: Path, written: Stored, dtype: torch.dtype, largest: int, kind: str
) -> Stored:
    """compressed-tensors: every row has a scale, and the tensor keeps its name and shape."""
    dequantized = dict(written)

    def quantize(name: str, weight: Tensor) -> Stored:
        scale = _power_of_two(weight.float().abs().amax(1, keepdim=True) / largest)
        scaled = weight.float() / scale
        small = (scaled.round() if kind == "int" else scaled).to(dtype)
        dequantized[name] = _times(small, scale)
        return {name: small, f"{name}_scale": scale.to(torch.bfloat16)}

    scheme = {"num_bits": 8, "strategy": "channel", "symmetric": True, "type": kind}
    _requantize(folder, quantize, _compressed(f"{kind}-quantized", scheme))
    return dequantized


def _int4_packed(folder: Path, written: Stored) -> None:
    def quantize(name: str, weight: Tensor) -> Stored:
        out, into = weight.shape
        return {
            f"{name}_packed": _ints(out, into // 8),
            f"{name}_scale": torch.ones(out, into // GROUP, dtype=torch.bfloat16),
            f"{name}_shape": torch.tensor([out, into]),
        }

    scheme = {"num_bits": 4, "strategy": "group", "group_size": GROUP, "type": "int"}
    _requantize(folder, quantize, _compressed("pack-quantized", scheme))


def _gptq(folder: Path, written: Stored) -> None:
    def quantize(name: str, weight: Tensor) -> Stored:
        (out, into), stem = weight.shape, name.removesuffix("weight")
        return {
            f"{stem}g_idx": torch.arange(into, dtype=torch.int32) // GROUP,
            f"{stem}qweight": _ints(into // 8, out),
            f"{stem}qzeros": _ints(into // GROUP, out // 8),
            f"{stem}scales": torch.ones(into // GROUP, out, dtype=torch.float16),
        }

    entry = {"bits": 4, "desc_act": False, "group_size": GROUP, "quant_method": "gptq", "sym": True}
    _requantize(folder, quantize, entry)


def _awq(folder: Path, written: Stored) -> None:
    def quantize(name: str, weight: Tensor) -> Stored:
        (out, into), stem = weight.shape, name.removesuffix("weight")
        return {
            f"{stem}qweight": _ints(into, out // 8),
            f"{stem}qzeros": _ints(into // GROUP, out // 8),
            f"{stem}scales": torch.ones(into // GROUP, out, dtype=torch.float16),
        }

    entry = {
        "bits": 4,
        "group_size": GROUP,
        "modules_to_not_convert": ["visual", "audio_tower"],
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": True,
    }
    _requantize(folder, quantize, entry)


def _bitsandbytes_4bit(folder: Path, written: Stored) -> None:
    def quantize(name: str, weight: Tensor) -> Stored:
        state = {"blocksize": 64, "dtype": "bfloat16", "shape": list(weight.shape)}
        text = json.dumps({**state, "quant_type": "nf4"}).encode()
        return {
            name: torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
            f"{name}.absmax": torch.ones(weight.numel() // 64),
            f"{name}.quant_map": torch.linspace(-1, 1, 16),
            f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(text), dtype=torch.uint8),
        }

    entry = {
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": False,
        "load_in_4bit": True,
        "load_in_8bit": False,
        "quant_method": "bitsandbytes",
    }
    _requantize(folder, quantize, entry)


def _mxfp4(folder: Path, written: Stored) -> None:
    def quantize(name: str, weight: Tensor) -> Stored:
        (out, into), stem = weight.shape, name.removesuffix(".weight")
        return {
            f"{stem}_blocks": torch.zeros(out, into // 32, 16, dtype=torch.uint8),
            f"{stem}_scales": torch.zeros(out, into // 32, dtype=torch.uint8),
        }

    _requantize(folder, quantize, {"quant_method": "mxfp4"})


def _mlx(folder: Path, written: Stored) -> None:
    """MLX names no method, and has its entry twice."""

    def quantize(name: str, weight: Tensor) -> Stored:
        (out, into), stem = weight.shape, name.removesuffix("weight")
        scales = torch.ones(out, into // GROUP, dtype=torch.bfloat16)
        packed = _ints(out, into // 8).view(torch.uint32)
        return {name: packed, f"{stem}scales": scales, f"{stem}biases": scales.clone()}

    entry = {"bits": 4, "group_size": GROUP}
    _requantize(folder, quantize, entry)
    _edit_config(folder, lambda config: config.update(quantization=entry))


# ------------------------------------------------------- other formats, and adapters


def _gguf(folder: Path, written: Stored) -> None:
    """Files for llama.cpp beside the config of the original."""
    _remove_weights(folder)
    for part in ("Q4_K_M", "mmproj-f16"):
        (folder / f"model-{part}.gguf").write_bytes(b"GGUF" + bytes(60))


def _gguf_alone(folder: Path, written: Stored) -> None:
    _gguf(folder, written)
    _keep(folder, ".gguf", ".md")


def _pickle_only(folder: Path, written: Stored) -> None:
    """pytorch_model.bin in shards; reading one would run its code."""
    index = json.loads((folder / INDEX).read_text())
    _remove_weights(folder)
    names = {
        file: file.replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        for file in set(index["weight_map"].values())
    }
    for file in names.values():
        write_bomb(folder / file)
    index["weight_map"] = {name: names[file] for name, file in index["weight_map"].items()}
    write_json(folder / "pytorch_model.bin.index.json", index)


def _lora(folder: Path, written: Stored) -> None:
    """An adapter as peft saves it, which says what its base is."""
    _lora_beside(folder, written)
    _keep(folder, "adapter_config.json", "adapter_model.safetensors", ".md")


def _lora_beside(folder: Path, written: Stored) -> Stored:
    """What is expected is the base, without the adapter."""
    tensors = {}
    for name, weight in written.items():
        if name.startswith("model.layers.") and "self_attn.q_proj.weight" in name:
            out, into = weight.shape
            stem = f"base_model.model.thinker.{name.removesuffix('.weight')}"
            tensors[f"{stem}.lora_A.weight"] = torch.full((4, into), 0.01)
            tensors[f"{stem}.lora_B.weight"] = torch.full((out, 4), 0.01)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": "Qwen/Qwen2.5-Omni-7B",
        "bias": "none",
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
    }
    write_json(folder / "adapter_config.json", config)
    return written


# ----------------------------------------------------------------- broken downloads


def _shard_missing(folder: Path, written: Stored) -> None:
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def _shard_cut(folder: Path, written: Stored) -> None:
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def _config_only(folder: Path, written: Stored) -> None:
    _keep(folder, "config.json")


def _no_template(folder: Path, written: Stored) -> None:
    for path in folder.glob("chat_template.*"):
        path.unlink()


def _text_template(folder: Path, written: Stored) -> None:
    """The template of the language model alone."""
    _no_template(folder, written)
    turn = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    template = "{% for message in messages %}" + turn + "{% endfor %}"
    write_json(folder / "chat_template.json", {"chat_template": template})


def _no_added_tokens(folder: Path, written: Stored) -> None:
    """A vocabulary without the control tokens, as conversions that keep only the BPE leave it."""
    for name in ("added_tokens.json", "special_tokens_map.json", "tokenizer.json"):
        (folder / name).unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for name in [name for name in settings if name.endswith("_token") or "special" in name]:
        del settings[name]
    del settings["added_tokens_decoder"]
    write_json(path, settings)


def _tied_in_text_config(folder: Path, written: Stored) -> Stored:
    """No head of its own, and only the inner config says so."""
    stored, prefix = _read_weights(folder), thinker_prefix(folder)
    del stored[f"{prefix}lm_head.weight"]
    _write_weights(folder, stored)

    def tie(config: dict[str, Any]) -> None:
        thinker = config.get("thinker_config", config)
        thinker["text_config"]["tie_word_embeddings"] = True
        for level in (config, thinker):
            level.pop("tie_word_embeddings", None)

    _edit_config(folder, tie)
    return {**written, "lm_head.weight": written["model.embed_tokens.weight"]}


BROKEN: dict[str, Callable[[Path, Stored], Stored | None]] = {
    "fp8-block": _fp8_block,
    "fp8-channel": _fp8_channel,
    "int8": _int8_channel,
    "int4-packed": _int4_packed,
    "gptq": _gptq,
    "awq": _awq,
    "bitsandbytes-4bit": _bitsandbytes_4bit,
    "mxfp4": _mxfp4,
    "mlx": _mlx,
    "gguf": _gguf,
    "gguf-alone": _gguf_alone,
    "pickle-only": _pickle_only,
    "lora": _lora,
    "lora-beside": _lora_beside,
    "shard-missing": _shard_missing,
    "shard-cut": _shard_cut,
    "config-only": _config_only,
    "no-template": _no_template,
    "text-template": _text_template,
    "no-added-tokens": _no_added_tokens,
    "tied-in-text-config": _tied_in_text_config,
}


# --------------------------------------------------------------------------- helpers


def _requantize(
    folder: Path, quantize: Callable[[str, Tensor], Stored], entry: dict[str, Any]
) -> None:
    """The decoder's matrices through `quantize`, and the entry where whole-model savers put it."""
    prefix, stored = thinker_prefix(folder), {}
    for name, weight in _read_weights(folder).items():
        inner = name.removeprefix(prefix)
        if inner.startswith("model.layers.") and inner.endswith("_proj.weight"):
            small = quantize(inner, weight)
            stored.update({f"{prefix}{part}": value for part, value in small.items()})
        else:
            stored[name] = weight
    _write_weights(folder, stored)
    _edit_config(folder, lambda config: config.update(quantization_config=entry))


def _compressed(layout: str, weights: dict[str, Any]) -> dict[str, Any]:
    group = {"input_activations": None, "targets": ["Linear"], "weights": weights}
    return {
        "config_groups": {"group_0": group},
        "format": layout,
        "ignore": ["thinker.lm_head", "re:thinker.visual.*", "re:thinker.audio_tower.*"],
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }


def _power_of_two(scale: Tensor) -> Tensor:
    """At least as large, so that a product with 8-bit numbers is exact in bfloat16."""
    return scale.clamp(min=2.0**-30).log2().ceil().exp2()


def _times(small: Tensor, scale: Tensor) -> Tensor:
    return (small.float() * scale).to(torch.bfloat16)


def _ints(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)


def _shards(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("model-*.safetensors"))


def _read_weights(folder: Path) -> Stored:
    stored: Stored = {}
    for shard in _shards(folder):
        stored.update(load_file(shard))
    return stored


def _remove_weights(folder: Path) -> None:
    for path in (*_shards(folder), folder / INDEX):
        path.unlink()


def _write_weights(folder: Path, stored: Stored) -> None:
    _remove_weights(folder)
    write_shards(folder, stored)


def _keep(folder: Path, *endings: str) -> None:
    for path in folder.iterdir():
        if not path.name.endswith(endings):
            path.unlink()


def _edit_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    write_json(path, config)
