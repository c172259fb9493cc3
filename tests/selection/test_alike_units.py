"""What encoder reuse calls alike, and what follows what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seats_cli.selection import alike_units
from seats_cli.selection.alike_units import Likeness, alike_map, start_block
from seats_cli.selection.static_regions import StillMap


def everything(*grids: tuple[int, int, int]) -> StillMap:
    return StillMap(torch.arange(sum(t * h * w for t, h, w in grids)), grids)


def one_place(*angles: float) -> Tensor:
    """States of one unit that turns from grid to grid, in degrees."""
    turned = torch.deg2rad(torch.tensor(angles))
    return torch.stack([turned.cos(), turned.sin()], 1) * 7.0


def plainly(states: Tensor, before: StillMap, threshold: float) -> list[int]:
    """The rule, grid by grid and place by place."""
    source, done = list(range(len(states))), 0
    for times, rows, columns in before.grids:
        size = rows * columns
        for place in range(size):
            last = done + place
            for time in range(1, times):
                unit = done + time * size + place
                if before.source[unit] != unit:
                    source[unit] = source[before.source[unit]]
                elif torch.cosine_similarity(states[unit], states[last], dim=0) > threshold:
                    source[unit] = last
                else:
                    last = unit
        done += times * size
    return source


def test_the_reference_is_what_was_last_carried() -> None:
    """Turning by 10 degrees a grid: always near the one before, soon far from the first."""
    states, limit = one_place(0, 10, 20, 30, 40, 50), float(torch.cos(torch.tensor(0.4)))
    found = alike_map(states, everything((6, 1, 1)), Likeness(limit))
    assert found.source.tolist() == [0, 0, 0, 3, 3, 3]


@pytest.mark.parametrize("stretch", [2, 3, 256])
@given(seed=st.integers(0, 999), threshold=st.sampled_from([-0.5, 0.0, 0.4, 0.9]))
@settings(max_examples=12, deadline=None)
def test_as_by_hand(stretch: int, seed: int, threshold: float) -> None:
    """Clips of several sizes, a part of which Stage 0 has left out, in stretches of any length."""
    draw = torch.Generator().manual_seed(seed)
    before = everything((7, 2, 3), (1, 2, 2), (4, 1, 2))
    states = torch.randn(len(before.source), 3, generator=draw)
    for unit in range(6, 42):
        if torch.rand(1, generator=draw) < 0.3:
            before.source[unit] = before.source[unit - 6]
    states = states[before.source]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alike_units, "STRETCH", stretch)
        found = alike_map(states, before, Likeness(threshold))
    assert found.source.tolist() == plainly(states, before, threshold)
    assert torch.equal(found.source[found.source], found.source)


def test_at_one_nothing_is_alike_not_even_repeats() -> None:
    before = everything((3, 2, 2))
    found = alike_map(torch.ones(12, 5), before, Likeness(1.0))
    assert torch.equal(found.source, before.source)


def test_what_repeats_follows_the_first_grid() -> None:
    states = torch.randn(4, 6).repeat(5, 1)
    found = alike_map(states.bfloat16(), everything((5, 2, 2)), Likeness(0.999))
    assert found.source.tolist() == [0, 1, 2, 3] * 5


@given(seed=st.integers(0, 999), share=st.floats(0.05, 1.0))
@settings(max_examples=25, deadline=None)
def test_a_share_is_met_from_below(seed: int, share: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    steps = torch.randn(12, 9, 8, generator=draw).cumsum(0).flatten(0, 1)
    carried = alike_map(steps, everything((12, 3, 3)), Likeness(share=share)).encoded.sum()
    assert carried <= max(share * 108, 9)
    assert carried >= min(share * 108 - 6, 108)
    if share == 1.0:
        assert carried == 108


def test_with_both_whichever_carries_less() -> None:
    steps = torch.randn(12, 9, 8).cumsum(0).flatten(0, 1)
    before = everything((12, 3, 3))

    def carried(*likeness: float | None) -> int:
        return int(alike_map(steps, before, Likeness(*likeness)).encoded.sum())

    assert carried(0.9, 0.25) == min(carried(0.9), carried(None, 0.25))
    assert carried(-1.0, 0.9) == 9


@pytest.mark.parametrize(
    ("depth", "start"), [(1, 0), (2, 1), (3, 2), (4, 2), (16, 4), (27, 7), (32, 8)]
)
def test_a_quarter_of_the_blocks_sees_everything(depth: int, start: int) -> None:
    assert start_block(depth) == start
