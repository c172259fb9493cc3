"""Intervals and tests, against what is known of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.evaluate.statistics import FEWEST, ClipBootstrap, mcnemar_p

scipy_stats = pytest.importorskip("scipy.stats")


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    count = draw(st.integers(1, 30))
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    clips = draw(st.lists(st.sampled_from("abcdefg"), min_size=count, max_size=count))
    right, reference, counted = (np.array(draw(flags)) for _ in range(3))
    return clips, right, reference, counted


@settings(max_examples=60, deadline=None)
@given(answers())
def test_intervals_hold_their_value_and_stay_in_range(
    drawn: tuple[list[str], np.ndarray, np.ndarray, np.ndarray],
) -> None:
    clips, right, reference, counted = drawn
    bootstrap = ClipBootstrap(clips, resamples=100)
    share = bootstrap.share(right, counted)
    difference = bootstrap.difference(right, reference, counted)
    ratio = bootstrap.ratio(right, reference, counted)
    if not counted.any():
        assert share is difference is ratio is None
        return
    assert share is not None
    assert difference is not None
    if counted.sum() < FEWEST:
        assert share.interval is difference.interval is None
        assert share.value == right[counted].mean()
        assert ratio is None or ratio.interval is None
        return
    assert 0 <= share.low <= share.value <= share.high <= 1
    assert -1 <= difference.low <= difference.value <= difference.high <= 1
    assert difference.value == pytest.approx(right[counted].mean() - reference[counted].mean())
    assert (ratio is None) == (not reference[counted].any())
    if ratio is not None:
        assert 0 <= ratio.low <= ratio.value <= ratio.high
        assert ratio.value == pytest.approx(right[counted].mean() / reference[counted].mean())
    mirrored = bootstrap.difference(reference, right, counted)
    assert mirrored is not None
    assert mirrored.low == pytest.approx(-difference.high)
    assert mirrored.high == pytest.approx(-difference.low)


def test_questions_of_one_clip_count_as_one() -> None:
    rng = np.random.default_rng(0)
    per_clip = rng.random(100) < 0.7
    right = np.repeat(per_clip, 5)
    counted = np.ones(500, dtype=bool)
    by_clip = ClipBootstrap([str(number // 5) for number in range(500)]).share(right, counted)
    by_item = ClipBootstrap([str(number) for number in range(500)]).share(right, counted)
    single = ClipBootstrap([str(number) for number in range(100)]).share(per_clip, counted[:100])
    assert by_clip is not None
    assert by_item is not None
    assert single is not None
    assert by_clip.high - by_clip.low > 1.8 * (by_item.high - by_item.low)
    assert by_clip.high - by_clip.low == pytest.approx(single.high - single.low, rel=0.1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    clips = [str(number // 2) for number in range(200)]
    counted = np.ones(200, dtype=bool)
    covered = 0
    for _ in range(200):
        right = np.repeat(rng.random(100) < 0.8, 2)
        estimate = ClipBootstrap(clips, resamples=200).share(right, counted)
        assert estimate is not None
        covered += estimate.low <= 0.8 <= estimate.high
    assert 0.89 <= covered / 200 <= 0.99


def test_where_all_answers_are_the_same_the_interval_is_exact() -> None:
    clips = [str(number) for number in range(20)]
    right = np.ones(20, dtype=bool)
    bootstrap = ClipBootstrap(clips)
    best = bootstrap.share(right, right)
    worst = bootstrap.share(~right, right)
    low = scipy_stats.binomtest(20, 20).proportion_ci(0.95).low
    assert best is not None
    assert worst is not None
    assert (best.low, best.high) == (pytest.approx(low), 1.0)
    assert (worst.low, worst.high) == (0.0, pytest.approx(1 - low))
    same = bootstrap.difference(right, right, right)
    kept = bootstrap.ratio(right, right, right)
    assert same is not None
    assert kept is not None
    assert (same.low, same.high) == (pytest.approx(low - 1), pytest.approx(1 - low))
    assert (kept.value, kept.low) == (1.0, pytest.approx(low))


def test_draws_are_seeded() -> None:
    right = np.arange(40) % 3 == 0
    counted = np.ones(40, dtype=bool)
    clips = [str(number) for number in range(40)]
    first, again, other = (
        ClipBootstrap(clips, seed=seed, resamples=50).share(right, counted) for seed in (1, 1, 2)
    )
    assert first == again != other


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(gained: int, lost: int) -> None:
    p = mcnemar_p(gained, lost)
    assert p == mcnemar_p(lost, gained)
    if gained + lost:
        assert p == pytest.approx(scipy_stats.binomtest(gained, gained + lost).pvalue)
    else:
        assert p == 1.0


def test_mcnemar_of_many_and_of_nonsense() -> None:
    assert mcnemar_p(0, 10) == pytest.approx(2 / 2**10)
    assert 0 < mcnemar_p(900, 1300) < 1e-15
    assert math.isfinite(mcnemar_p(5000, 5000))
    with pytest.raises(ValueError, match="negative"):
        mcnemar_p(-1, 2)
