"""A clock that knows where in the model the time goes: parts of the prefill, parts of selection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from seats_cli.engine.clock import Clock, is_prefill

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle

    from seats_cli.engine.marks import Marks
    from seats_cli.models.adapter import Adapter


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
        How instants are marked, by default what suits the devices.
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
        self._segment: int | None = None
        self._segment_began: Any = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name` and to `name:place`."""
        with self._measured(name, f"{name}:{self._place}"):
            yield

    def watch(self, adapter: Adapter) -> list[RemovableHandle]:
        """Time the encoders, the prefill and its segments until the handles are removed."""
        handles = super().watch(adapter)

        def before(module: Any, hook: Any) -> None:
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True))

        def enter(place: str) -> Any:
            def hook(_module: Any, _args: Any, _kwargs: Any) -> None:
                self._place = place

            return hook

        before(adapter.visual, enter("vision"))
        before(adapter.audio_tower, enter("audio"))
        before(adapter.language_model, self._enter_decoder)
        handles.append(adapter.language_model.register_forward_hook(self._leave_decoder))
        for number, layer in enumerate(adapter.layers, start=1):
            if number in self._segment_of:
                before(layer, self._enter_segment(self._segment_of[number]))
        return handles

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
        now = self._mark()
        if self._segment is not None and self._segment >= 0:
            self._add(f"layers:{self._segment}", self._segment_began, now)
        self._segment_began = now
