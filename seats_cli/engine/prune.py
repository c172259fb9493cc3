"""`prune(model, config)`: the public way to run a stock model with fewer tokens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from seats_cli.config import SeatsConfig
from seats_cli.engine.encoder_reuse import EncoderReuse
from seats_cli.engine.encoder_stats import EncoderStatistics
from seats_cli.engine.prefill import PrunedPrefill
from seats_cli.engine.timing import Clock
from seats_cli.errors import UsageError
from seats_cli.models.optimize import optimized, vectorized_mrope, without_cudnn_sdpa
from seats_cli.models.registry import adapter_for
from seats_cli.schedule import PruningPlan
from seats_cli.selection.methods import method_for

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from seats_cli.engine.encoder_cache import EncoderCache
    from seats_cli.results import ReuseFacts
    from seats_cli.selection.method import Method
    from seats_cli.selection.trace import SelectionTrace


class PrunedRun:
    """What `prune` yields: the plan in force and the trace of the latest prefill.

    Parameters
    ----------
    plan : PruningPlan
    prefill : PrunedPrefill
    still : EncoderReuse or None
    """

    def __init__(
        self, plan: PruningPlan, prefill: PrunedPrefill, still: EncoderReuse | None = None
    ) -> None:
        self.plan = plan
        self._prefill = prefill
        self._still = still

    @property
    def trace(self) -> SelectionTrace:
        """Stages of the latest prefill.

        Raises
        ------
        UsageError
            Before any prompt has run.
        """
        if self._prefill.trace is None:
            raise UsageError("No prompt has run yet: call the model inside the context first.")
        return self._prefill.trace

    @property
    def still(self) -> ReuseFacts | None:
        """What Stage 0 left out of the latest prompt's pictures; None if it is off."""
        return None if self._still is None else self._still.facts

    @property
    def report(self) -> str:
        """The latest selection in a few lines of plain text."""
        trace = self.trace
        video, audio, text = trace.offered
        lines = [f"offered          video {video:6d}  audio {audio:6d}  text {text:5d}"]
        for stage in trace.stages:
            where = (
                "before the LLM" if stage.after_layer == 0 else f"after layer {stage.after_layer}"
            )
            lines.append(
                f"{where:16s} video {stage.video:6d}  audio {stage.audio:6d}  text {stage.text:5d}"
            )
        means = zip(("video", "audio", "both"), trace.average_retention(), strict=True)
        kept = ", ".join(f"{name} {mean:.1%}" for name, mean in means if mean is not None)
        return "\n".join([*lines, f"average over {trace.num_layers} layers: {kept or 'text only'}"])


class prune:  # noqa: N801  (a context manager that reads as a verb)
    """Run a Qwen-Omni model with SEATS (or another method) inside a `with` block.

    Hooks are registered on entry and removed on exit, also after an exception: the model is
    left exactly as it was. Inside, `model(**inputs)` and `model.generate(**inputs)` work
    unchanged, one prompt at a time.

    Parameters
    ----------
    model : nn.Module
        Stock `Qwen2_5OmniThinkerForConditionalGeneration`,
        `Qwen3OmniMoeThinkerForConditionalGeneration`, or a full Omni model with such a thinker.
    plan_or_config : PruningPlan or SeatsConfig
        What to keep.
    clock : Clock, optional
        Receives the seconds of each stage.
    memory : EncoderCache, optional
        Of the clip in the prompt: its media are encoded once for all runs that share it.
    method : callable, optional
        Makes the method from the plan, in place of the one that the plan names.
    quick : bool
        Also let stock encoders, and on a GPU some parts of the model, run the faster way that
        `load_model` sets up; they compute the same.

    Raises
    ------
    ConfigError
        If the plan does not fit the model.
    ModelError
        If the model is of no supported family.

    Examples
    --------
    >>> with prune(model, SeatsConfig.preset("10%")) as run:
    ...     model.generate(**inputs, max_new_tokens=64)
    >>> print(run.report)
    """

    def __init__(
        self,
        model: Any,
        plan_or_config: PruningPlan | SeatsConfig,
        *,
        clock: Clock | None = None,
        memory: EncoderCache | None = None,
        method: Callable[[PruningPlan], Method] | None = None,
        quick: bool = True,
    ) -> None:
        self._adapter = adapter_for(model)
        self._quick = quick
        architecture = self._adapter.architecture()
        plan = (
            plan_or_config.plan(architecture)
            if isinstance(plan_or_config, SeatsConfig)
            else plan_or_config.for_layers(architecture.num_layers)
        )
        self._clock = clock or Clock()
        self._plan = plan
        chosen = (method or method_for)(plan)
        self._memory = memory
        self._still = (
            None
            if plan.still_tolerance is None
            else EncoderReuse(self._adapter, plan.still_tolerance)
        )
        self._statistics = EncoderStatistics(
            self._adapter,
            plan,
            chosen,
            self._clock,
            everything=memory is not None,
            still=self._still,
        )
        self._prefill = PrunedPrefill(self._adapter, plan, chosen, self._statistics, self._clock)
        self._run = PrunedRun(plan, self._prefill, self._still)
        self._handles: list[RemovableHandle] = []
        self._borrowed = ExitStack()

    def __enter__(self) -> PrunedRun:
        if self._handles:
            raise UsageError("This prune(...) is already active; make a new one.")
        try:
            if self._quick:
                self._borrowed.enter_context(optimized(self._adapter))
            self._borrowed.enter_context(vectorized_mrope(self._adapter))
            self._borrowed.enter_context(without_cudnn_sdpa(self._adapter, prefill=True))
            if self._still is not None:
                self._borrowed.enter_context(self._still.attach())
            if self._memory is not None:
                self._borrowed.enter_context(
                    self._memory.attach(
                        self._adapter, self._statistics, tolerance=self._plan.still_tolerance
                    )
                )
            self._handles += self._statistics.install()
            self._handles += self._prefill.install()
        except BaseException:
            self._remove()
            raise
        return self._run

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._borrowed.close()
