"""Grids, temporal merging (DyCoke) and choosing by score, against slow definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity

from seats_cli.selection.method import Modality
from seats_cli.selection.methods.dycoke import anchor_tokens, keep_changing
from seats_cli.selection.topk import keep_at_random, keep_highest, keep_highest_in_runs
from seats_cli.selection.windows import similarity_to_earlier, split_grids

TWO_CLIPS = Modality(torch.ones(46, dtype=torch.bool), lengths=(36, 10), grids=(6, 5))


def test_grids_start_anew_with_each_clip() -> None:
    grids = split_grids(TWO_CLIPS)
    assert grids.sizes == [6] * 6 + [5] * 2
    assert grids.numbers == [0, 1, 2, 3, 4, 5, 0, 1]
    assert grids.index.bincount().tolist() == grids.sizes
    assert anchor_tokens(grids, 4) == 6 + 6 + 5


def test_no_video_has_no_grids() -> None:
    grids = split_grids(Modality(torch.zeros(3, dtype=torch.bool)))
    assert grids.sizes == []
    assert grids.index.shape == (0,)


@pytest.mark.parametrize("count", [17, 18, 25, 40, 46])
def test_keep_changing_follows_its_definition(count: int) -> None:
    features = torch.randn(46, 8, generator=torch.Generator().manual_seed(count))
    grids = split_grids(TWO_CLIPS)
    keep = keep_changing(features, grids, 4, count)
    assert int(keep.sum()) == count
    start, shares = 0, []
    for size, number in zip(grids.sizes, grids.numbers, strict=True):
        mine = slice(start, start + size)
        if number % 4 == 0:
            anchor = features[mine]
            assert bool(keep[mine].all())
        else:
            likeness = cosine_similarity(features[mine], anchor)
            kept = int(keep[mine].sum())
            assert set(keep[mine].nonzero()[:, 0].tolist()) == set(
                likeness.argsort()[:kept].tolist()
            )
            shares.append(kept / size)
        start += size
    assert max(shares) - min(shares) <= 1 / 5 + 1e-9


def test_anchors_stay_even_beyond_the_count() -> None:
    keep = keep_changing(torch.randn(46, 4), split_grids(TWO_CLIPS), 4, 3)
    assert int(keep.sum()) == 17


def test_similarity_of_empty_features_is_zero() -> None:
    similarity = similarity_to_earlier(torch.zeros(4, 3), torch.tensor([0, 0, 2, 2]))
    assert similarity.tolist() == [0.0, 0.0, 0.0, 0.0]


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([1.0, 2.0, 2.0, 1.0, 2.0])
    assert keep_highest(scores, 2).tolist() == [False, True, True, False, False]
    assert keep_highest(scores, 9).all()
    run_of = torch.tensor([0, 0, 0, 1, 1])
    kept = keep_highest_in_runs(torch.ones(5), run_of, [3, 2], [2, 1])
    assert kept.tolist() == [True, True, False, True, False]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 10**6))
def test_runs_keep_their_budgets(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    budgets = [int(torch.randint(size + 1, (), generator=generator)) for size in sizes]
    run_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    scores = torch.randint(4, (len(run_of),), generator=generator).float()
    kept = keep_highest_in_runs(scores, run_of, sizes, budgets)
    for run, budget in enumerate(budgets):
        mine, chosen = scores[run_of == run], kept[run_of == run]
        assert int(chosen.sum()) == budget
        if 0 < budget < len(mine):
            assert float(mine[chosen].min()) >= float(mine[~chosen].max())


def test_draw_is_the_seed_s() -> None:
    def draw(seed: int) -> Tensor:
        return keep_at_random(30, 7, torch.Generator().manual_seed(seed), torch.device("cpu"))

    assert int(draw(1).sum()) == 7
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
