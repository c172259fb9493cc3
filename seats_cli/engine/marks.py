"""Marks on a run's time line, and the seconds between them: events on CUDA, else the host clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch


class TimedEvent(Protocol):
    """What is used of a `torch.cuda.Event` with timing."""

    def synchronize(self) -> Any:
        """Wait until the device has come to the event."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from this event to a later one."""


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
    """The host's monotonic clock, read after pending work on all devices.

    Parameters
    ----------
    devices : sequence of torch.device
        CUDA and MPS devices are synchronised at every mark.
    """

    name = "host clock"

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = tuple(devices)

    def mark(self) -> float:
        """Seconds on the host's clock, once the devices are idle."""
        synchronise(self._devices)
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        """The difference."""
        return end - begin

    def settle(self, latest: float) -> None:
        """The devices were idle at every mark."""


class EventMarks:
    """Events in the device's own queue: marking does not hold up the work around it.

    Parameters
    ----------
    recorded : callable
        Makes an event and records it. All events must be of one device.
    """

    name = "CUDA events"

    def __init__(self, recorded: Callable[[], TimedEvent]) -> None:
        self.mark = recorded

    def seconds(self, begin: TimedEvent, end: TimedEvent) -> float:
        """Device time between two events, in which it may have waited for the host."""
        return begin.elapsed_time(end) / 1000

    def settle(self, latest: TimedEvent) -> None:
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
