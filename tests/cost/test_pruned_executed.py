"""Accounting of pruned runs against what torch counts while they run, selection included."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from seats_cli.config import SeatsConfig
from seats_cli.cost.flops import encoder_flops, prefill_flops
from seats_cli.engine.accounting import account
from seats_cli.engine.prune import prune
from seats_cli.models.registry import adapter_for
from seats_cli.selection.method import Method
from seats_cli.selection.methods import weightless_methods
from seats_cli.selection.trace import SelectionTrace
from tests.cost.counting import counted
from tests.engine import test_methods
from tests.engine.golden import FAMILIES, Run, build, index, inputs, plan


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest) -> tuple[Any, Run]:
    # Eager attention and experts consist of products that the counter knows.
    model = build(request.param, "eager")
    if request.param == "qwen3":
        model.set_experts_implementation("eager")
    case = next(c for c in index(request.param)["cases"] if "seats_a" in c["runs"])
    return model, Run(request.param, case["case"], "seats_a")


def executed_flops(model: Any, given: dict[str, Any]) -> int:
    return counted(lambda: model(**given))[0]


def cost(model: Any, given: dict[str, Any], trace: SelectionTrace, used: Method | None) -> Any:
    return account(
        adapter_for(model).architecture(),
        trace,
        adapter_for(model).media_sizes(given),
        method=used,
        decode_steps=0,
        bytes_per_value=4,
        peak_host_bytes=0,
        peak_gpu_bytes=None,
    )


def test_full_run(subject: tuple[Any, Run]) -> None:
    model, run = subject
    given = inputs(run)
    adapter = adapter_for(model)
    shape, length = adapter.architecture(), given["input_ids"].shape[1]
    expected = encoder_flops(shape, adapter.media_sizes(given))
    expected += prefill_flops(shape, [length] * shape.num_layers, head_positions=length)
    assert executed_flops(model, given) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [{}, {"initial_video": 1.0}, {"drop_layers": (), "keep_video": (), "keep_audio": ()}],
    ids=["seats", "video-whole", "no-drops"],
)
def test_pruned_run(subject: tuple[Any, Run], change: dict[str, Any]) -> None:
    model, run = subject
    given, used = inputs(run), dataclasses.replace(plan(run), **change)
    with prune(model, used) as pruning:
        executed = executed_flops(model, given)
    trace = pruning.trace
    found = cost(model, given, trace, pruning.method)
    # The bare model runs its head on every survivor, where `ask` needs the last position.
    shape, survivors = adapter_for(model).architecture(), len(trace.stages[-1].kept)
    head = 2 * (survivors - 1) * shape.hidden_size * shape.vocab_size
    expected = found.encoder_flops + found.prefill_flops + found.selection_flops + head
    assert executed == pytest.approx(expected, rel=0.01)
    assert found.selection_flops > 0
    assert found.prefill_flops < found.full_prefill_flops


# What any of them does with sound, with pictures, with windows that are cut short.
PROMPTS = ("audio and video", "ragged", "video only", "audio only")
MERGING = {"contextual_ratio": 0.1}
CONFIGS = {
    **{
        name: SeatsConfig(retain_video=0.35, retain_audio=0.5, method=name)
        for name in weightless_methods()
    },
    "fastv": SeatsConfig(retain_video=0.7, retain_audio=0.9, method="fastv"),
    "fastv-om": SeatsConfig(retain_video=0.7, retain_audio=0.9, method="fastv-om"),
    "dycoke": SeatsConfig(retain_video=0.6, retain_audio=0.7, method="dycoke"),
    "visionzip, merging": SeatsConfig(
        retain_video=0.35, retain_audio=0.5, method="visionzip", options=MERGING
    ),
    "visionzip-om, merging": SeatsConfig(
        retain_video=0.35, retain_audio=0.5, method="visionzip-om", options=MERGING
    ),
    # Windows of which all stay are not compared.
    "divprune-om, nearly all": SeatsConfig(
        retain_video=0.97, retain_audio=0.97, method="divprune-om"
    ),
}


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.replace(" ", "_"))
@pytest.mark.parametrize("name", CONFIGS, ids=lambda name: name.replace(", ", "_"))
def test_selection_of_every_method(subject: tuple[Any, Run], name: str, prompt: str) -> None:
    """Not a share of the whole run, in which it would vanish: to the last FLOP."""
    model, run = subject
    given = inputs(Run(run.family, test_methods.PROMPTS[run.family][prompt], ""))
    config, shape = CONFIGS[name], adapter_for(model).architecture()
    with prune(model, config) as pruning:
        executed = executed_flops(model, given)
    found = cost(model, given, pruning.trace, pruning.method)
    stages = pruning.trace.stages
    survivors = len(stages[-1].kept) if stages else pruning.trace.length
    head = 2 * (survivors - 1) * shape.hidden_size * shape.vocab_size
    assert executed - found.encoder_flops - found.prefill_flops - head == found.selection_flops
    # Drawing, and comparing a token with a single other one, takes no matrix product.
    free = {"full", "random", "dycoke", "omnisift-untrained"} | (
        {"divprune"} if prompt == "audio only" else set()
    )
    if name in free:
        assert found.selection_flops == 0
    elif "nearly" not in name:
        assert found.selection_flops > 0
