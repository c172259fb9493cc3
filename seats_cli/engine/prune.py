"""`prune(model, config)`: the public way to run a stock model with fewer tokens."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from seats_cli.config import SeatsConfig
from seats_cli.engine.accounting import OwnWork
from seats_cli.engine.encoder_reuse import EncoderReuse
from seats_cli.engine.encoder_stats import EncoderStatistics
from seats_cli.engine.generate_calls import one_prefill
from seats_cli.engine.guards import guarded
from seats_cli.engine.prefill import PrunedPrefill
from seats_cli.engine.timing import Clock
from seats_cli.errors import ConfigError, UsageError
from seats_cli.models.method_weights import give_weights
from seats_cli.models.optimize import STOCK, Part, RunSwaps, Speedups, default_speedups, installed
from seats_cli.models.patching import hooked
from seats_cli.models.registry import adapter_for
from seats_cli.schedule import PruningPlan
from seats_cli.selection.alike_units import Likeness
from seats_cli.selection.methods import method_for

if TYPE_CHECKING:
    from seats_cli.engine.clip_prefix import PrefixStore
    from seats_cli.engine.encoder_cache import EncoderCache
    from seats_cli.models.adapter import Adapter
    from seats_cli.models.load import LoadedModel
    from seats_cli.selection.alike_units import CarriedFacts
    from seats_cli.selection.method import Method
    from seats_cli.selection.static_regions import ReuseFacts
    from seats_cli.selection.trace import SelectionTrace


class PrunedRun:
    """A pruned run: inside `with`, the model is pruned; it holds what was decided and found.

    Parameters
    ----------
    method : Method
        The one that runs, with its plan.
    swaps : RunSwaps
        What is swapped on entry.
    """

    def __init__(
        self,
        method: Method,
        prefill: PrunedPrefill,
        reuse: EncoderReuse | None,
        swaps: RunSwaps,
    ) -> None:
        self.method = method
        self.plan = method.plan
        self.swaps = swaps
        self._prefill = prefill
        self._reuse = reuse
        self._active: AbstractContextManager[None] | None = None

    def __enter__(self) -> PrunedRun:
        if self._active is not None:
            raise UsageError("This prune(...) is already active; make a new one.")
        active = installed(self.swaps)
        active.__enter__()
        self._active = active
        return self

    def __exit__(self, *error: Any) -> None:
        active, self._active = self._active, None
        if active is not None:
            active.__exit__(*error)

    def without_clip(self, inputs: dict[str, Any], clip: object) -> dict[str, Any]:
        """Inputs without what only encoders read, where `prefixes` have all that it is for."""
        return self._prefill.sharing.without_clip(inputs, clip)

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

    def own_work(self, encoded: Collection[str]) -> OwnWork:
        """What the latest prompt has executed, in a session that has `encoded` for it."""
        prefill = self._prefill
        return OwnWork(frozenset(encoded), self.method, prefill.chosen, *prefill.sharing.passed)

    @property
    def still(self) -> ReuseFacts | None:
        """What Stage 0 left out of the latest prompt's pictures; None if it is off."""
        return None if self._reuse is None else self._reuse.facts

    @property
    def carried(self) -> CarriedFacts | None:
        """What encoder reuse carried of the latest prompt's pictures; None if it is off."""
        return None if self._reuse is None else self._reuse.carried_facts

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


def method_on(
    adapter: Adapter, plan: PruningPlan, make: Callable[[PruningPlan], Method] | None = None
) -> Method:
    """The method that carries out a plan on a model, with its own weights if it needs any.

    Parameters
    ----------
    make : callable, optional
        Makes the method, in place of the one that the plan names.

    Raises
    ------
    ConfigError
        If there is no such method, or it cannot act in a model of that depth.
    ModelError
        If the model's checkpoint does not have the weights that it needs, or others.
    """
    chosen = (make or method_for)(plan)
    if chosen.weights_prefix and not chosen.has_weights:
        give_weights(chosen, adapter)
    return chosen


def check_method(loaded: LoadedModel, config: SeatsConfig | None) -> None:
    """Refuse a setting that no question about any clip could be asked with, before one is read.

    Of a model without its weights (`outline_model`), those of a method are not looked for either.

    Raises
    ------
    ConfigError, ModelError
        As from `method_on`, and if the setting does not fit the model.
    """
    if config is None:
        return
    plan = PruningPlan.resolve(config, loaded.architecture)
    if next(loaded.adapter.layers.parameters()).is_meta:
        method_for(plan)
    else:
        method_on(loaded.adapter, plan)


def prune(
    model: Any,
    plan_or_config: PruningPlan | SeatsConfig,
    *,
    clock: Clock | None = None,
    encoder_cache: EncoderCache | None = None,
    prefixes: PrefixStore | None = None,
    method: Callable[[PruningPlan], Method] | None = None,
    optimize: bool | Speedups = True,
) -> PrunedRun:
    """Run a model with SEATS (or another method) inside a `with` block.

    Everything that is swapped on entry is put back on exit, also after an exception: the model is
    left exactly as it was. Inside, `model(**inputs)` and `model.generate(**inputs)` work
    unchanged, one prompt at a time; other threads that call them, or enter a block of the same
    model, wait. A KV cache that was filled inside can be continued inside such a block only.

    Parameters
    ----------
    model : nn.Module
        Stock `Qwen2_5OmniThinkerForConditionalGeneration`,
        `Qwen3OmniMoeThinkerForConditionalGeneration`, a full Omni model with such a thinker, or a
        model of another registered family.
    plan_or_config : PruningPlan or SeatsConfig
        What to keep.
    clock : Clock, optional
        Receives the seconds of selection.
    encoder_cache : EncoderCache, optional
        Of the clip in the prompt: its media are encoded once for all runs that share it.
    prefixes : PrefixStore, optional
        Of the clip in the prompt: the states that its questions share are worked out once. They
        are known by the plan and the method's class, which have to be all that tells two apart.
    method : callable, optional
        Makes the method from the plan, in place of the one that the plan names.
    optimize : bool or Speedups
        Also let the encoders and, on a GPU, some modules run faster than the stock ones, with
        equal results; True does so where the encoders are transformers' default.

    Returns
    -------
    PrunedRun
        A context manager that yields itself.

    Raises
    ------
    ConfigError
        If it is neither plan nor configuration, or the plan does not fit the model.
    ModelError
        If the model belongs to no supported family, is wrapped for several devices, or lacks the
        weights of a trained method.
    UsageError
        On entry, if this thread is inside a block of the same model already.

    Examples
    --------
    >>> with prune(model, SeatsConfig.preset("10%")) as run:
    ...     model.generate(**inputs, max_new_tokens=64)
    >>> print(run.report)
    """
    # 1. The plan for this model, and the method that carries it out.
    adapter = adapter_for(model)
    architecture = adapter.architecture()
    if isinstance(plan_or_config, SeatsConfig):
        plan = PruningPlan.resolve(plan_or_config, architecture)
        for sentence in plan_or_config.idle_warnings() if method is None else ():
            warnings.warn(sentence, stacklevel=2)
    elif isinstance(plan_or_config, PruningPlan):
        plan = plan_or_config.for_layers(architecture.num_layers)
    else:
        raise ConfigError(
            f"prune takes a SeatsConfig or a PruningPlan, not {plan_or_config!r}: write "
            "SeatsConfig(retain=0.1), SeatsConfig.preset('10%') or SeatsConfig.from_dict(...)."
        )
    chosen = method_on(adapter, plan, method)

    # 2. The parts of the engine, which know each other: statistics are noted for the cache, and
    # expanded to what static regions left out.
    clock = clock or Clock()
    config, reuse = plan.config, None
    if config.encoder_skips is not None:
        alike = Likeness(config.encoder_reuse, config.encoder_keep)
        reuse = EncoderReuse(
            adapter, config.still_tolerance, alike if config.reuses_states else None
        )
    statistics = EncoderStatistics(
        adapter, plan, chosen, clock, everything=encoder_cache is not None, reuse=reuse
    )
    prefill = PrunedPrefill(adapter, plan, chosen, statistics, clock, prefixes)

    # 3. Each as an entry of the ordered list of everything that is swapped.
    parts: dict[str, Part] = {
        "guards": lambda: guarded(adapter),
        "encoder_statistics": lambda: hooked(statistics.hooks()),
        "pruned_prefill": lambda: hooked(prefill.install()),
        "one_prefill": lambda: one_prefill(adapter, partial(setattr, prefill, "answers")),
    }
    if reuse is not None:
        parts["static_regions"] = reuse.attach
    if encoder_cache is not None:
        parts["encoder_cache"] = partial(
            encoder_cache.attach, adapter, statistics, skips=config.encoder_skips
        )
    if isinstance(optimize, bool):
        optimize = default_speedups(adapter) if optimize else STOCK
    return PrunedRun(chosen, prefill, reuse, RunSwaps(adapter, True, optimize, parts))
