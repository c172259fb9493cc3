"""OmniDrop's schedule and choice, and the question's attention, against slow definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.errors import ConfigError
from seats_cli.selection import relevance
from seats_cli.selection.methods.omnidrop import (
    drop_counts,
    entry_fractions,
    initial_drop,
    keep_after_drop,
    layer_total,
    solve_drops,
)
from seats_cli.selection.relevance import last_query_relevance, question_relevance


def test_published_pairs_come_near_their_targets() -> None:
    """The paper's pairs for 28 layers, with the 0.4 and 0.7 of a clip with 20 % audio."""
    entering = 0.4 * 8000 + 0.7 * 2000
    for pair, target in (((0.0, 0.2), 0.30), ((0.02, 0.5), 0.20)):
        alive = layer_total(int(entering), 28, drop_counts(int(entering), 28, *pair))
        assert alive / (28 * 10000) == pytest.approx(target, abs=0.011)


def test_layer_total_counts_every_layer() -> None:
    counts = drop_counts(100, 6, 0.5, 0.5)
    assert counts == [50, 25, 12, 6]
    assert layer_total(100, 6, counts) == 100 + 50 + 25 + 13 + 7 + 7


@settings(max_examples=100, deadline=None)
@given(st.integers(20, 9000), st.integers(4, 64), st.floats(0.02, 0.95))
def test_target_is_met(offered: int, num_layers: int, retention: float) -> None:
    entering = round(max(0.45, min(1.0, 1.5 * retention)) * offered)
    try:
        counts = solve_drops(entering, offered, num_layers, retention)
    except ConfigError:
        # the first layer sees all that enter, the others the last tokens that rounding leaves
        assert retention * offered * num_layers < entering + num_layers
        return
    assert len(counts) == num_layers - 2
    missed = layer_total(entering, num_layers, counts) - retention * offered * num_layers
    assert abs(missed) / num_layers <= 0.5  # tokens, on average over the layers


def test_p_init_follows_the_published_pairs() -> None:
    found = [initial_drop(share) for share in (0.5, 0.3, 0.2, 0.1)]
    assert found == pytest.approx([0.0, 0.0, 0.02, 0.02])
    assert initial_drop(0.25) == pytest.approx(0.01)


def test_entry_rises_with_the_target() -> None:
    assert entry_fractions(8000, 2000, 0.2) == pytest.approx((0.4, 0.7))
    assert entry_fractions(8000, 2000, 0.9) == pytest.approx((1.0, 1.0))
    video, audio = entry_fractions(8000, 2000, 0.5)
    assert 0.8 * video + 0.2 * audio == pytest.approx(0.75)
    assert entry_fractions(0, 100, 0.2)[1] == pytest.approx(0.7)
    assert entry_fractions(100, 0, 0.2)[0] == pytest.approx(0.4)


def test_far_windows_survive_among_the_least_important() -> None:
    scores = torch.tensor([0.9, 0.010, 0.011, 0.012, 0.013, 0.5])
    windows = torch.tensor([0, 0, 1, 2, 3, 3])
    assert keep_after_drop(scores, windows, 2, 0).tolist() == [True, False, False, True, True, True]
    # of the four least important the two nearest to window 0 leave
    assert keep_after_drop(scores, windows, 2, 3).tolist() == [True, False, False, True, True, True]
    far = torch.tensor([0, 3, 2, 1, 0, 3])
    assert keep_after_drop(scores, far, 2, 3).tolist() == [True, True, True, False, False, True]
    # a token that is no rival stays, however near
    assert keep_after_drop(scores, torch.zeros(6), 1, 3).tolist() == [True, False] + [True] * 4


@pytest.mark.parametrize("at_once", [1, 2, 8])
@pytest.mark.parametrize("asking", [1, 3])
def test_question_attention_is_causal(
    asking: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relevance, "_MAX_SCORES", at_once * 4 * 9)
    generator = torch.Generator().manual_seed(asking)
    query = torch.randn(asking, 4, 8, generator=generator)
    key = torch.randn(2, 9, 8, generator=generator)
    index = torch.arange(9 - asking, 9)
    rows = []
    for number, position in enumerate(index.tolist()):
        for head in range(4):
            scores = key[head // 2, : position + 1] @ query[number, head] / 8**0.5
            rows.append(torch.cat([scores.softmax(0), torch.zeros(8 - position)]))
    found = question_relevance(query, key, index)
    torch.testing.assert_close(found, torch.stack(rows).mean(0))
    if asking == 1:
        torch.testing.assert_close(found, last_query_relevance(query[0], key))
