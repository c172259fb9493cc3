"""Checkpoints whose weights are values of 8 bits: they are multiplied by their scales as read.

The model is then an ordinary one of 16 or 32 bits: any device runs it, and every hook finds what
it expects. transformers' own layers for such weights need kernels that it fetches from the hub,
and know neither whole repositories of Omni models nor scales for rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seats_cli.errors import ModelError
from seats_cli.families.checkpoint_folder import weight_files
from seats_cli.models.quantization import ENTRIES, Scheme

# Behind the name of a weight: of what it is multiplied by, and of what only 8-bit kernels need.
_FACTORS = ("_scale_inv", "_scale")
_UNUSED = re.compile(
    r"\.(input_scale|input_zero_point|activation_scale|output_scale|[qkv]_scale"
    r"|weight_zero_point|weight_shape)$"
)
_ROWS = 1024  # that are multiplied at a time, so that few of them exist in float32


@dataclass(frozen=True)
class Part:
    """A tensor of a file in the form in which transformers takes them: read when it is needed."""

    stored: Any  # safetensors' slice
    factor: Any = None  # the slice with its scales
    offset: Any = None  # the slice with its zero points
    inverse: bool = False  # the scales are named as DeepSeek names them
    block: tuple[int, int] | None = None  # rows and columns that share a scale
    dtype: torch.dtype | None = None  # of the products

    def get_dtype(self) -> str:
        """As safetensors names it."""
        return str(self.stored.get_dtype()) if self.dtype is None else "F32"

    def get_shape(self) -> list[int]:
        """Of the tensor."""
        return list(self.stored.get_shape())

    def __getitem__(self, index: Any) -> Tensor:
        if self.factor is None or self.dtype is None:
            whole: Tensor = self.stored[index]
            return whole
        scale = self.factor[...]
        # Bytes are exponents (E8M0).
        scale = (scale.float() - 127).exp2() if scale.dtype == torch.uint8 else scale.float()
        if self.inverse:
            scale = multipliers(scale)
        offset = None if self.offset is None else self.offset[...].float()
        return dequantize(self.stored[...], scale, self.dtype, self.block, offset)[index]


def multipliers(scale: Tensor) -> Tensor:
    """What values are multiplied by, from a tensor `weight_scale_inv`.

    Quantizing divides a block by its largest value over 448, and DeepSeek stores that divisor,
    which is far below 1 for any sensible weight. Others took the name at its word: the most used
    FP8 repository of Qwen3-Omni stores the inverse (sglang-omni inverts it while loading).
    """
    return scale.reciprocal() if float(scale.median()) > 1 else scale


def dequantize(
    values: Tensor,
    scale: Tensor,
    dtype: torch.dtype,
    block: tuple[int, int] | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """Values times their scales, computed in float32 and rounded once.

    Parameters
    ----------
    values : Tensor, shape (..., n, m)
        Of 8 bits each.
    scale : Tensor
        One value, or one for each row, (..., n, 1), or block, (..., rows, columns) of blocks; the
        last ones may reach beyond the matrix.
    dtype : torch.dtype
        Of the result.
    block : (int, int) or None
        Height and width of a block; None: the matrix divided evenly.
    offset : Tensor or None
        What is subtracted from the values first, of the shape of `scale`.

    Raises
    ------
    ValueError
        If the scales do not fit the matrix.
    """
    if values.ndim > 2 and scale.ndim == values.ndim:
        offsets = [None] * len(values) if offset is None else list(offset)
        pairs = zip(values, scale, offsets, strict=True)
        return torch.stack([dequantize(one, own, dtype, block, less) for one, own, less in pairs])
    count, width = values.shape[-2:]
    grid = scale.reshape(1, 1) if scale.numel() == 1 else scale
    grid = grid.reshape(-1, 1) if grid.ndim == 1 else grid
    down, across = grid.shape[-2:]
    given = block is not None and (-(-count // block[0]), -(-width // block[1])) == (down, across)
    if block is None or not given:
        if count % down or width % across:
            raise ValueError(f"scales of shape {down} x {across} for a {count} x {width} matrix")
        block = count // down, width // across
    shift = None if offset is None else offset.reshape(grid.shape)
    result = torch.empty(values.shape, dtype=dtype)
    for begin in range(0, count, _ROWS):
        part = values[..., begin : begin + _ROWS, :].float()
        places = torch.arange(begin, begin + part.shape[-2]) // block[0]
        if shift is not None:
            part = part - _spread(shift[places], block[1], width)
        result[..., begin : begin + _ROWS, :] = part * _spread(grid[places], block[1], width)
    return result


def _spread(grid: Tensor, block: int, width: int) -> Tensor:
    """Each column of a grid as often as it is wide, up to the width of the matrix."""
    return grid if grid.shape[1] == 1 else grid.repeat_interleave(block, 1)[:, :width]


def weights_source(
    model_class: Any, folder: Path, scheme: Scheme, name: str, dtype: torch.dtype, prefix: str
) -> dict[str, Any]:
    """Arguments of `from_pretrained` in place of the folder: its tensors, multiplied as read.

    Parameters
    ----------
    model_class : type
        The transformers class of the thinker.
    scheme : Scheme
    name : str
        What to call the model in messages.
    dtype : torch.dtype
        Of the products.
    prefix : str
        With which the names of its tensors begin in a repository of more than the thinker.

    Raises
    ------
    ModelError
        If scales are missing.
    """
    from safetensors import safe_open
    from transformers import GenerationConfig

    config = model_class.config_class.from_pretrained(folder, local_files_only=True)
    for part in (config, config.get_text_config()):
        # Multiplied out, they are not quantized any more.
        for entry in ENTRIES:
            part.__dict__.pop(entry, None)
    files = [safe_open(folder / file, "pt") for file in weight_files(folder)]
    source = {
        "pretrained_model_name_or_path": None,
        "config": config,
        "state_dict": _parts(files, scheme, name, dtype, prefix),
    }
    if (folder / "generation_config.json").is_file():
        source["generation_config"] = GenerationConfig.from_pretrained(folder)
    return source


def _parts(
    files: Sequence[Any], scheme: Scheme, name: str, dtype: torch.dtype, prefix: str
) -> dict[str, Part]:
    """The thinker's tensors from open files, the 8-bit ones with their scales."""
    stored = {key: file.get_slice(key) for file in files for key in sorted(file.keys())}
    inner = {key: value for key, value in stored.items() if key.startswith(prefix)}
    stored = inner or stored
    size = scheme.settings.get("weight_block_size")
    block = (int(size[0]), int(size[1])) if size else None
    found: dict[str, Part] = {}
    used, lacking = set(), []
    for key, values in stored.items():
        if str(values.get_dtype()) not in scheme.stored_types or _UNUSED.search(key):
            continue
        suffix = next((suffix for suffix in _FACTORS if key + suffix in stored), None)
        if suffix is None:
            lacking.append(key)
            continue
        used.add(key + suffix)
        factor, inverse = stored[key + suffix], suffix == "_scale_inv"
        offset = stored.get(f"{key}_zero_point")
        found[key] = Part(values, factor, offset, inverse, block, dtype)
    if lacking:
        raise ModelError(
            f"'{name}' is quantized with {scheme.title}, but the scales of {len(lacking)} weights "
            f"are not in its files, the first being that of {min(lacking)}: "
            "without scales the weights mean nothing."
        )
    others = stored.keys() - found.keys() - used
    return found | {key: Part(stored[key]) for key in others if not _UNUSED.search(key)}
