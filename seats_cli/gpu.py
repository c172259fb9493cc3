"""Whether our Triton kernels run: where there is a Triton and an NVIDIA GPU, else the plain way.

Triton is optional: PyTorch brings it along on Linux. Kernels are compiled when first used, which
takes seconds, and Triton keeps what it compiled on disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TypeVar

import torch

_OLDEST_CAPABILITY = (7, 5)

Result = TypeVar("Result")


class _Switch:
    """Whether the kernels may be used in this process."""

    on = True


@contextmanager
def plain() -> Iterator[None]:
    """Leave the kernels alone in this block, to compare with them."""
    before, _Switch.on = _Switch.on, False
    try:
        yield
    finally:
        _Switch.on = before


def is_nvidia(device: torch.device) -> bool:
    """Whether a device is an NVIDIA GPU; PyTorch calls AMD's "cuda" as well."""
    return device.type == "cuda" and torch.version.hip is None


def usable(device: torch.device) -> bool:
    """Whether tensors on this device go through the kernels."""
    return _Switch.on and is_nvidia(device) and _supported(device.index)


def attempt(launched: Callable[[], Result], device: torch.device) -> Result | None:
    """What a kernel gives; where it cannot be built, none is tried again in this process."""
    try:
        with torch.cuda.device(device):
            return launched()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, no driver for it, a Triton of another age: many types
        _Switch.on = False
        warnings.warn(
            f"Running without Triton kernels: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


@cache
def _supported(index: int | None) -> bool:
    return (
        find_spec("triton") is not None
        and torch.cuda.get_device_capability(index) >= _OLDEST_CAPABILITY
    )


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor is where PyTorch's fused kernels and tensor cores are."""
    return tensor.is_cuda
