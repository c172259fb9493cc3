"""Recording a decode step as a CUDA graph, to replay it for every token.

`Recorder` and `Recorded` are all that decoding knows of it, so that tests can record without a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from seats_cli.models.adapter import Adapter, devices_of

Step = Callable[[], Any]  # the text model on tensors at fixed addresses; returns its output


class Recorded(Protocol):
    """A step that can be replayed."""

    output: Any  # of the latest replay, in tensors that the next one overwrites

    def replay(self) -> None:
        """Run the step again, on what its tensors hold now."""

    def release(self) -> None:
        """Free its memory; it cannot be replayed any more."""


class Recorder(Protocol):
    """Makes recordings; both methods may raise RuntimeError where a step cannot be recorded."""

    name: str  # for the report

    def rehearse(self, step: Step) -> Any:
        """Run a step as it will be recorded; returns its output."""

    def record(self, step: Step) -> Recorded:
        """Record a step; whether it runs is left open, and replaying it does the work."""


# PyTorch keeps the memory of a released graph, some tens of MB, until its caches are emptied. That
# makes the next prefill slower, so it is done once for several graphs.
_GRAPHS_BEFORE_EMPTYING = 16
_released = 0
# Kept alive: the allocator still calls the graph of a capture that failed.
_failed: list[Any] = []


def graph_recorder(adapter: Adapter) -> GraphRecorder | None:
    """A recorder for a text model on one NVIDIA GPU; None where a graph would miss work of a step.

    It would on several devices, and where accelerate moves weights in and out.
    """
    # The first weight tells of most machines that there is no GPU, without looking at all of them.
    if next(adapter.language_model.parameters()).device.type != "cuda":
        return None
    devices = devices_of(adapter.language_model)
    if [device.type for device in devices] != ["cuda"] or torch.version.cuda is None:
        return None
    if any(hasattr(module, "_hf_hook") for module in adapter.language_model.modules()):
        return None
    return GraphRecorder(devices[0])


class GraphRecorder:
    """Records on a stream of its own, as capturing demands."""

    name = "captured graph"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _side_stream(device)

    def rehearse(self, step: Step) -> Any:
        """Run a step on that stream; one that waits for the device raises an error already here.

        A failed capture leaves PyTorch's allocator in disorder, a failed rehearsal does not.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream), _waiting_is_an_error():
                return step()
        finally:
            current.wait_stream(self._stream)

    def record(self, step: Step) -> RecordedGraph:
        """Capture a step without running it."""
        torch.cuda.synchronize(self._device)
        with torch.cuda.stream(self._stream), _no_collection():
            graph = torch.cuda.CUDAGraph()
            # not with `torch.cuda.graph`, which empties the allocator's caches first
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                output = step()
            except BaseException:
                _abandon(graph)
                raise
            try:
                graph.capture_end()
            except RuntimeError:
                _failed.append(graph)
                raise
        return RecordedGraph(graph, output, self._device)


class RecordedGraph:
    """A captured step; `output` is what it gave while it was captured."""

    def __init__(self, graph: Any, output: Any, device: torch.device) -> None:
        self.output = output
        self._graph = graph
        self._device = device

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()

    def release(self) -> None:
        """Free the graph, and every so often what PyTorch keeps of earlier ones."""
        global _released
        torch.cuda.synchronize(self._device)
        self.output = None
        self._graph.reset()
        _released += 1
        if _released % _GRAPHS_BEFORE_EMPTYING == 0:
            torch.cuda.empty_cache()


@functools.cache
def _side_stream(device: torch.device) -> Any:
    """The only one per device: cuBLAS keeps a workspace for each stream that it has seen."""
    stream: Any = torch.cuda.Stream
    return stream(device)


@contextlib.contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    """Make whatever waits for the device raise RuntimeError, as a graph cannot contain it."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():  # PyTorch warns that it does not notice every wait
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Stop Python's garbage collector: what it frees might call CUDA during a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _abandon(graph: Any) -> None:
    """End a capture that failed, and leave the random number generator usable.

    Some versions of PyTorch end the generator's capture only if the graph's went well; capturing
    a tiny graph afterwards does it.
    """
    _failed.append(graph)
    with contextlib.suppress(RuntimeError):
        graph.capture_end()
    with contextlib.suppress(RuntimeError):
        other = torch.cuda.CUDAGraph()
        other.capture_begin(capture_error_mode="thread_local")
        torch.zeros(1, device="cuda")
        other.capture_end()
