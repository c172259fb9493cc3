"""OmniZip's parts against slow definitions."""

from __future__ import annotations

from math import exp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from seats_cli.selection.method import Modality
from seats_cli.selection.methods.omnizip import (
    density_peaks,
    grid_budgets,
    grid_scores,
    largest_similarity,
    merge_into_anchors,
)
from seats_cli.selection.windows import split_grids


@pytest.mark.parametrize("size", [1, 2, 4, 12])
def test_density_peaks_follow_their_definition(size: int) -> None:
    features = torch.randn(3, size, 6, generator=torch.Generator().manual_seed(size))
    scores = density_peaks(features)
    for grid, found in zip(features, scores, strict=True):
        distance = [[float(1 - cosine_similarity(a, b, dim=0)) for b in grid] for a in grid]
        near = min(5, size - 1)
        density = [exp(-sum(sorted(row)[1 : near + 1]) / max(near, 1)) for row in distance]
        for i in range(size):
            denser = [distance[i][j] for j in range(size) if density[j] > density[i]]
            expected = density[i] * (min(denser) if denser else max(distance[i]))
            assert float(found[i]) == pytest.approx(expected, abs=1e-5)


def test_equal_tokens_have_one_peak() -> None:
    scores = density_peaks(torch.cat([torch.ones(1, 4, 3), torch.zeros(1, 4, 3)]))
    assert bool(scores.isfinite().all())
    assert scores[0].tolist() == pytest.approx([0.0] * 4, abs=1e-6)


@pytest.mark.parametrize("with_video", [True, False])
def test_audio_is_merged_into_anchors(with_video: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    audio = torch.randn(60, 8, generator=generator)
    video = torch.randn(20, 8, generator=generator) if with_video else None
    importance = torch.rand(60, generator=generator)
    keep, merged = merge_into_anchors(audio, importance, video, 24)
    assert int(keep.sum()) == 24
    dominant = importance.topk(21).indices
    assert bool(keep[dominant].all())
    assert torch.equal(merged[dominant], audio[dominant])

    rest = sorted(set(range(60)) - set(dominant.tolist()))
    anchors = [index for index in keep.nonzero()[:, 0].tolist() if index in rest]
    assert [rest.index(index) for index in anchors] == [6, 19, 32]  # of 39, evenly spaced
    leaving = [index for index in rest if index not in anchors]
    likeness = cosine_similarity(audio[leaving].unsqueeze(1), audio[anchors].unsqueeze(0), dim=-1)
    for number, anchor in enumerate(anchors):
        mine = [i for i, row in enumerate(likeness) if int(row.argmax()) == number]
        if video is None:
            relevance = likeness[mine, number]
        else:
            relevance = largest_similarity(audio[[leaving[i] for i in mine]], video)
        best = relevance.argsort(descending=True)[:3]
        weights = relevance[best].softmax(0)
        values = audio[[leaving[mine[int(i)]] for i in best]]
        expected = (audio[anchor] + (weights.unsqueeze(1) * values).sum(0)) / 2
        torch.testing.assert_close(merged[anchor], expected, atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.data())
def test_audio_count_is_exact(size: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, size))
    audio = torch.randn(size, 4, generator=torch.Generator().manual_seed(size))
    keep, merged = merge_into_anchors(audio, audio[:, 0].abs(), None, count)
    assert int(keep.sum()) == count
    assert bool(merged.isfinite().all())


def test_windows_between_the_extremes_meet_the_total() -> None:
    sizes, window_of = [100] * 4, [0, 1, 2, 3]
    budgets = grid_budgets(sizes, window_of, [0.0, 0.4, 0.6, 1.0], 180)
    assert sum(budgets) == 180
    assert (budgets[0], budgets[3]) == (25, 65)  # 1 - 0.75 and 1 - 0.35, as published
    assert budgets[2] / budgets[1] == pytest.approx(0.49 / 0.41, rel=0.03)


def test_windows_without_audio_keep_the_overall_ratio() -> None:
    budgets = grid_budgets([100] * 5, [0, 1, 2, 3, 4], [0.0, 0.5, 0.6, 1.0, None], 225)
    assert sum(budgets) == 225
    assert (budgets[0], budgets[3], budgets[4]) == (25, 65, 45)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=8),
    st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=4, max_size=4),
    st.floats(0.01, 1.0),
)
def test_total_is_exact(
    grids: list[tuple[int, int]], audio_kept: list[float | None], ratio: float
) -> None:
    sizes, windows = [size for size, _ in grids], sorted(window for _, window in grids)
    total = max(1, round(ratio * sum(sizes)))
    budgets = grid_budgets(sizes, windows, audio_kept, total)
    assert sum(budgets) == total
    assert all(0 <= budget <= size for budget, size in zip(budgets, sizes, strict=True))


def test_grids_alternate() -> None:
    features = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    grids = split_grids(Modality(torch.ones(32, dtype=torch.bool), (20, 12), grids=(5, 4)))
    scores = grid_scores(features, grids)
    torch.testing.assert_close(scores[:5], density_peaks(features[None, :5])[0])
    torch.testing.assert_close(scores[20:24], density_peaks(features[None, 20:24])[0])
    torch.testing.assert_close(scores[5:10], -cosine_similarity(features[5:10], features[:5]))
    torch.testing.assert_close(scores[24:28], -cosine_similarity(features[24:28], features[20:24]))
