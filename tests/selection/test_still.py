"""What Stage 0 calls still, and how the rest is packed."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seats_cli.selection.static_regions import (
    Packing,
    change,
    grey_levels,
    pack,
    still_map,
    unit_cells,
)

MERGE, PATCH = 2, 4
UNIT = MERGE**2
VALUES = 6 * PATCH**2
STD = (0.25, 0.25, 0.5)
LEVELS = grey_levels(STD, VALUES)
Grid = tuple[int, int, int]


def patches(grids: list[Grid], seed: int = 0) -> Tensor:
    """A patch of one grey for each place, the same in all grids of a clip; in grey levels."""
    draw = torch.Generator().manual_seed(seed)
    clips = []
    for times, height, width in grids:
        place = torch.rand(height * width, 1, generator=draw) * 255
        clips.append(place.expand(-1, VALUES).repeat(times, 1))
    return torch.cat(clips)


def found(grey: Tensor, grids: list[Grid], tolerance: float, side: int | None) -> Tensor:
    return still_map(
        grey / LEVELS, grids, LEVELS, tolerance=tolerance, merge=MERGE, side=side
    ).source


def units(grids: list[Grid]) -> int:
    return sum(t * h * w // UNIT for t, h, w in grids)


class TestChange:
    def test_an_even_change_is_its_own_size(self) -> None:
        now, before = torch.full((3, VALUES), 40.0), torch.full((3, VALUES), 33.0)
        assert change(now / LEVELS, before / LEVELS, LEVELS).tolist() == pytest.approx([7.0] * 3)

    def test_only_equal_patches_have_not_changed(self) -> None:
        now = torch.zeros(1, VALUES)
        assert change(now, now, LEVELS) == 0
        now[0, 5] = 1e-3
        assert change(now, torch.zeros(1, VALUES), LEVELS) > 0

    def test_noise_counts_less_than_a_stroke_of_the_same_size(self) -> None:
        values = 6 * 14**2
        levels, draw = grey_levels(STD, values), torch.Generator().manual_seed(1)
        noise = 6.0 * torch.randn(1, values, generator=draw)
        stroke = torch.zeros(1, 6, 14, 14)
        stroke[..., 3] = 200.0  # a pixel wide
        zero = torch.zeros(1, values)
        assert change(noise / levels, zero, levels) < 2.5
        assert change(stroke.flatten(1) / levels, zero, levels) > 10

    def test_stripes_that_shift_are_noticed_although_no_average_moves(self) -> None:
        stripes = torch.zeros(6, PATCH, PATCH)
        stripes[..., ::2] = 120.0
        now, before = (part.flatten()[None] / LEVELS for part in (stripes, stripes.roll(1, -1)))
        assert change(now, before, LEVELS) == pytest.approx(30.0)

    def test_every_colour_has_its_scale(self) -> None:
        assert grey_levels((0.1, 0.2, 0.3), 12).tolist() == pytest.approx(
            [25.5] * 4 + [51.0] * 4 + [76.5] * 4
        )


class TestMap:
    def test_a_still_clip_is_encoded_once(self) -> None:
        grids = [(4, 4, 6)]
        source = found(patches(grids), grids, 0.0, 1)
        assert source.view(4, -1).tolist() == [list(range(6))] * 4

    def test_clips_never_refer_to_each_other(self) -> None:
        grids = [(2, 4, 4), (3, 4, 4)]
        one = patches([(1, 4, 4)]).repeat(5, 1)  # the same picture in both clips
        assert found(one, grids, 0.0, None).tolist() == [0, 1, 2, 3] * 2 + [8, 9, 10, 11] * 3

    def test_a_slow_change_is_noticed_when_it_has_added_up(self) -> None:
        grids = [(8, 2, 2)]
        grey = (100 + torch.arange(8.0))[:, None].repeat_interleave(UNIT, 0).expand(-1, VALUES)
        assert found(grey, grids, 2.5, None).tolist() == [0, 0, 0, 3, 3, 3, 6, 6]

    def test_what_returns_is_compared_with_the_last_encoding(self) -> None:
        grids = [(3, 2, 2)]
        grey = torch.tensor([10.0, 90.0, 10.0]).repeat_interleave(UNIT)[:, None].expand(-1, VALUES)
        assert found(grey, grids, 5.0, None).tolist() == [0, 1, 2]

    def test_a_cell_changes_as_a_whole_and_others_stay(self) -> None:
        grids = [(2, 8, 8)]  # 4 x 4 units, 2 x 2 cells
        grey = patches(grids)
        grey[64 + UNIT * 5] += 50  # in the second row and column
        source = found(grey, grids, 2.0, 2)[16:].view(4, 4)
        fresh = torch.arange(16, 32).view(4, 4)
        assert source[:2, :2].equal(fresh[:2, :2])
        assert source[2:].equal(fresh[2:] - 16)
        assert source[:, 2:].equal(fresh[:, 2:] - 16)

    @pytest.mark.parametrize(("moved", "expected"), [(1, 1), (2, 4)])
    def test_a_grid_of_which_much_has_changed_is_encoded_whole(
        self, moved: int, expected: int
    ) -> None:
        grids = [(2, 2, 8)]  # a row of 4 units
        grey = patches(grids)
        grey[16 : 16 + UNIT * moved] += 50
        source = found(grey, grids, 2.0, 1)
        assert int((source[4:] >= 4).sum()) == expected

    def test_what_surrounds_a_place_does_not_grow_old(self) -> None:
        """One unit of four changes at a time, each a different one."""
        grids = [(5, 2, 8)]
        grey = patches(grids).view(5, 4, UNIT, VALUES).clone()
        for time in range(1, 5):
            grey[time:, time - 1] += 50
        source = found(grey.view(-1, VALUES), grids, 2.0, 1).view(5, 4)
        fresh = torch.arange(20).view(5, 4)
        # at the second change half of the grid is other than what the rest was encoded beside
        encoded = (source == fresh).sum(1).tolist()
        assert encoded == [4, 1, 4, 1, 4]

    def test_one_place_that_changes_all_the_time_is_no_reason(self) -> None:
        grids = [(6, 2, 8)]
        grey = patches(grids).view(6, 4, UNIT, VALUES).clone()
        grey[:, 2] += 20 * torch.arange(6.0)[:, None, None]
        source = found(grey.view(-1, VALUES), grids, 2.0, 1).view(6, 4)
        assert [int(count) for count in (source == torch.arange(24).view(6, 4)).sum(1)] == [
            4,
            *[1] * 5,
        ]

    def test_half_precision_is_compared_in_full(self) -> None:
        grids = [(2, 2, 2)]
        pixels = (patches(grids) / LEVELS).bfloat16()
        kept = still_map(pixels, grids, LEVELS, tolerance=0, merge=MERGE, side=1)
        assert kept.source.tolist() == [0, 0]
        assert kept.per_grid() == [(1, 1), (0, 1)]

    def test_cells_at_the_border_are_smaller(self) -> None:
        assert unit_cells(3, 4, 2).view(3, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]
        assert unit_cells(2, 2, None).tolist() == [0] * 4


@st.composite
def clips(draw: st.DrawFn) -> tuple[Tensor, list[Grid]]:
    """Clips whose places wander."""
    sizes = st.tuples(st.integers(1, 6), st.sampled_from((2, 4, 6)), st.sampled_from((2, 4, 6)))
    grids = draw(st.lists(sizes, min_size=1, max_size=3))
    seed, step = draw(st.integers(0, 999)), draw(st.sampled_from((0.0, 0.5, 2.0, 9.0)))
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for times, height, width in grids:
        walk = torch.randn(times, height * width, 1, generator=generator).sign().mul(step).cumsum(0)
        parts.append((walk + 100).expand(-1, -1, VALUES).reshape(-1, VALUES))
    return torch.cat(parts), grids


TOLERANCES, SIDES = st.sampled_from((0.0, 1.0, 3.0, 20.0)), st.sampled_from((None, 1, 2))


class TestProperties:
    @settings(max_examples=60, deadline=None)
    @given(clips(), TOLERANCES, SIDES)
    def test_nothing_stands_for_what_it_differs_from(
        self, clip: tuple[Tensor, list[Grid]], tolerance: float, side: int | None
    ) -> None:
        grey, grids = clip
        source = found(grey, grids, tolerance, side)
        own = grey.view(-1, UNIT, VALUES)
        assert (own - own[source]).abs().max() <= tolerance + 1e-3  # no drift adds up

    @settings(max_examples=60, deadline=None)
    @given(clips(), TOLERANCES, SIDES)
    def test_sources_are_encoded_at_the_same_place_of_the_same_clip(
        self, clip: tuple[Tensor, list[Grid]], tolerance: float, side: int | None
    ) -> None:
        grey, grids = clip
        source = found(grey, grids, tolerance, side)
        assert source[source].equal(source)
        done = 0
        for times, height, width in grids:
            size = height * width // UNIT
            places = torch.arange(done, done + times * size).view(times, size)
            part = source[done : done + times * size].view(times, size)
            assert part[0].equal(places[0])
            assert bool(((part - places) % size == 0).all())
            assert bool(((part >= done) & (part <= places)).all())
            done += times * size

    @settings(max_examples=30, deadline=None)
    @given(clips(), TOLERANCES, SIDES)
    def test_each_clip_as_if_alone(
        self, clip: tuple[Tensor, list[Grid]], tolerance: float, side: int | None
    ) -> None:
        grey, grids = clip
        alone, before = [], [0, 0]
        for grid in grids:
            count = grid[0] * grid[1] * grid[2]
            part = grey[before[0] : before[0] + count]
            alone.append(found(part, [grid], tolerance, side) + before[1])
            before = [before[0] + count, before[1] + count // UNIT]
        assert found(grey, grids, tolerance, side).equal(torch.cat(alone))


def packed(grey: Tensor, grids: list[Grid], tolerance: float, side: int | None) -> Packing:
    kept = still_map(grey / LEVELS, grids, LEVELS, tolerance=tolerance, merge=MERGE, side=side)
    return pack(kept, window_order(grids), window=2, patches=UNIT)


def window_order(grids: list[Grid]) -> Tensor:
    """Units grid by grid, and in each window by window of 2 x 2."""
    order, done = [], 0
    for times, height, width in grids:
        rows, columns = height // MERGE, width // MERGE
        inside = unit_cells(rows, columns, 2).argsort(stable=True)
        for time in range(times):
            order.append(inside + done + time * rows * columns)
        done += times * rows * columns
    return torch.cat(order)


class TestPacking:
    @settings(max_examples=60, deadline=None)
    @given(clips(), TOLERANCES, SIDES)
    def test_every_unit_finds_its_source(
        self, clip: tuple[Tensor, list[Grid]], tolerance: float, side: int | None
    ) -> None:
        grey, grids = clip
        packing = packed(grey, grids, tolerance, side)
        assert packing.chosen[packing.place].equal(found(grey, grids, tolerance, side))
        for segments in (packing.full, packing.windowed):
            assert sum(segments.queries) == UNIT * len(packing.chosen)
            assert segments.borders.tolist()[-1] == UNIT * len(packing.chosen)

    @settings(max_examples=60, deadline=None)
    @given(clips(), TOLERANCES, SIDES)
    def test_a_query_sees_the_latest_of_every_place_of_its_segment(
        self, clip: tuple[Tensor, list[Grid]], tolerance: float, side: int | None
    ) -> None:
        grey, grids = clip
        packing = packed(grey, grids, tolerance, side)
        source = found(grey, grids, tolerance, side)
        starts = [0]
        for times, height, width in grids:
            starts += [starts[-1] + (t + 1) * height * width // UNIT for t in range(times)]
        for batch in packing.full.batches:
            for asking, seen in zip(batch.queries, batch.keys, strict=True):
                unit = int(packing.chosen[asking[0] // UNIT])
                first, last = next(pair for pair in pairwise(starts) if pair[0] <= unit < pair[1])
                wanted = source[first:last].sort().values.repeat_interleave(UNIT)
                assert packing.chosen[seen // UNIT].sort().values.equal(wanted)
        if packing.full.batches:
            asked = torch.cat([batch.queries.flatten() for batch in packing.full.batches])
            assert asked.sort().values.equal(torch.arange(UNIT * len(packing.chosen)))

    def test_whole_segments_need_nothing_from_outside(self) -> None:
        grids = [(3, 4, 16)]
        grey = patches(grids)
        grey[128:132] += 50  # in the left window of the last grid
        packing = packed(grey, grids, 2.0, 2)
        assert (packing.windowed.queries, packing.windowed.batches) == ((16,) * 5, ())
        assert packing.full.queries == (64, 16)
        assert packing.full.pairs == 64 * 64 + 16 * 64
        assert packing.windowed.pairs == 5 * 16 * 16
