"""Recording a decode step as a CUDA graph, to repeat it for every token."""

from __future__ import annotations

import contextlib
import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch

from seats_cli.models.adapter import devices_of

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter


Step = Callable[[], Any]  # the text model on tensors that keep their places; gives its output


class Recorded(Protocol):
    """A step that can be repeated."""

    output: Any  # of the latest repetition, in tensors that the next one overwrites

    def replay(self) -> None:
        """Do the step again, with what its tensors hold now."""

    def release(self) -> None:
        """Let go of the memory; not to be repeated any more."""


class Recorder(Protocol):
    """Makes recordings; both methods may raise RuntimeError where a step cannot be recorded."""

    name: str  # for the report

    def rehearse(self, step: Step) -> Any:
        """Do a step as it will be recorded; returns its output."""

    def record(self, step: Step) -> Recorded:
        """Record a step, which need not do it."""


# PyTorch keeps the memory of a graph that is gone until its caches are emptied, which makes the
# next prefill slower; some tens of MB each.
_GRAPHS_BEFORE_EMPTYING = 16
_released = 0
# The allocator goes on asking the graph of a capture that failed.
_failed: list[Any] = []


def graph_recorder(adapter: Adapter) -> GraphRecorder | None:
    """For a text model on one NVIDIA GPU; None where a graph would not hold all of a step.

    That is so on several devices, and where accelerate moves weights in and out.
    """
    devices = devices_of(adapter.language_model)
    if [device.type for device in devices] != ["cuda"] or torch.version.cuda is None:
        return None
    if any(hasattr(module, "_hf_hook") for module in adapter.language_model.modules()):
        return None
    return GraphRecorder(devices[0])


class GraphRecorder:
    """Records on a stream of its own, as capturing demands.

    Parameters
    ----------
    device : torch.device
    """

    name = "captured graph"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _side_stream(device)

    def rehearse(self, step: Step) -> Any:
        """Do a step on that stream; a step that waits for the device is an error already here.

        A capture that fails leaves PyTorch's allocator in disorder, a rehearsal does not.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream), _waiting_is_an_error():
                return step()
        finally:
            current.wait_stream(self._stream)

    def record(self, step: Step) -> RecordedGraph:
        """Capture a step without doing it."""
        torch.cuda.synchronize(self._device)
        with torch.cuda.stream(self._stream), _no_collection():
            graph = torch.cuda.CUDAGraph()
            # not by `torch.cuda.graph`, which empties the allocator's caches first
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
    """A captured step.

    Parameters
    ----------
    graph : torch.cuda.CUDAGraph
    output : transformers ModelOutput
        What the step gave while it was captured.
    device : torch.device
    """

    def __init__(self, graph: Any, output: Any, device: torch.device) -> None:
        self.output = output
        self._graph = graph
        self._device = device

    def replay(self) -> None:
        """Launch the graph on the current stream."""
        self._graph.replay()

    def release(self) -> None:
        """Free the graph, and now and then what PyTorch keeps of earlier ones."""
        global _released
        torch.cuda.synchronize(self._device)
        self.output = None
        self._graph.reset()
        _released += 1
        if _released % _GRAPHS_BEFORE_EMPTYING == 0:
            torch.cuda.empty_cache()


@functools.cache
def _side_stream(device: torch.device) -> Any:
    """One for all: cuBLAS keeps a workspace for each stream it has seen."""
    stream: Any = torch.cuda.Stream
    return stream(device)


@contextlib.contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    """Let what waits for the device raise RuntimeError: a graph cannot hold it."""
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings():  # that not everything is noticed
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Hold Python's garbage collector: what it frees might call CUDA amid a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _abandon(graph: Any) -> None:
    """End a capture that failed, and leave the random numbers usable.

    Some versions of PyTorch tell the generator of the end of a capture only if it went well; a
    capture of next to nothing then does.
    """
    _failed.append(graph)
    with contextlib.suppress(RuntimeError):
        graph.capture_end()
    with contextlib.suppress(RuntimeError):
        other = torch.cuda.CUDAGraph()
        other.capture_begin(capture_error_mode="thread_local")
        torch.zeros(1, device="cuda")
        other.capture_end()
