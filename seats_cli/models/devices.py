"""Where a model goes and in which precision, and what memory is free there.

Weights are read shard by shard, straight onto their device. On a host they stay mapped from the
file where nothing is changed about them, so that only converted and fused ones take memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from seats_cli.errors import UsageError

# Bytes of a GPU that the processor needs for each byte of the frames (itself, its float32 value,
# and twice as much to be safe), and for each sample of the sound (its transform and mel frames).
_FRAMES_SHARE, _SAMPLE_SHARE = 12, 64

SPREAD = "spread"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_KINDS = ("cpu", "cuda", "mps")  # of devices that seats works on


# -------------------------------------------------------------------- devices


def device_named(device: str) -> torch.device:
    """Where a model begins, from the user's word for it.

    Raises
    ------
    UsageError
        If it is unknown, or not in this machine.
    """
    if device in ("auto", SPREAD):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = None
    if device.partition(":")[0] in _KINDS:  # torch warns about some of the others
        with contextlib.suppress(RuntimeError):
            where = torch.device(device)
    if where is None:
        raise UsageError(
            f"Unknown device '{device}': use auto, cpu, cuda, cuda:1, mps or spread. "
            f"{_what_exists()}"
        )
    if where.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"There is no usable CUDA device here. {_what_exists()}")
    if where.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(f"There is no usable MPS device here. {_what_exists()}")
    count = torch.cuda.device_count() if where.type == "cuda" else 1
    if where.index is not None and where.index >= count:
        raise UsageError(f"There is no device '{device}' here. {_what_exists()}")
    # Tensors on "cpu:0" call their device "cpu", and those two are not equal.
    return where if where.type == "cuda" else torch.device(where.type)


def _what_exists() -> str:
    """A sentence that lists the devices of this machine."""
    found = ["cpu"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found.append(f"cuda:{index} ({torch.cuda.get_device_name(index)})")
    if torch.backends.mps.is_available():
        found.append("mps")
    return f"This machine has: {', '.join(found)}."


def device_name(where: torch.device) -> str:
    """What to call a device in reports."""
    return torch.cuda.get_device_name(where) if where.type == "cuda" else str(where)


# ------------------------------------------------------------------ precision


def dtype_named(dtype: str, where: torch.device, elements: int | None = None) -> torch.dtype:
    """In what a model computes, from the user's word for it.

    "auto" is bfloat16 where the hardware computes in it: on NVIDIA's GPUs since Ampere, AMD's,
    and on Apple's since macOS 14. An older NVIDIA GPU emulates it, and gets float32 if the weights
    fit that way; float16 is no way out, because activations of these models overflow in it. A CPU
    gets float32, in which it is fastest.

    Parameters
    ----------
    elements : int or None
        Values of all weights, None if not known.

    Raises
    ------
    UsageError
        If it is unknown.
    """
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UsageError(f"Unknown dtype '{dtype}': use auto, {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if where.type == "cuda":
        if not emulates_bfloat16(where):
            return torch.bfloat16
        free = available_bytes(where)
        fits = elements is not None and free is not None and 4 * elements <= free
        return torch.float32 if fits else torch.bfloat16
    if where.type == "mps" and torch.backends.mps.is_macos_or_newer(14, 0):
        return torch.bfloat16
    return torch.float32


def emulates_bfloat16(where: torch.device) -> bool:
    """Whether a CUDA device has no bfloat16 of its own (NVIDIA before Ampere)."""
    if where.type != "cuda":
        return False
    with torch.cuda.device(where):
        return not torch.cuda.is_bf16_supported(including_emulation=False)


def precision_notices(where: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """What a user ought to know about computing in `dtype` on this device."""
    if dtype == torch.float16:
        return (
            "In float16 the activations of Qwen's models can overflow, which gives wrong answers "
            "without an error: `dtype=bfloat16` and `dtype=float32` are safe.",
        )
    if dtype == torch.bfloat16 and emulates_bfloat16(where):
        return (
            f"{device_name(where)} emulates bfloat16, which is slow: `dtype=float32` is faster "
            "where the weights fit, and float16 overflows in Qwen's models.",
        )
    return ()


# --------------------------------------------------------------------- memory


def available_bytes(device: torch.device) -> int | None:
    """What can still be allocated on a device; None if the system does not tell."""
    if device.type == "cuda":
        return free_bytes(device)
    if device.type == "mps":  # the machine's memory, of which all is to be had at most
        return _physical_bytes()
    return _available_host_bytes()


def free_bytes(device: torch.device) -> int:
    """What can still be allocated on a CUDA device, with what PyTorch holds there unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _physical_bytes() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available_host_bytes(root: Path = Path("/")) -> int | None:
    """Memory and swap that this process may still take, by Linux or by its container's limit."""
    kilobytes: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            kilobytes[name] = int(value.split()[0])
    if "MemAvailable" not in kilobytes:
        return None
    free = 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    limit = _container_room(root)
    return free if limit is None else min(free, limit)


def _container_room(root: Path) -> int | None:
    """What a memory limit of the container leaves; None without one."""
    folder = root / "sys/fs/cgroup"
    for place, limit, usage in (
        (folder, "memory.max", "memory.current"),
        (folder / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            allowed, used = (int((place / name).read_text("ascii")) for name in (limit, usage))
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            # the page cache counts as used, and makes room
            cached = sum(
                int(stat.get(f"total_{name}", stat.get(name, 0)))
                for name in ("inactive_file", "active_file")
            )
            return max(0, allowed - used + cached)
    return None


@contextlib.contextmanager
def returning_freed_memory() -> Iterator[None]:
    """Give the system back what is freed while weights are converted and fused.

    By default glibc takes every block that is not larger than one freed before from its heap, where
    holes stay: experts that are fused in float32 took 1.7 times their size.
    """
    adjust = _mallopt()
    if adjust is None:
        yield
        return
    adjust(_MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:  # as glibc itself would have set both after freeing a large tensor
        adjust(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        adjust(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)


# Of glibc's malloc.h, and the largest value of its own adjustment on 64 bits.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST_THRESHOLD = -1, -3, 32 << 20


def _mallopt() -> Callable[[int, int], int] | None:
    """glibc's `mallopt`; None on systems with another allocator."""
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return None
    return found


def processor_device(
    device: torch.device, free: int, *, frames: int = 0, samples: int = 0
) -> torch.device | None:
    """Where the processor makes pixel values and mel frames; None leaves it on the CPU.

    On a GPU it takes milliseconds, and bytes travel instead of float32 values.

    Parameters
    ----------
    device : torch.device
        Where the model begins.
    free : int
        Bytes that are free there (`free_bytes`).
    frames, samples : int
        Bytes of the frames, and samples of the sound.
    """
    needed = _FRAMES_SHARE * frames + _SAMPLE_SHARE * samples
    return device if device.type == "cuda" and free >= needed else None
