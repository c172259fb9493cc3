"""Runs that do not fit are results: the others go on, and the memory of the failed one is free."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.comparison import run_comparison
from seats_cli.engine.memory_stats import Shortage, unless_out_of_memory
from seats_cli.engine.profiling import run_profile
from seats_cli.errors import ResourceError
from seats_cli.media.clip import Clip
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import LoadedModel
from seats_cli.results import RunSpec

SETTINGS = (
    RunSpec("seats 40%", SeatsConfig(retain=0.4)),
    RunSpec("seats 10%", SeatsConfig(retain=0.1)),
)


@pytest.fixture(scope="module")
def clip(loaded: LoadedModel) -> Clip:
    return synthetic_clip(4.0, sizing=loaded.sizing)


@pytest.fixture
def room_for(loaded: LoadedModel) -> Iterator[Callable[[float], list[Any]]]:
    """Let the allocator fail, for real, where the last decoder layers get too many tokens.

    Gives references to tensors that were alive in each failed run.
    """
    handles: list[Any] = []

    def restrict(entering: float) -> list[Any]:
        held: list[Any] = []
        whole = 0

        def check(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            nonlocal whole
            hidden = kwargs.get("hidden_states", args[0] if args else None)
            whole = max(whole, hidden.shape[1])
            if hidden.shape[1] > entering * whole:
                states = hidden + 0  # what a run holds when it fails
                held.append(weakref.ref(states))
                torch.empty(1 << 55, dtype=torch.uint8)

        layer = loaded.adapter.layers[1]
        handles.append(layer.register_forward_pre_hook(check, with_kwargs=True))
        return held

    yield restrict
    for handle in handles:
        handle.remove()


def hooks(loaded: LoadedModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in loaded.model.modules()
    )


def profile_twice(loaded: LoadedModel, clip: Clip, warm_ups: int = 0) -> Any:
    return run_profile(
        loaded, lambda: clip, "What?", SETTINGS, repeats=2, warm_ups=warm_ups, new_tokens=2
    )


def test_profile_goes_on_without_the_unpruned_run(
    loaded: LoadedModel, clip: Clip, room_for: Callable[[float], list[Any]]
) -> None:
    held, before = room_for(0.9), hooks(loaded)
    found = profile_twice(loaded, clip, warm_ups=1)
    assert found.full is None
    assert [run.label for run in found.runs] == ["seats 40%", "seats 10%"]
    assert [(run.label, run.error) for run in found.failed] == [
        ("full", "Out of memory on the host in the warm-up.")
    ]
    assert len(held) == 1  # it is not tried again
    assert held[0]() is None
    assert all(run.speed_up(found.full, "prefill") is None for run in found.runs)
    assert sum(found.offered) > sum(found.runs[0].alive[0])
    assert hooks(loaded) == before


def test_profile_goes_on_without_a_pruned_run(
    loaded: LoadedModel, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seats_cli.engine import profiling as module

    asked: list[float | None] = []
    ask = module.ask

    def failing(*args: Any, config: SeatsConfig | None, **others: Any) -> Any:
        asked.append(None if config is None else config.retain)
        if asked[-1] == 0.4 and asked.count(0.4) == 2:
            raise torch.OutOfMemoryError("Tried to allocate more than there is.")
        return ask(*args, config=config, **others)

    monkeypatch.setattr(module, "ask", failing)
    found = profile_twice(loaded, clip)
    assert found.full is not None
    assert [run.label for run in found.runs] == ["full", "seats 10%"]
    assert found.failed[0].error == "Out of memory on the GPU in run 2 of 2."


def test_nothing_fits(
    loaded: LoadedModel, clip: Clip, room_for: Callable[[float], list[Any]]
) -> None:
    held = room_for(0.0)
    with pytest.raises(ResourceError, match="No setting could run"):
        profile_twice(loaded, clip)
    with pytest.raises(ResourceError, match="No setting could run"):
        run_comparison(loaded, clip, "What?", SETTINGS)
    gc.collect()
    assert len(held) == 6
    assert not any(reference() is not None for reference in held)


def test_compare_goes_on_without_the_unpruned_answer(
    loaded: LoadedModel, clip: Clip, room_for: Callable[[float], list[Any]]
) -> None:
    held = room_for(0.9)
    found = run_comparison(loaded, clip, "What?", SETTINGS, max_new_tokens=2)
    full, *others = found.runs
    assert not found.unpruned_fits
    assert (full.answer, full.same_answer, full.error) == (
        None,
        None,
        "Out of memory on the host.",
    )
    assert len(held) == 1
    for run in others:
        assert run.answer is not None
        assert run.prefill_and_selection_s is not None
        assert run.error is None
        assert run.same_answer is run.same_first_token is None
        assert run.first_token_kl_nats is run.token_agreement is None


def test_other_errors_pass() -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        unless_out_of_memory(fail, ())
    assert unless_out_of_memory(lambda: 3, ()) == 3


def test_tensors_in_failed_frames_are_free() -> None:
    held: list[Any] = []

    def fail() -> None:
        states = torch.zeros(3)
        held.append(weakref.ref(states))
        try:
            torch.empty(1 << 55, dtype=torch.uint8)
        except RuntimeError as error:
            kept = error  # a cycle of the frame and its exception
            raise MemoryError from kept

    assert unless_out_of_memory(fail, ()) == Shortage("host")
    assert held[0]() is None
