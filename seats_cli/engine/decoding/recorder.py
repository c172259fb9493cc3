"""Recording a step once to repeat it for every token: what a decode needs of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

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
