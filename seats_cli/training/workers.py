"""Data-parallel training in single-threaded processes, one per core.

Two threads of one process wait for each other in every small operation, which is slow as soon as a
core is shared; processes meet once per step.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True)
class WorkerGroup:
    """This process's place among the workers."""

    rank: int = 0
    size: int = 1

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by the mean over the workers (a missing one counts as 0)."""
        if self.size == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        pieces = torch.split(flat / self.size, [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def agree(self, value: float) -> float:
        """The first worker's value, so that all stop at the same step."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return shared.item()

    def total(self, counts: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the workers."""
        if self.size > 1:
            dist.all_reduce(counts)
        return counts


def _work(rank: int, size: int, meeting: Path, task: Callable[..., None], options: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        task(WorkerGroup(rank, size), options)
    finally:
        dist.destroy_process_group()


def run_workers(
    size: int, folder: Path, task: Callable[[WorkerGroup, Any], None], options: Any
) -> None:
    """Run `task(workers, options)` in `size` processes; with one, in this process.

    Parameters
    ----------
    folder : Path
        For the file by which the workers find each other.
    """
    if size == 1:
        task(WorkerGroup(), options)
        return
    meeting = (folder / "meeting").resolve()
    meeting.unlink(missing_ok=True)
    # Daemons end with this process only if it exits in an orderly way, so SIGTERM has to exit.
    # Workers left behind would keep training and overwrite the state of the next run.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    spawn(_work, (size, meeting, task, options), nprocs=size, daemon=True)  # type: ignore[no-untyped-call]
