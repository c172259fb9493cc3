"""Further processes on this machine that share a batch with this one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from seats_cli.cli.interrupt import stop_if_interrupted
from seats_cli.cli.tally import Tally
from seats_cli.errors import SeatsError


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
        self, count: int, work: Callable[..., None], arguments: tuple[Any, ...], tally: Tally
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
