"""Seconds of the stages of a run, measured without holding it up where the device allows.

A GPU works behind the host: reading the host's clock around a stage would need a wait before and
after it, and every wait leaves the GPU idle. So instants are marked in the GPU's own queue and
read at the end, after a single wait. On other devices every mark waits.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch.utils.hooks import RemovableHandle

from seats_cli.models.adapter import Adapter, is_prefill
from seats_cli.models.patching import hooked


class Marks(Protocol):
    """A way to mark instants, and to read the time between them later."""

    name: str

    def mark(self) -> Any:
        """Mark this point of the work given to the device."""

    def seconds(self, begin: Any, end: Any) -> float:
        """From one mark to another; both must have been reached (`settle`)."""

    def settle(self, latest: Any) -> None:
        """Wait until the device has come to `latest`, the mark set last."""


class HostMarks:
    """The host's monotonic clock, read after pending work on all CUDA and MPS devices."""

    name = "host clock"

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = tuple(devices)

    def mark(self) -> float:
        """Seconds on the host's clock, once the devices are idle."""
        synchronise(self._devices)
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        """Seconds on the host's clock between two marks."""
        return end - begin

    def settle(self, latest: float) -> None:
        """Nothing to wait for: the devices were idle at every mark."""


class EventMarks:
    """Events in the device's own queue: marking does not hold up the work around it.

    `recorded` makes a `torch.cuda.Event` with timing and records it, all of them on one device.
    """

    name = "CUDA events"

    def __init__(self, recorded: Callable[[], Any]) -> None:
        self.mark = recorded

    def seconds(self, begin: Any, end: Any) -> float:
        """Device time between two events, in which it may have waited for the host."""
        return float(begin.elapsed_time(end)) / 1000

    def settle(self, latest: Any) -> None:
        """One wait for all events before it."""
        latest.synchronize()


def marks_for(devices: Sequence[torch.device]) -> Marks:
    """Events on a single CUDA device; events of several cannot be subtracted.

    Parameters
    ----------
    devices : sequence of torch.device
        Where the model is (`devices_of`). Parts on the CPU do no harm: they work while the
        stream is idle, and that time lies between its events, too.
    """
    gpus = [device for device in devices if device.type == "cuda"]
    others = {device.type for device in devices} - {"cuda", "cpu"}
    if len(gpus) == 1 and not others:
        return EventMarks(lambda: _cuda_event(gpus[0]))
    return HostMarks(devices)


def synchronise(devices: Sequence[torch.device]) -> None:
    """Wait for pending work on CUDA and MPS devices."""
    for device in devices:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()


def _cuda_event(device: torch.device) -> Any:
    """An event on the stream that the device's work is being given to."""
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


class Clock:
    """Seconds per named stage, summed over repetitions.

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
        self._spans: list[tuple[str, Any, Any]] = []  # stage, first and last mark; not read yet
        self._latest: Any = None

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """What it was made for."""
        return self._devices

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

    @contextmanager
    def watch(self, adapter: Adapter) -> Iterator[None]:
        """Time the encoders and the LLM's prefill of a model inside the block."""
        if not self._running:
            yield
            return
        with hooked(self._hooks(adapter)):
            yield

    def _hooks(self, adapter: Adapter) -> Iterator[RemovableHandle]:
        parts = {
            "vision": adapter.visual,
            "audio": adapter.audio_tower,
            "prefill": adapter.language_model,
        }
        begun: dict[str, Any] = {}
        for name, module in parts.items():

            def enter(_module: Any, _args: Any, kwargs: Any, name: str = name) -> None:
                # The text model also runs for every token of the answer.
                if name != "prefill" or is_prefill(kwargs):
                    begun[name] = self._mark()

            def leave(_module: Any, _args: Any, _output: Any, name: str = name) -> None:
                if name in begun:
                    self._add(name, begun.pop(name), self._mark())

            yield _first(module, enter)
            yield module.register_forward_hook(leave)

    @contextmanager
    def _measured(self, *names: str) -> Iterator[None]:
        """Add the time spent inside to all of the names."""
        if not self._running:
            yield
            return
        begin = self._mark()
        yield  # an exception leaves the span out: the stage did not end
        end = self._mark()
        for name in names:
            self._add(name, begin, end)

    def _mark(self) -> Any:
        self._latest = self._marks.mark()
        return self._latest

    def _add(self, name: str, begin: Any, end: Any) -> None:
        self._spans.append((name, begin, end))


class Stopwatch(Clock):
    """A `Clock` that also files selection under the place it happens in, and splits the prefill.

    `seconds` gets these further names: "select:vision", "select:audio" (statistics inside the
    encoders), "select:entry" (before the first decoder layer), "select:<k>" (inside segment k),
    and "layers:<k>" for each segment of the decoder, with the selection in it.

    Parameters
    ----------
    devices : sequence of torch.device
        Where the model runs.
    first_layers : sequence of int
        1-based first layer of each segment, ascending from 1.
    marks : Marks, optional
        As for `Clock`.
    """

    def __init__(
        self,
        devices: Sequence[torch.device],
        first_layers: Sequence[int],
        marks: Marks | None = None,
    ) -> None:
        super().__init__(devices, marks)
        self._segment_of = {layer: number for number, layer in enumerate(first_layers)}
        self._place = "entry"
        self._segment: int | None = None  # None outside of a prefill, -1 before the first layer
        self._segment_began: Any = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name` and to `name:place`."""
        with self._measured(name, f"{name}:{self._place}"):
            yield

    def _hooks(self, adapter: Adapter) -> Iterator[RemovableHandle]:
        yield from super()._hooks(adapter)
        yield _first(adapter.visual, lambda *_: self._enter("vision"))
        yield _first(adapter.audio_tower, lambda *_: self._enter("audio"))
        yield _first(adapter.language_model, self._enter_decoder)
        yield adapter.language_model.register_forward_hook(self._leave_decoder)
        for number, layer in enumerate(adapter.layers, start=1):
            if number in self._segment_of:
                yield _first(layer, self._enter_segment(self._segment_of[number]))

    def _enter(self, place: str) -> None:
        self._place = place

    def _enter_decoder(self, _module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        self._place = "entry"
        self._segment = -1 if is_prefill(kwargs) else None

    def _enter_segment(self, number: int) -> Any:
        def hook(_module: Any, _args: Any, _kwargs: Any) -> None:
            if self._segment is not None:
                self._close_segment()
                self._segment, self._place = number, str(number)

        return hook

    def _leave_decoder(self, _module: Any, _args: Any, _output: Any) -> None:
        if self._segment is not None:
            self._close_segment()
            self._segment = None

    def _close_segment(self) -> None:
        """End the segment under way, if there is one, and start the next at the same instant."""
        # One mark for both, so that nothing between two segments is lost.
        now = self._mark()
        if self._segment is not None and self._segment >= 0:
            self._add(f"layers:{self._segment}", self._segment_began, now)
        self._segment_began = now


def _first(module: Any, hook: Any) -> RemovableHandle:
    """A pre-hook before all others, whose work then lies behind the mark."""
    handle: RemovableHandle = module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
    return handle
