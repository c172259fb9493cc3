"""Quantized weights: those of checkpoints, by scheme, and 16-bit ones that are quantized here.

Checkpoints with 8-bit weights are loaded (`seats_cli.models.dequantization`), all others are
refused by name, with the checkpoint to take instead. `load_model(quantize=...)` quantizes the
decoder of a 16-bit checkpoint with bitsandbytes while it is read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seats_cli.config import QUANTIZE
from seats_cli.errors import ModelError, UsageError
from seats_cli.families.registry import checkpoints
from seats_cli.models.adapter import Adapter
from seats_cli.models.devices import SPREAD

# Where a config keeps its scheme: by name, and in these parts of it ("" is the whole).
ENTRIES = ("quantization_config", "compression_config")
_PARTS = ("", "thinker_config", "thinker_config.text_config", "text_config")
# Files beside it that older or other tools write instead.
_FILES = {
    "hf_quant_config.json": "modelopt",
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": "auto-round",
}
# What people call the schemes, by `quant_method` in lower case.
_TITLES = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "eetq": "EETQ",
    "fbgemm_fp8": "FBGEMM FP8",
    "fp8": "FP8",
    "gptq": "GPTQ",
    "hqq": "HQQ",
    "mlx": "MLX",
    "modelopt": "ModelOpt",
    "mxfp4": "MXFP4",
    "mxfp8": "MXFP8",
    "quanto": "Quanto",
    "quark": "Quark",
    "torchao": "torchao",
}
_ALIASES = {
    "auto_round": "auto-round",
    "autoround": "auto-round",
    "intel/auto-round": "auto-round",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "compressed_tensors": "compressed-tensors",
    "modelopt_fp4": "modelopt",
    "modelopt_mixed": "modelopt",
}
# Formats in which every weight is a tensor of one byte per value, to be multiplied by its scale.
_SCALED = {
    "fp8": ("",),
    "fbgemm_fp8": ("",),
    "compressed-tensors": ("float-quantized", "int-quantized", "naive-quantized"),
    "modelopt": ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO"),
}
_PACKED = re.compile(r"F[468]_|[IU]8$|[IU]32$")  # types of quantized values
_FLOATS, _INTEGERS = ("F8_E4M3", "F8_E5M2"), ("I8",)


# --------------------------------------------------------------- which scheme


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint says that its weights are quantized."""

    method: str  # as in `_TITLES`, or as the checkpoint calls it
    format: str  # one of the method's formats; "" if it has only one
    settings: Mapping[str, Any]  # the whole entry

    @property
    def title(self) -> str:
        """What people call it: "AWQ", "compressed-tensors (pack-quantized)"."""
        title = _TITLES.get(self.method, self.method)
        return f"{title} ({self.format})" if self.format else title

    @property
    def dequantizable(self) -> bool:
        """Whether weights are values of 8 bits times scales, and nothing else."""
        sparse = (self.settings.get("sparsity_config") or {}).get("format", "dense") != "dense"
        mixed = self.settings.get("transform_config") or self.settings.get("expert_dtype") == "fp4"
        return self.format in _SCALED.get(self.method, ()) and not sparse and not mixed

    @property
    def stored_types(self) -> tuple[str, ...]:
        """The types of quantized values in its files, as safetensors names them."""
        if self.format == "naive-quantized":  # of either kind
            return _FLOATS + _INTEGERS
        return _INTEGERS if self.format == "int-quantized" else _FLOATS

    def result(self, dtype: torch.dtype) -> str:
        """What reports say of a model that was loaded from it."""
        return f"{self.title}, dequantized to {str(dtype).removeprefix('torch.')}"


def scheme_of(folder: Path, config: Mapping[str, Any]) -> Scheme | None:
    """The scheme of a checkpoint's thinker by its config.json and the files beside it.

    Parameters
    ----------
    folder : Path
    config : mapping
        Its raw config.json: the classes of transformers read only a part of it.
    """
    for part in _PARTS:
        values: Any = config
        for name in filter(None, part.split(".")):
            values = values.get(name) or {}
        for name in ENTRIES:
            if values.get(name):
                return _named(values[name], "")
        # MLX writes both entries, and in the second nothing but the numbers.
        if _is_mlx(values.get("quantization")):
            return Scheme("mlx", "", values["quantization"])
    for file, method in _FILES.items():
        if (folder / file).is_file():
            try:
                entry = json.loads((folder / file).read_text(encoding="utf-8-sig"))
            except (OSError, ValueError):
                entry = {}
            return _named(entry if isinstance(entry, dict) else {}, method)
    return None


def _is_mlx(entry: Any) -> bool:
    return isinstance(entry, dict) and {"bits", "group_size"} <= entry.keys()


def _named(entry: Any, method: str) -> Scheme:
    """The scheme of an entry; `method` is what it is if the entry itself does not say."""
    entry = entry if isinstance(entry, dict) else {"quant_method": str(entry)}
    inner = entry.get("quantization")
    settings = {**entry, **inner} if isinstance(inner, dict) else entry
    said = settings.get("quant_method")
    if said is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        said = "bitsandbytes"
    if said is None and not method and _is_mlx(settings):
        said = "mlx"
    if said is None and "config_groups" in settings:
        said = "compressed-tensors"
    said = str(said or method or "an unnamed scheme").lower()
    found = _ALIASES.get(said, said)
    detail = settings.get("quant_algo") if found == "modelopt" else None
    if found == "compressed-tensors":
        detail = settings.get("format")
    return Scheme(found, str(detail or ""), settings)


def readable_scheme(
    folder: Path, config: Mapping[str, Any], name: str, types: Collection[str] = ()
) -> Scheme | None:
    """The scheme of a checkpoint, if it is one that can be loaded; None without one.

    Parameters
    ----------
    folder : Path
    config : mapping
        Its raw config.json.
    name : str
        What to call the model in messages.
    types : collection of str
        Of the thinker's tensors in its files, as safetensors names them.

    Raises
    ------
    ModelError
        If the weights are quantized in another way; it says with what, and what to take instead.
    """
    scheme = scheme_of(folder, config)
    small = sorted(kind for kind in types if _PACKED.match(kind))
    if scheme is None and small:
        raise ModelError(
            f"'{name}' has quantized weights ({', '.join(small)}), and its config.json does not "
            f"say how: {_instead(name, folder)}."
        )
    if scheme is None or scheme.dequantizable:
        return scheme
    raise ModelError(
        f"'{name}' is quantized with {scheme.title}, which seats does not read: "
        f"{_instead(name, folder)}."
    )


def _instead(name: str, folder: Path) -> str:
    """What to take in place of a quantized checkpoint, as the end of a sentence."""
    base = base_of(name, folder)
    if base is None:
        return "use the 16-bit checkpoint that it was made from"
    known = checkpoints().get(base)
    size = f" (about {known.gigabytes} GB)" if known else ""
    return f"use the 16-bit checkpoint {base}{size}"


def base_of(name: str, folder: Path) -> str | None:
    """The hub id of what a checkpoint was made from, by its model card or else by its name."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:20_000]
    except OSError:
        card = ""
    _, *front = card.split("---\n", 2)
    written = re.search(
        r"^base_model:\s*(?:\n\s*-)?\s*[\"']?([\w.-]+/[\w.-]+)", front[0] if front else "", re.M
    )
    if written:
        return written[1]
    # hub folders are called models--owner--name/snapshots/revision
    spelled = f"{name} {folder.resolve()}".lower().replace("_", "-")
    known = [base for base in checkpoints() if base.partition("/")[2].lower() in spelled]
    return max(known, key=len, default=None)


# ------------------------------------------------------ quantizing while loading

# What reports say of it.
_RESULTS = {"4bit": "4-bit decoder (bitsandbytes NF4)", "8bit": "8-bit decoder (bitsandbytes)"}


def check_quantize(quantize: str, family: type[Adapter], device: str, where: torch.device) -> None:
    """Refuse to quantize where that is impossible, before anything is read.

    Parameters
    ----------
    quantize : str
        One of `QUANTIZE`.
    family : type
        The adapter of the model.
    device : str
        As the user said it.
    where : torch.device
        Where the model begins.

    Raises
    ------
    UsageError
    """
    if quantize not in QUANTIZE:
        raise UsageError(f"Unknown `quantize` '{quantize}': use {' or '.join(QUANTIZE)}.")
    if family.not_quantizable:
        title = family.family.title
        raise UsageError(f"{title} cannot be loaded with `quantize`: {family.not_quantizable}.")
    if device == SPREAD:
        raise UsageError(
            f"`quantize={quantize}` keeps a model on one device, and `device=spread` puts it on "
            "several: use one of the two."
        )
    if where.type not in ("cuda", "cpu"):
        raise UsageError(f"`quantize` works on CUDA devices and on the CPU, not on {where.type}.")
    if util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "`quantize` needs the package bitsandbytes: pip install 'seats-cli[quantize]'."
        )


def quantizing(quantize: str, family: type[Adapter], dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained` that quantize the decoder's projections.

    Encoders and LM head keep their precision: Stage I reads the encoders' attention, and together
    they are a third of the 7B.
    """
    from transformers import BitsAndBytesConfig

    skipped = list(family.unquantized_modules)
    if quantize == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=skipped,
        )
    return {"quantization_config": config}


def without_cpu_packing(net: nn.Module) -> None:
    """Keep 4-bit layers whose rows do not end with a block from being packed for CPUs.

    On CPUs with AVX-512 BF16 bitsandbytes packs weights for a kernel of its own, row by row in
    whole blocks of values that share a scale. Layers of all real checkpoints are made of those.
    """
    for module in net.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and state.shape[-1] % state.blocksize:
            vars(module)["support_avx512bf16_for_cpu"] = False


def quantized_as(quantize: str | None, scheme: Scheme | None, dtype: torch.dtype) -> str:
    """What reports say of a model's weights; "" if they are as stored."""
    said = [] if scheme is None else [scheme.result(dtype)]
    return ", ".join([*said, _RESULTS[quantize]] if quantize else said)


def parameter_count(net: nn.Module) -> int:
    """Values of a model's weights, also of those that are packed."""
    return sum(_values(parameter) for parameter in net.parameters())


def _values(parameter: nn.Parameter) -> int:
    # bitsandbytes packs two values in a byte, and notes the shape that they had.
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def why_not_recordable(net: nn.Module) -> str:
    """Why steps of a model cannot be recorded as a CUDA graph; "" if its weights allow it."""
    kinds = {type(module).__name__ for module in net.modules()}
    return "8-bit layers ask the GPU for outliers" if "Linear8bitLt" in kinds else ""
