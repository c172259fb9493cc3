"""Wall-clock marks around the stages of a run, the device synchronised at each mark."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from seats_cli.models.adapter import Adapter


class Clock:
    """Seconds per named stage, summed over repetitions.

    Parameters
    ----------
    device : torch.device or None
        CUDA and MPS devices are synchronised at every mark; None (the default) measures nothing, so
        that library users pay for no synchronisation.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        """Seconds on a monotonic clock, after pending device work."""
        if self.device is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device is not None and self.device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to `name`."""
        if self.device is None:
            yield
            return
        start = self.now()
        try:
            yield
        finally:
            self.seconds[name] += self.now() - start

    def watch(self, adapter: Adapter) -> list[RemovableHandle]:
        """Time the encoders and the LLM's prefill of a model until the handles are removed."""
        if self.device is None:
            return []
        started: dict[str, float] = {}
        handles = []
        for name, module in (
            ("vision", adapter.visual),
            ("audio", adapter.audio_tower),
            ("prefill", adapter.language_model),
        ):

            def enter(_module: Any, _args: Any, kwargs: Any, name: str = name) -> None:
                embeds = kwargs.get("inputs_embeds") if name == "prefill" else None
                if name != "prefill" or (embeds is not None and embeds.shape[1] > 1):
                    started[name] = self.now()

            def leave(_module: Any, _args: Any, _output: Any, name: str = name) -> None:
                if name in started:
                    self.seconds[name] += self.now() - started.pop(name)

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True, prepend=True))
            handles.append(module.register_forward_hook(leave))
        return handles
