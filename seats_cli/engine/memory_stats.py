"""Peak memory of a run, and runs that may not fit."""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from seats_cli.errors import out_of_memory_on


def reset_peaks(devices: Iterable[torch.device]) -> None:
    """Forget earlier peaks, where the system allows it."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):  # Linux: forget the largest resident size
        Path("/proc/self/clear_refs").write_text("5")


def peak_gpu_bytes(devices: Iterable[torch.device]) -> int | None:
    """Sum of the largest allocations on each GPU since `reset_peaks`; None without a GPU."""
    peaks = [torch.cuda.max_memory_allocated(one) for one in devices if one.type == "cuda"]
    return sum(peaks) if peaks else None


def peak_host_bytes() -> int:
    """Largest resident size of this process since `reset_peaks`.

    Where there is no such counter (macOS), since its start.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


Result = TypeVar("Result")


@dataclass(frozen=True)
class Shortage:
    """Memory ran out."""

    place: str  # "host" or "GPU"


def unless_out_of_memory(
    call: Callable[[], Result], devices: Sequence[torch.device]
) -> Result | Shortage:
    """What a call returns, or that it ran out of memory.

    Parameters
    ----------
    call : callable
        It must hold no tensors of a failed run itself.
    devices : sequence of torch.device
        Where it works; what it held there is free again afterwards.
    """
    try:
        return call()
    except Exception as error:
        place = out_of_memory_on(error)
        if place is None:
            raise
    # Not inside `except`: there the exception still holds the run's frames, and these its tensors.
    free_memory(devices)
    return Shortage(place)


def free_memory(devices: Sequence[torch.device]) -> None:
    """Collect garbage, and have the allocators return what they hold unused."""
    gc.collect()
    kinds = {device.type for device in devices}
    if "cuda" in kinds:
        torch.cuda.empty_cache()
    if "mps" in kinds:
        torch.mps.empty_cache()
