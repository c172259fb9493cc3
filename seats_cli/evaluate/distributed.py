"""Several processes on one evaluation: under a launcher, or started here."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seats_cli.cli.console import ProgressBar
from seats_cli.cli.runtime import stop_if_interrupted
from seats_cli.errors import SeatsError, UsageError

# What `accelerate launch` and `torchrun` put into the environment of each process.
_RANK, _WORLD, _LOCAL = "RANK", "WORLD_SIZE", "LOCAL_RANK"


@dataclass(frozen=True)
class Shard:
    """The part of the clips that one process works on.

    Parameters
    ----------
    rank, of : int
        Clips `rank`, `rank + of`, ... of the set.
    """

    rank: int = 0
    of: int = 1

    def has(self, number: int) -> bool:
        """Whether clip `number` belongs to this part."""
        return number % self.of == self.rank


@dataclass(frozen=True)
class Team:
    """The processes that share a run.

    Parameters
    ----------
    shard : Shard
        This process and their number.
    local_rank : int
        Which of this machine's devices it uses.
    """

    shard: Shard
    local_rank: int = 0
    _state: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the report."""
        return self.shard.rank == 0

    def device(self, wanted: str) -> str:
        """A device of its own for each process, where the user has not named one."""
        if self.shard.of == 1 or wanted != "auto":
            return wanted
        import torch

        if not torch.cuda.is_available():
            return wanted
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    def wait(self) -> None:
        """Until all have come this far."""
        if self._state is not None:
            self._state.wait_for_everyone()


def team_of(environment: Mapping[str, str] = os.environ) -> Team:
    """The team that a launcher started, or this process alone.

    Raises
    ------
    UsageError
        A launcher started several processes, but accelerate is not installed to let them wait
        for each other.
    """
    size = int(environment.get(_WORLD, "1"))
    if size == 1:
        return Team(Shard())
    if importlib.util.find_spec("accelerate") is None:
        raise UsageError(
            "Several processes need the package accelerate: pip install 'seats-cli[multi-gpu]'."
        )
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    # A process may have the longest clips: the others wait for it as long as it takes.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
    shard = Shard(int(environment[_RANK]), size)
    return Team(shard, int(environment.get(_LOCAL, environment[_RANK])), state)


class Workers:
    """Processes that end with the block, whatever happens.

    Parameters
    ----------
    count : int
        Processes in all, this one included.
    work : callable
        What each runs: a function of a module, given `arguments`, its rank from 1, and a counter.
    arguments : tuple
        Anything that can be pickled.
    tally : Tally
        Counts what all of them have done.
    """

    def __init__(
        self, count: int, work: Callable[..., None], arguments: tuple[Any, ...], tally: ProgressBar
    ) -> None:
        context = multiprocessing.get_context("spawn")
        tally.share(context)
        self._tally = tally
        self._processes = [
            context.Process(target=work, args=(*arguments, rank, tally.counter), daemon=True)
            for rank in range(1, count)
        ]

    def __enter__(self) -> Workers:
        for process in self._processes:
            process.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def wait(self) -> None:
        """Until all have finished.

        Raises
        ------
        SeatsError
            One of them stopped early; it has said why.
        """
        for process in self._processes:
            while process.is_alive():
                process.join(0.5)
                stop_if_interrupted()
                self._tally.show()
            if process.exitcode:
                raise SeatsError("A worker stopped; the same command again goes on from here.")


def stop_if_orphaned() -> None:
    """End a worker whose starter was killed: nobody waits for what it does."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise SystemExit(1)
