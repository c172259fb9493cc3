"""Several processes on one evaluation: under a launcher, or started here."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seats_cli.errors import SeatsError

# What `accelerate launch` and `torchrun` put into the environment of each process.
_RANK, _WORLD_SIZE, _LOCAL_RANK = "RANK", "WORLD_SIZE", "LOCAL_RANK"


@dataclass(frozen=True)
class Shard:
    """The part of the clips that one process works on."""

    # Clips `rank`, `rank + size`, ... of the set: one process of `size`.
    rank: int = 0
    size: int = 1

    def has(self, number: int) -> bool:
        """Whether clip `number` belongs to this part."""
        return number % self.size == self.rank


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that share a run."""

    shard: Shard  # this process and their number
    local_rank: int = 0  # which of this machine's devices it uses
    _state: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the report."""
        return self.shard.rank == 0

    def device(self, wanted: str) -> str:
        """A device of its own for each process, where the user has not named one."""
        if self.shard.size == 1 or wanted != "auto":
            return wanted
        import torch

        if not torch.cuda.is_available():
            return wanted
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    def wait(self) -> None:
        """Until all have come this far."""
        if self._state is not None:
            self._state.wait_for_everyone()


def process_group(environment: Mapping[str, str] = os.environ) -> ProcessGroup:
    """The processes that a launcher started, or this one alone."""
    size = int(environment.get(_WORLD_SIZE, "1"))
    if size == 1:
        return ProcessGroup(Shard())
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    # A process may have the longest clips: the others wait for it as long as it takes.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
    shard = Shard(int(environment[_RANK]), size)
    return ProcessGroup(shard, int(environment.get(_LOCAL_RANK, environment[_RANK])), state)


class Workers:
    """Further processes of this machine, which end with the block, whatever happens.

    Parameters
    ----------
    count : int
        Processes in all, this one included.
    work : callable
        What each runs: a function of a module, given `arguments`, its rank from 1, and `counter`.
    arguments : tuple
        Anything that can be pickled.
    """

    def __init__(self, count: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.counter = context.Value("q", 0)
        self._processes = [
            context.Process(target=work, args=(*arguments, rank, self.counter), daemon=True)
            for rank in range(1, count)
        ]

    @property
    def answers(self) -> int:
        """Answers that all of them have counted, see `count_together`."""
        return int(self.counter.value)

    def __enter__(self) -> Workers:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def wait(self, report: Callable[[int], None]) -> None:
        """Until all have finished; `report` is called with `answers` twice a second.

        Raises
        ------
        SeatsError
            One of them stopped early; it has reported why.
        """
        for process in self._processes:
            while process.is_alive():
                process.join(0.5)
                report(self.answers)
            if process.exitcode:
                raise SeatsError("A worker stopped; run the same command again to resume.")


def count_together(counter: Any, answers: int) -> None:
    """Add to what all processes have counted."""
    with counter.get_lock():
        counter.value += answers


def stop_if_orphaned() -> None:
    """End a worker whose parent was killed: no one is waiting for its answers."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)
