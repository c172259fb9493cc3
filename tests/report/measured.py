"""Measurements written by hand, with round numbers that a test can predict."""

from __future__ import annotations

import dataclasses
from typing import Any

from seats_cli.results import (
    STAGE1_PARTS,
    ComparedRun,
    Comparison,
    FailedRun,
    LayerSegment,
    MeasuredRun,
    Profile,
    Spread,
)
from tests.report.sample import ARCHITECTURE, FACTS, MODEL, sample_answer

FULL_TIMES = {
    "processor": 0.1,
    "vision": 0.6,
    "audio": 0.2,
    "stage1": 0.0,
    "prefill": 2.0,
    "stage2": 0.0,
    "rest": 0.1,
    "prefill_and_selection": 2.0,
    "first_token": 3.0,
    "decode_per_token": 0.02,
    "total": 4.0,
}
PRUNED_TIMES = {
    **FULL_TIMES,
    "stage1": 0.08,
    "prefill": 0.3,
    "stage2": 0.02,
    "prefill_and_selection": 0.4,
    "first_token": 1.4,
    "decode_per_token": 0.01,
    "total": 2.0,
}


def spreads(seconds: dict[str, float]) -> dict[str, Spread]:
    parts = dict.fromkeys(STAGE1_PARTS, seconds["stage1"] / 2)
    return {
        name: Spread(value, 0.9 * value, 1.1 * value) for name, value in (seconds | parts).items()
    }


def measured_run(label: str, times: dict[str, float], share: float, **changes: Any) -> MeasuredRun:
    tokens = round(1000 * share)
    half = Spread(times["prefill"] / 2, times["prefill"] / 2, times["prefill"] / 2)
    cost = dataclasses.replace(
        sample_answer().cost, prefill_flops=2.0e13 * share, full_prefill_flops=2.0e13
    )
    values: dict[str, Any] = {
        "label": label,
        "method": label.split()[0],
        "retain": None if label == "full" else share,
        "times": spreads(times),
        "segments": (
            LayerSegment(1, 16, tokens, half, 1.0e13 * share),
            LayerSegment(17, 28, tokens // 2, half, 1.0e13 * share),
        ),
        "alive": ((tokens - 250, 200, 50),) * 16 + ((tokens // 2 - 150, 100, 50),) * 12,
        "average_retention": share,
        "cost": cost,
        "decode_tokens": 15,
        **changes,
    }
    return MeasuredRun(**values)


def sample_profile(pruned: int = 1, **changes: Any) -> Profile:
    """The unpruned run and some pruned ones."""
    shares = (0.25, 0.35, 0.15, 0.10)[:pruned]
    runs = [measured_run(f"seats {100 * s:.0f}%", PRUNED_TIMES, s) for s in shares]
    profile = Profile(
        question="What happens?",
        media=FACTS,
        effective_fps=2.0,
        model=MODEL,
        architecture=ARCHITECTURE,
        offered=(750, 200, 50),
        clock="CUDA events",
        warm_ups=1,
        repeats=5,
        load_s=4.5,
        reading={"probe": Spread(0.001, 0.001, 0.002), "media_decode": Spread(0.5, 0.4, 0.6)},
        full=measured_run("full", FULL_TIMES, 1.0),
        pruned=tuple(runs),
        failed=(),
        threads=2,
        seed=0,
    )
    return dataclasses.replace(profile, **changes)


UNPRUNED_FAILED = FailedRun("full", "full", None, "Out of memory on the GPU in the warm-up.")


def sample_without_full(pruned: int = 2) -> Profile:
    """The unpruned model did not fit."""
    return sample_profile(pruned, full=None, failed=(UNPRUNED_FAILED,))


def sample_comparison_without_full() -> Comparison:
    """The same where the unpruned model did not fit."""
    whole = sample_comparison()
    alone = [
        dataclasses.replace(
            run,
            same_answer=None,
            same_first_token=None,
            first_token_kl_nats=None,
            token_agreement=None,
        )
        for run in whole.runs[1:]
    ]
    full = ComparedRun("full", "full", None, error="Out of memory on the GPU.")
    return dataclasses.replace(whole, runs=(full, *alone))


def sample_comparison() -> Comparison:
    """The unpruned answer, an equal one, a different one, and one that could not run."""
    answer = sample_answer()
    other = sample_answer(text="a blue | card\nor so")
    return Comparison(
        question="What is shown first?",
        media=FACTS,
        effective_fps=2.0,
        model=MODEL,
        architecture=ARCHITECTURE,
        runs=(
            ComparedRun("full", "full", None, answer, True, True, 0.0, 1.0, 0.4),
            ComparedRun("seats 25%", "seats", 0.25, answer, True, True, 0.0123, 1.0, 0.1),
            ComparedRun("random 10%", "random", 0.1, other, False, False, 2.5, 0.5, 0.1),
            ComparedRun("fastv 5%", "fastv", 0.05, error="This budget is out of reach."),
        ),
        seed=0,
    )
