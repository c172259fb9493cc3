"""Matrix products in shapes for which a GPU has fast kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from seats_cli import gpu

Forward = Callable[[Tensor], Tensor]

# Values in a row of a half-precision matrix that lie on 16 bytes, as tensor cores are fed.
ALIGNED = 8
# With fewer rows, copying the weights takes more than the product gains.
_FEWEST_ROWS = 512
_HALF = (torch.float16, torch.bfloat16)


def missing(size: int) -> int:
    """Values by which a row is too short to be aligned."""
    return -size % ALIGNED


def is_unaligned_mlp(module: nn.Module) -> bool:
    """Whether a module is an MLP of plain gate, up and down projections with an unaligned width."""
    parts = [getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down")]
    if not all(type(part) is nn.Linear and not hasattr(part, "_hf_hook") for part in parts):
        return False
    return bool(missing(parts[2].in_features))  # type: ignore[union-attr]


def widened(module: nn.Linear, stock: Forward) -> Forward:
    """A gate's or up projection's `forward` with columns of zeros up to an aligned width.

    The weights are padded for each call: next to the product that is nothing, and no second copy
    is held.
    """
    extra = missing(module.out_features)

    def forward(hidden: Tensor) -> Tensor:
        rows = hidden.numel() // module.in_features
        if not gpu.on_gpu(hidden) or hidden.dtype not in _HALF or rows < _FEWEST_ROWS:
            return stock(hidden)
        bias = None if module.bias is None else pad(module.bias, (0, extra))
        return linear(hidden, pad(module.weight, (0, 0, 0, extra)), bias)

    return forward


def of_widened(module: nn.Linear, stock: Forward) -> Forward:
    """The down projection's `forward` for what comes from `widened` ones."""
    extra = missing(module.in_features)

    def forward(hidden: Tensor) -> Tensor:
        if hidden.shape[-1] != module.in_features + extra:
            return stock(hidden)
        return linear(hidden, pad(module.weight, (0, extra)), module.bias)

    return forward


def is_patch_convolution(module: nn.Module) -> TypeGuard[nn.Conv3d]:
    """Whether a convolution sees every value once: steps as wide as its kernel, no padding."""
    return (
        type(module) is nn.Conv3d
        and not hasattr(module, "_hf_hook")
        and module.kernel_size == module.stride
        and module.groups == 1
        and all(size == 0 for size in module.padding)
        and all(size == 1 for size in module.dilation)
    )


def as_product(module: nn.Conv3d, stock: Forward) -> Forward:
    """Its `forward` on single patches, (N, channels, *kernel_size), as one matrix product."""

    def forward(patches: Tensor) -> Tensor:
        if not gpu.on_gpu(patches) or patches.shape[2:] != module.kernel_size:
            return stock(patches)
        out = linear(patches.flatten(1), module.weight.flatten(1), module.bias)
        return out[:, :, None, None, None]

    return forward
