"""Stage I in few launches on a GPU: Triton kernels where there is a Triton, else the plain way.

Triton is optional: PyTorch brings it along on Linux. The kernels choose the same tokens from the
same distances, and compute attention in the precision of the plain version. They are compiled when
first used, which takes seconds, and Triton keeps what it compiled on disk.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

_LARGEST_WINDOW = 8192  # a program holds a number for every token of a window
_WIDEST_HEAD = 256
_OLDEST_CAPABILITY = (7, 5)


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


def usable(device: torch.device) -> bool:
    """Whether tensors on this device go through the kernels."""
    return _Switch.on and device.type == "cuda" and _supported(device.index)


def greedy_max_min(distance: Tensor, keep: int) -> Tensor | None:
    """The greedy choice of all windows; None where the plain version has to do it.

    Parameters and result as for `seats_cli.selection.fused.launch.greedy_max_min`.
    """
    if not usable(distance.device) or distance.shape[-1] > _LARGEST_WINDOW:
        return None

    def launched() -> Tensor:
        from seats_cli.selection.fused.launch import greedy_max_min

        return greedy_max_min(distance, keep)

    return _attempt(launched, distance.device)


def received_in_windows(query: Tensor, key: Tensor, starts: Tensor, size: int) -> Tensor | None:
    """Attention received in equal windows; None where the plain version has to do it.

    Parameters and result as for `seats_cli.selection.fused.launch.received_in_windows`.
    """
    if not usable(query.device) or query.shape[-1] > _WIDEST_HEAD or query.dtype != key.dtype:
        return None

    def launched() -> Tensor:
        from seats_cli.selection.fused.launch import received_in_windows

        return received_in_windows(query, key, starts, size)

    return _attempt(launched, query.device)


@cache
def _supported(index: int | None) -> bool:
    return (
        find_spec("triton") is not None
        and torch.cuda.get_device_capability(index) >= _OLDEST_CAPABILITY
    )


def _attempt(launched: Callable[[], Tensor], device: torch.device) -> Tensor | None:
    """What a kernel gives; where it cannot be built, it is not tried again in this process."""
    try:
        with torch.cuda.device(device):
            return launched()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, no driver for it, a Triton of another age: many types
        _Switch.on = False
        warnings.warn(
            f"Stage I runs without its Triton kernels: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
