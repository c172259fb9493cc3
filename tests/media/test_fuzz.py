"""A hundred damaged files, as `python -m tests.fuzz_media --count 100 --seed 2026`."""

from __future__ import annotations

from tests.fuzz_media import fuzz, summary


def test_mutants_give_a_clip_or_one_sentence() -> None:
    outcomes = fuzz(100, 2026)
    numbers = summary(outcomes, 2026)
    assert numbers["failures"] == []
    # Both outcomes must be frequent, or the mutator damages too little or too much.
    assert numbers["outcomes"]["clip"] > 20
    assert numbers["outcomes"]["refused"] > 20


def test_failures_are_noticed(tmp_path) -> None:
    """A limit that nothing fits into makes every mutant a failure, kept for a closer look."""
    outcomes = fuzz(2, 1, time_limit_s=0.0, keep=tmp_path)
    assert [outcome.kind for outcome in outcomes] == ["hang", "hang"]
    assert len(list(tmp_path.iterdir())) == 2
