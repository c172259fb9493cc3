"""Seconds of the stages of a run, measured without holding it up where the device allows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.engine.marks import Marks, marks_for, synchronise

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from seats_cli.models.adapter import Adapter


class Clock:
    """Seconds per named stage, summed over repetitions.

    Stages are marked in the device's own time line and read when `seconds` is asked for, after
    one synchronisation. On several GPUs, and on other accelerators, every mark synchronises.

    Parameters
    ----------
    devices : sequence of torch.device
        Where the model runs (`devices_of`); none (the default) measures nothing, so that library
        users pay nothing.
    marks : Marks, optional
        How instants are marked, by default what suits the devices.
    """

    def __init__(self, devices: Sequence[torch.device] = (), marks: Marks | None = None) -> None:
        self._devices = tuple(devices)
        self._running = bool(self._devices) or marks is not None
        self._marks = marks or marks_for(self._devices)
        self._seconds: dict[str, float] = defaultdict(float)
        self._spans: list[tuple[str, Any, Any]] = []
        self._latest: Any = None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, 0 for one that never ran; waits for the device."""
        if self._spans:
            self._marks.settle(self._latest)
        for name, begin, end in self._spans:
            self._seconds[name] += self._marks.seconds(begin, end)
        self._spans.clear()
        return self._seconds

    def now(self) -> float:
        """Seconds on the host's monotonic clock, after pending device work.

        For the instants that the user sees, at which nothing is under way on the device anyway:
        the start, and once a token is on the host.
        """
        synchronise(self._devices)
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`, unless it ends by an exception."""
        with self._measured(name):
            yield

    def watch(self, adapter: Adapter) -> list[RemovableHandle]:
        """Time the encoders and the LLM's prefill of a model until the handles are removed."""
        if not self._running:
            return []
        begun: dict[str, Any] = {}
        handles = []
        for name, module in (
            ("vision", adapter.visual),
            ("audio", adapter.audio_tower),
            ("prefill", adapter.language_model),
        ):

            def enter(_module: Any, _args: Any, kwargs: Any, name: str = name) -> None:
                if name != "prefill" or is_prefill(kwargs):
                    begun[name] = self._mark()

            def leave(_module: Any, _args: Any, _output: Any, name: str = name) -> None:
                if name in begun:
                    self._add(name, begun.pop(name), self._mark())

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
            handles.append(module.register_forward_hook(leave))
        return handles

    @contextmanager
    def _measured(self, *names: str) -> Iterator[None]:
        """Add the time spent inside to all of the names."""
        if not self._running:
            yield
            return
        begin = self._mark()
        yield
        end = self._mark()
        for name in names:
            self._add(name, begin, end)

    def _mark(self) -> Any:
        self._latest = self._marks.mark()
        return self._latest

    def _add(self, name: str, begin: Any, end: Any) -> None:
        self._spans.append((name, begin, end))


def is_prefill(arguments: dict[str, Any]) -> bool:
    """Whether a call of the decoder brings more than one token."""
    embeds = arguments.get("inputs_embeds")
    return embeds is not None and embeds.shape[1] > 1
