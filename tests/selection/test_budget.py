"""Stage II against the authors' masks, and what must hold for any scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seats_cli.config import ALLOCATIONS, GLOBAL
from seats_cli.cost.token_counts import tokens_to_keep
from seats_cli.selection.relevance import select_by_relevance
from seats_cli.selection.topk import proportional_budgets
from seats_cli.selection.windows import contiguous_runs
from tests.golden_units import Case, cases_with_result, family_facts

WINDOWED = [name for name in ALLOCATIONS if name != GLOBAL]
EXACT = [name for name in ALLOCATIONS if name != "reference"]

FAMILIES = (
    "top_down_scores",
    "top_down_scores_qwen3",
    "top_down_layer",
    "top_down_layer_qwen3",
)


def _masks(token_types: str) -> tuple[Tensor, Tensor]:
    video, audio = (
        torch.tensor([token == letter for token in token_types], dtype=torch.bool)
        for letter in "VA"
    )
    return video, audio


def _counts(kept: Tensor, mask: Tensor, windows: int) -> list[int]:
    """Tokens kept in each run of `mask`, padded with 0."""
    runs = contiguous_runs(mask)
    counts = torch.zeros(windows, dtype=torch.long)
    counts.index_add_(0, runs.index, kept[runs.positions].long())
    return [int(count) for count in counts]


def _golden_cases() -> list[tuple[str, Case, Tensor]]:
    found = []
    for family in FAMILIES:
        scores: dict[str, Tensor] = {}
        for case in cases_with_result(family):
            if "token_types" not in case.facts:
                continue
            if "scores" in case.tensors:
                scores[case.name] = case.tensors["scores"]
            found.append((family, case, scores[case.facts.get("inputs_from", case.name)]))
    return found


@pytest.mark.parametrize(
    ("family", "case", "scores"),
    _golden_cases(),
    ids=[f"{family}-{case.name}" for family, case, _ in _golden_cases()],
)
def test_golden(family: str, case: Case, scores: Tensor) -> None:
    facts = case.facts
    video, audio = _masks(facts["token_types"])
    kept = select_by_relevance(
        scores,
        video,
        audio,
        facts["video_keep_ratio"],
        facts["audio_keep_ratio"],
        temperature=family_facts(family)["temperature"],
    )
    if facts["stable_mask"]:
        assert torch.equal(kept, case.tensors["keep_mask"])
    if facts["stable_budget"] and facts["stable_mask"]:
        windows = len(facts["window_sizes"])
        assert _counts(kept, video, windows) == facts["video_budget"]
        assert _counts(kept, audio, windows) == facts["audio_budget"]
    assert int(kept.sum()) == int(case.tensors["keep_mask"].sum())


_PROMPTS = st.lists(
    st.tuples(st.sampled_from("VAT"), st.integers(1, 7)), min_size=1, max_size=12
).map(lambda runs: "".join(letter * count for letter, count in runs))
_RATIOS = st.floats(0.01, 1.0)


def _scores(length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(length, generator=generator).mul(3).softmax(0)


@given(
    prompt=_PROMPTS,
    keep_video=_RATIOS,
    keep_audio=_RATIOS,
    seed=st.integers(0, 2**31),
    allocation=st.sampled_from(EXACT),
)
@settings(deadline=None)
def test_all_but_the_reference_conserve_both_totals(
    prompt: str, keep_video: float, keep_audio: float, seed: int, allocation: str
) -> None:
    video, audio = _masks(prompt)
    kept = select_by_relevance(
        _scores(len(prompt), seed),
        video,
        audio,
        keep_video,
        keep_audio,
        temperature=0.1,
        allocation=allocation,
    )
    assert int(kept[video].sum()) == tokens_to_keep(int(video.sum()), keep_video)
    assert int(kept[audio].sum()) == tokens_to_keep(int(audio.sum()), keep_audio)
    assert kept[~(video | audio)].all()


@given(
    prompt=_PROMPTS,
    keep_video=_RATIOS,
    keep_audio=_RATIOS,
    seed=st.integers(0, 2**31),
    allocation=st.sampled_from(WINDOWED),
)
@settings(deadline=None)
def test_present_modalities_survive_in_each_window(
    prompt: str, keep_video: float, keep_audio: float, seed: int, allocation: str
) -> None:
    video, audio = _masks(prompt)
    kept = select_by_relevance(
        _scores(len(prompt), seed),
        video,
        audio,
        keep_video,
        keep_audio,
        temperature=0.1,
        allocation=allocation,
    )
    assert kept[~(video | audio)].all()
    if not video.any() or not audio.any():
        return  # a plain choice over the whole modality
    for mask, ratio in ((video, keep_video), (audio, keep_audio)):
        sizes = contiguous_runs(mask).sizes
        counts = _counts(kept, mask, len(sizes))
        assert all(count <= size for count, size in zip(counts, sizes, strict=True))
        if allocation == "reference" or tokens_to_keep(sum(sizes), ratio) >= len(sizes):
            assert min(counts) >= 1


@given(
    prompt=_PROMPTS,
    ratio=_RATIOS,
    seed=st.integers(0, 2**31),
    power=st.integers(-12, 12),
    allocation=st.sampled_from(EXACT),
)
@settings(deadline=None)
def test_all_but_the_reference_ignore_the_scale_of_scores(
    prompt: str, ratio: float, seed: int, power: int, allocation: str
) -> None:
    video, audio = _masks(prompt)
    scores = _scores(len(prompt), seed)
    first, second = (
        select_by_relevance(s, video, audio, ratio, ratio, temperature=0.1, allocation=allocation)
        for s in (scores, scores * 2.0**power)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("allocation", WINDOWED)
def test_order_within_a_run_does_not_matter(allocation: str) -> None:
    video, audio = _masks("TVVVVVAAAAVVVVVAAAATT")
    scores = _scores(len(video), 5)
    shuffled = scores.clone()
    order = torch.randperm(5, generator=torch.Generator().manual_seed(1)) + 1
    shuffled[1:6] = scores[order]
    kept, kept_shuffled = (
        select_by_relevance(s, video, audio, 0.6, 0.5, temperature=0.1, allocation=allocation)
        for s in (scores, shuffled)
    )
    assert torch.equal(kept[order], kept_shuffled[1:6])
    assert torch.equal(kept[6:], kept_shuffled[6:])


@pytest.mark.parametrize("allocation", WINDOWED)
@pytest.mark.parametrize("value", [0.0, -torch.inf, torch.inf, torch.nan, 3e38, -3e38, 1e-45])
def test_constant_scores_keep_the_first_tokens(allocation: str, value: float) -> None:
    video, audio = _masks("TVVVVVVAAAAVVVVVVAAAATT")
    kept = select_by_relevance(
        torch.full((len(video),), value),
        video,
        audio,
        0.5,
        0.5,
        temperature=0.1,
        allocation=allocation,
    )
    assert "".join("x" if keep else "." for keep in kept) == "xxxx...xx..xxx...xx..xx"


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_extreme_scores_beside_ordinary_ones(allocation: str) -> None:
    video, audio = _masks("VVVVAAAAVVVVAAAA")
    scores = torch.rand(16, generator=torch.Generator().manual_seed(2))
    scores[0], scores[5], scores[9], scores[13] = torch.inf, -torch.inf, torch.nan, 3e38
    kept = select_by_relevance(
        scores, video, audio, 0.5, 0.5, temperature=0.1, allocation=allocation
    )
    assert int(kept.sum()) == 8
    assert kept[0]
    assert kept[13]


def test_adaptive_follows_relevance() -> None:
    video, audio = _masks("VVVVVVVVAAAAVVVVVVVVAAAA")
    scores = torch.full((24,), 1e-4)
    scores[:8] = 1e-3
    kept = {
        allocation: _counts(
            select_by_relevance(
                scores, video, audio, 0.5, 0.5, temperature=0.1, allocation=allocation
            ),
            video,
            2,
        )
        for allocation in ALLOCATIONS
    }
    assert kept == {
        "reference": [4, 4],  # hardly adapts at this scale
        "adaptive": [5, 3],
        "adaptive-contrast": [5, 3],  # the sound, equal in both windows, holds it back
        "adaptive-floor": [5, 3],
        "global": [8, 0],
    }


@given(
    windows=st.lists(st.tuples(st.integers(0, 9), st.floats(0.0, 1e6)), min_size=1, max_size=10),
    part=st.floats(0.0, 1.0),
)
def test_proportional_budgets_sum_exactly(windows: list[tuple[int, float]], part: float) -> None:
    sizes = [size for size, _ in windows]
    total = round(part * sum(sizes))
    budgets = proportional_budgets(sizes, [weight for _, weight in windows], total)
    assert sum(budgets) == total
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes, strict=True))


def test_arguments_are_checked() -> None:
    scores, mask = torch.zeros(4), torch.zeros(4, dtype=torch.bool)
    good = {"temperature": 0.1}
    with pytest.raises(ValueError, match="scores"):
        select_by_relevance(torch.zeros(1, 4), mask, mask, 0.5, 0.5, **good)
    with pytest.raises(ValueError, match="video_mask"):
        select_by_relevance(scores, mask[:3], mask, 0.5, 0.5, **good)
    with pytest.raises(ValueError, match="audio_mask"):
        select_by_relevance(scores, mask, mask.long(), 0.5, 0.5, **good)
    with pytest.raises(ValueError, match="keep_audio"):
        select_by_relevance(scores, mask, mask, 0.5, 1.5, **good)
    with pytest.raises(ValueError, match="temperature"):
        select_by_relevance(scores, mask, mask, 0.5, 0.5, temperature=0.0)
    with pytest.raises(ValueError, match="allocation"):
        select_by_relevance(scores, mask, mask, 0.5, 0.5, allocation="x", **good)
