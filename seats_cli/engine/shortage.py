"""Runs that may not fit: memory that ran out is a result, and is given back before the next run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from seats_cli.out_of_memory import out_of_memory_on

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shortage:
    """Memory ran out.

    Parameters
    ----------
    place : str
        "host" or "GPU".
    """

    place: str


def unless_out_of_memory(
    call: Callable[[], Result], devices: Sequence[torch.device]
) -> Result | Shortage:
    """What a call returns, or that it ran out of memory.

    Parameters
    ----------
    call : callable
        Must keep no tensors of a failed run itself.
    devices : sequence of torch.device
        Where it works; what it held there is free again afterwards.
    """
    try:
        return call()
    except Exception as error:
        place = out_of_memory_on(error)
        if place is None:
            raise
    # Only now: the exception held the frames of the run, and these its tensors.
    free_memory(devices)
    return Shortage(place)


def free_memory(devices: Sequence[torch.device]) -> None:
    """Collect what nobody refers to, and have the allocators give back what they hold unused."""
    gc.collect()
    kinds = {device.type for device in devices}
    if "cuda" in kinds:
        torch.cuda.empty_cache()
    if "mps" in kinds:
        torch.mps.empty_cache()
