"""Stage I against the authors' choices and an independent, slow implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seats_cli.cost.token_counts import tokens_to_keep
from seats_cli.selection import diversity
from seats_cli.selection.diversity import (
    select_diverse,
    select_diverse_in_windows,
    spare_copies,
)
from tests.golden_units import Case, cases_with_result, family_cases


def _slow_choice(features: Tensor, importance: Tensor, keep: int) -> list[int]:
    """The definition, token by token in float64."""
    size = len(features)
    unit = features.double() / features.double().norm(dim=-1, keepdim=True)
    weighted = [
        [(1.0 - float(unit[i] @ unit[j])) * float(importance[j]) for j in range(size)]
        for i in range(size)
    ]
    spread = [sorted(weighted[i][j] for i in range(size))[1] for j in range(size)]
    chosen = [spread.index(max(spread))]
    while len(chosen) < keep:
        best = max(
            (j for j in range(size) if j not in chosen),
            key=lambda j: min(weighted[i][j] for i in chosen),
        )
        chosen.append(best)
    return sorted(chosen)


@pytest.mark.parametrize("case", cases_with_result("mmd_batch"), ids=lambda case: case.name)
def test_golden_batches(case: Case) -> None:
    chosen = select_diverse(
        case.tensors["features"], case.tensors.get("attention"), case.facts["num_retained"]
    )
    golden = case.tensors["keep_indices"]
    assert chosen.shape == golden.shape
    assert [len(set(row.tolist())) for row in chosen] == case.facts["distinct_per_row"]
    if case.facts["stable"]:
        assert torch.equal(chosen, golden)


@pytest.mark.parametrize("case", cases_with_result("mmd_by_window"), ids=lambda case: case.name)
def test_golden_windows(case: Case) -> None:
    bounds = case.tensors["windows"]
    sizes = (bounds[:, 1] - bounds[:, 0]).tolist()
    importance = case.tensors.get("attention")
    kept = select_diverse_in_windows(
        case.tensors["features"][0],
        None if importance is None else importance[0],
        max(sizes),
        case.facts["ratio"],
        lengths=sizes,
    )
    assert torch.equal(kept, case.tensors["keep_mask"])
    assert [int(part.sum()) for part in kept.split(sizes)] == case.facts["kept_per_window"]


def _golden_prompt(case: Case, modality: str) -> Tensor:
    """Mask of the whole prompt, as the authors' functions return it."""
    facts, tensors = case.facts, case.tensors
    mask = tensors["input_ids"][0] == facts[f"{modality}_token_id"]
    if modality == "video":
        _, height, width = tensors["video_grid_thw"][0].tolist()
        window = facts["grid_in_window"] * height * width // facts["spatial_merge_unit"]
    else:
        window = facts["sec_in_audio_window"] * facts["tokens_per_second_used"]
    kept = torch.ones_like(mask)
    if not mask.any():  # a leftover statistic is in place, which nothing refers to
        return kept
    kept[mask] = select_diverse_in_windows(
        tensors["inputs_embeds"][0][mask], tensors["attn_mean"].flatten(), window, facts["ratio"]
    )
    return kept


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_golden_prompts(modality: str) -> None:
    for case in cases_with_result(f"{modality}_windivprune"):
        kept = _golden_prompt(case, modality)
        assert torch.equal(kept, case.tensors["keep_mask"]), case.name


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_what_the_authors_refuse_is_refused(modality: str) -> None:
    refused = [case for case in family_cases(f"{modality}_windivprune") if "error" in case.facts]
    assert refused
    for case in refused:
        with pytest.raises(ValueError, match=r"ratio|importance"):
            _golden_prompt(case, modality)


@given(data=st.data(), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_matches_the_definition(data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(2, 14))
    keep = data.draw(st.integers(1, size))
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, size, 6, generator=generator)
    importance = torch.rand(3, size, generator=generator) + 0.05
    chosen = select_diverse(features, importance, keep).tolist()
    for row, part, weights in zip(chosen, features, importance, strict=True):
        assert row == sorted(set(row))
        assert row == (list(range(size)) if keep == size else _slow_choice(part, weights, keep))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(61, 8, generator=generator)
    importance = torch.rand(61, generator=generator)
    whole = select_diverse_in_windows(features, importance, 6, 0.4)
    monkeypatch.setattr(diversity, "MAX_MATRIX_ENTRIES", 80)
    assert torch.equal(whole, select_diverse_in_windows(features, importance, 6, 0.4))


def test_windows_end_at_clips() -> None:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(40, 8, generator=generator)
    importance = torch.rand(40, generator=generator)
    lengths, windows = [17, 0, 23], [4, 9, 7]
    together = select_diverse_in_windows(features, importance, windows, 0.5, lengths)
    alone = [
        select_diverse_in_windows(part, weights, window, 0.5)
        for part, weights, window in zip(
            features.split(lengths), importance.split(lengths), windows, strict=True
        )
    ]
    assert torch.equal(together, torch.cat(alone))


def test_degenerate_values_give_distinct_tokens() -> None:
    for features in (torch.zeros(1, 9, 4), torch.full((1, 9, 4), torch.nan), torch.ones(1, 9, 4)):
        for importance in (None, torch.zeros(1, 9), torch.full((1, 9), torch.inf)):
            row = select_diverse(features, importance, 5)[0].tolist()
            assert row == sorted(set(row))
            assert len(row) == 5


def test_counts_round_half_to_even() -> None:
    assert [tokens_to_keep(size, 0.5) for size in (1, 3, 5, 7)] == [1, 2, 2, 4]
    assert tokens_to_keep(50, 0.0) == 1
    assert tokens_to_keep(50, 1.0) == 50


@pytest.mark.parametrize(
    ("features", "importance", "keep", "message"),
    [
        (torch.zeros(4, 3), None, 2, "features"),
        (torch.zeros(1, 4, 3), torch.zeros(1, 3), 2, "importance"),
        (torch.zeros(1, 4, 3), None, -1, "keep"),
    ],
)
def test_shapes_are_checked(
    features: Tensor, importance: Tensor | None, keep: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        select_diverse(features, importance, keep)


def test_window_arguments_are_checked() -> None:
    features = torch.zeros(6, 3)
    with pytest.raises(ValueError, match="add up"):
        select_diverse_in_windows(features, None, 2, 0.5, lengths=[3, 2])
    with pytest.raises(ValueError, match="at least 1"):
        select_diverse_in_windows(features, None, 0, 0.5)
    with pytest.raises(ValueError, match="sizes for"):
        select_diverse_in_windows(features, None, [2], 0.5, lengths=[3, 3])
    assert select_diverse_in_windows(torch.zeros(0, 3), None, 2, 0.5).numel() == 0


def test_copies_stand_for_each_other_by_turns() -> None:
    # Two windows of two grids of four places. The second window begins with what the first had.
    sources = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 9, 10, 3, 0, 9, 14, 15])
    spare = spare_copies(sources, torch.arange(16).view(2, 8))
    assert spare.int().tolist() == [[0, 1, 0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 0, 0, 0]]


@given(seed=st.integers(0, 10_000), keep=st.integers(1, 12), kinds=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_copy_is_kept_only_where_nothing_else_is_left(seed: int, keep: int, kinds: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    sources = torch.randint(kinds, (24,), generator=draw)
    features = torch.randn(kinds, 6, generator=draw)[sources]
    importance = torch.rand(kinds, generator=draw)[sources]
    kept = select_diverse_in_windows(features, importance, 12, keep / 12, sources=sources)
    for window in (slice(0, 12), slice(12, 24)):
        different = len(set(sources[window].tolist()))
        assert len(set(sources[window][kept[window]].tolist())) == min(keep, different)
        assert kept[window].sum() == keep


def test_what_is_kept_of_a_still_picture_is_spread_over_its_window() -> None:
    features = torch.randn(1, 100, 8, generator=torch.Generator().manual_seed(1))
    twice, importance = features.expand(2, -1, -1).flatten(0, 1), torch.ones(200)
    sources = torch.arange(100).repeat(2)
    usual = select_diverse_in_windows(twice, importance, 200, 0.3)
    spread = select_diverse_in_windows(twice, importance, 200, 0.3, sources=sources)
    assert usual[:100].sum() > 50  # ties go to the first grid
    assert 20 < spread[:100].sum() < 40
    assert len(set(sources[spread].tolist())) == 60
