"""Peak memory of a stretch of work, on the device and on the host."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterable
from pathlib import Path

import torch


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
