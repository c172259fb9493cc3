"""Index tensors on host and device without extra waits, and whether Triton kernels run.

Triton is optional; PyTorch's CUDA builds for Linux bring it along. Kernels are compiled when first
used, which takes seconds, and Triton caches the result on disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor

_OLDEST_CAPABILITY = (7, 5)

Result = TypeVar("Result")


class _Switch:
    """Whether the kernels may be used in this process."""

    on = True


@contextmanager
def plain() -> Iterator[None]:
    """Run without the kernels in this block, to compare with them."""
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


@cache
def _supported(index: int | None) -> bool:
    capability = torch.cuda.get_device_capability(index)
    return find_spec("triton") is not None and capability >= _OLDEST_CAPABILITY


def attempt(launched: Callable[[], Result], device: torch.device) -> Result | None:
    """What a kernel gives; where it cannot be built, none is tried again in this process."""
    try:
        with torch.cuda.device(device):
            return launched()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, an old driver, an incompatible Triton: many types
        _Switch.on = False
        warnings.warn(
            f"Running without Triton kernels: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=3,
        )
        return None


def on_gpu(tensor: torch.Tensor) -> bool:
    """Whether a tensor is where PyTorch's fused kernels and tensor cores are."""
    return tensor.is_cuda


def on_device(values: Tensor | Sequence[int], device: torch.device | str) -> Tensor:
    """Values on a device; integers become a LongTensor.

    PyTorch's default copy from pageable host memory waits until the device has finished all work
    queued on it. CUDA has read such memory once the call returns, so that the wait is needless.
    """
    host = values if isinstance(values, Tensor) else torch.tensor(values, dtype=torch.long)
    return host.to(device, non_blocking=host.device.type == "cpu")


class TokenIndex:
    """Positions of tokens, a LongTensor (n,), for the host and every device of the model."""

    def __init__(self, host: Tensor) -> None:
        self.host = host
        self._elsewhere: dict[torch.device, Tensor] = {host.device: host}

    def __len__(self) -> int:
        return len(self.host)

    def on(self, device: torch.device) -> Tensor:
        """The same on a device, copied once."""
        if device not in self._elsewhere:
            self._elsewhere[device] = on_device(self.host, device)
        return self._elsewhere[device]


_LARGEST_WINDOW = 8192  # a program holds a number for every token of a window
_WIDEST_HEAD = 256


def greedy_max_min(distance: Tensor, keep: int) -> Tensor | None:
    """The greedy choice of all windows; None where the plain version has to do it.

    Parameters and result as for `seats_cli.selection.stage1_kernels.greedy_max_min`.
    """
    if not usable(distance.device) or distance.shape[-1] > _LARGEST_WINDOW:
        return None

    def launched() -> Tensor:
        from seats_cli.selection.stage1_kernels import greedy_max_min

        return greedy_max_min(distance, keep)

    return attempt(launched, distance.device)


def received_in_windows(query: Tensor, key: Tensor, starts: Tensor, size: int) -> Tensor | None:
    """Attention received in equal windows; None where the plain version has to do it.

    Parameters and result as for `seats_cli.selection.stage1_kernels.received_in_windows`.
    """
    fits = query.shape[-1] <= _WIDEST_HEAD and query.dtype == key.dtype
    if not usable(query.device) or not fits:
        return None

    def launched() -> Tensor:
        from seats_cli.selection.stage1_kernels import received_in_windows

        return received_in_windows(query, key, starts, size)

    return attempt(launched, query.device)
