"""Measured stages add up, settings are compared on the same grounds; no times are asserted."""

from __future__ import annotations

import math

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.comparison import agreement, divergence, run_comparison
from seats_cli.engine.profiling import run_profile
from seats_cli.errors import UsageError
from seats_cli.media.clip import Clip
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import LoadedModel
from seats_cli.results import READING, STAGE1_PARTS, STAGES, TOTALS, Comparison, Profile, RunSpec
from seats_cli.schedule import PruningPlan

SETTINGS = (
    RunSpec("seats 25%", SeatsConfig(retain=0.25)),
    RunSpec("fastv 25%", SeatsConfig(retain=0.25, method="fastv")),
    RunSpec("unknown", SeatsConfig(method="guess")),
)


@pytest.fixture(scope="module")
def clip(loaded: LoadedModel) -> Clip:
    return synthetic_clip(4.0, sizing=loaded.sizing)


@pytest.fixture(scope="module")
def measured(loaded: LoadedModel, clip: Clip) -> Profile:
    return run_profile(
        loaded,
        lambda: clip,
        "What color?",
        SETTINGS,
        probe=lambda: None,
        repeats=2,
        warm_ups=0,
        new_tokens=3,
    )


@pytest.fixture(scope="module")
def compared(loaded: LoadedModel, clip: Clip) -> Comparison:
    return run_comparison(loaded, clip, "What color?", SETTINGS, max_new_tokens=4)


def test_every_setting_and_stage_is_there(measured: Profile) -> None:
    assert [run.label for run in measured.runs] == ["full", "seats 25%", "fastv 25%"]
    assert [(run.label, run.method) for run in measured.failed] == [("unknown", "guess")]
    assert "guess" in measured.failed[0].error
    assert measured.full is measured.runs[0]
    assert measured.pruned == measured.runs[1:]
    assert sum(measured.offered) == sum(measured.runs[0].alive[0])
    assert set(measured.reading) == set(READING)
    for run in measured.runs:
        assert set(run.times) == {*STAGES, *STAGE1_PARTS, *TOTALS}
        assert run.decode_tokens == 2


def test_stages_add_up(measured: Profile) -> None:
    """Medians of parts need not add up to medians of sums, but with two runs they do."""
    for run in measured.runs:
        parts = sum(run.times[name].median_s for name in STAGES)
        assert parts == pytest.approx(run.times["first_token"].median_s, rel=1e-6)
        layers = sum(segment.time.median_s for segment in run.segments)
        assert 0 < layers <= run.times["prefill"].median_s


def test_selection_is_only_in_pruned_runs(measured: Profile) -> None:
    full, seats, _ = measured.runs
    assert full.times["stage1"].median_s == full.times["stage2"].median_s == 0
    assert seats.times["stage1"].median_s > 0
    assert seats.times["stage2"].median_s > 0
    assert 0 < (seats.selection_share or 0) < 1


def test_segments_follow_the_drops(measured: Profile) -> None:
    full, seats, _ = measured.runs
    plan = PruningPlan.resolve(SeatsConfig(retain=0.25), measured.architecture)
    starts = [1, *(layer + 1 for layer in plan.drop_layers), plan.late_layer]
    for run in (full, seats):
        assert [segment.first_layer for segment in run.segments] == starts
        assert run.segments[-1].last_layer == measured.architecture.num_layers
        head = 2 * measured.architecture.hidden_size * measured.architecture.vocab_size
        executed = sum(segment.flops for segment in run.segments) + head
        assert executed == run.cost.prefill_flops
    assert [s.tokens for s in seats.segments] == sorted(s.tokens for s in seats.segments)[::-1]


def test_derived_numbers(measured: Profile) -> None:
    full, seats, _ = measured.runs
    assert full.flops_ratio == 1.0
    assert seats.flops_ratio > 1.5
    assert full.speed_up(full, "first_token") == 1.0
    assert full.speed_up(full, "stage1") is None
    assert 0 < (seats.encoder_share or 0) < 1
    assert seats.bottleneck is not None
    longest = seats.times[seats.bottleneck.stage].median_s
    assert longest == max(seats.times[stage].median_s for stage in STAGES)
    assert seats.bottleneck.share_of_first_token == longest / seats.times["first_token"].median_s
    assert (seats.average_retention or 1) < 0.5


def test_nothing_is_left_on_the_model(loaded: LoadedModel, measured: Profile) -> None:
    for module in loaded.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("change", [{"repeats": 0}, {"warm_ups": -1}, {"new_tokens": 0}])
def test_impossible_numbers(loaded: LoadedModel, clip: Clip, change: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        run_profile(loaded, lambda: clip, "What?", (), **change)  # type: ignore[arg-type]


def test_comparison(compared: Comparison) -> None:
    full, seats, fastv, unknown = compared.runs
    assert (full.same_answer, full.first_token_kl_nats, full.token_agreement) == (True, 0.0, 1.0)
    for run in (seats, fastv):
        assert run.answer is not None
        assert run.same_answer == (run.answer.text == full.answer.text)  # type: ignore[union-attr]
        assert (run.first_token_kl_nats or 0) > 0
        assert run.error is None
        assert (run.prefill_and_selection_s or 0) >= run.answer.timing.prefill_s
    assert unknown.answer is None
    assert "guess" in (unknown.error or "")


def test_keeping_everything_agrees(loaded: LoadedModel, clip: Clip) -> None:
    same = run_comparison(loaded, clip, "What?", [RunSpec("all", SeatsConfig(retain=1.0))]).runs[1]
    assert same.same_answer
    assert same.first_token_kl_nats == pytest.approx(0.0, abs=1e-6)
    assert same.token_agreement == 1.0


def test_divergence_and_agreement() -> None:
    even, sure = torch.zeros(2), torch.tensor([math.log(3.0), 0.0])
    assert divergence(even, even) == 0.0
    # 0.5 log(0.5 / 0.75) + 0.5 log(0.5 / 0.25)
    assert divergence(even, sure) == pytest.approx(0.5 * math.log(4 / 3))
    assert agreement([1, 2, 3], [1, 2, 4, 5]) == 0.5
    assert agreement([], []) == 1.0
