"""Window budgets: the correction of their sum, against the rule said in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seats_cli.selection.allocation import _correct_sum

WINDOWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=9)


def one_at_a_time(budgets: list[int], sizes: list[int], total: int) -> list[int]:
    """Look at all windows again for every token."""
    budgets = list(budgets)
    while sum(budgets) > total and max(budgets) > 1:
        budgets[budgets.index(max(budgets))] -= 1
    while sum(budgets) < total:
        room = [w for w, size in enumerate(sizes) if budgets[w] < size]
        if not room:
            break
        budgets[min(room, key=lambda w: (budgets[w], w))] += 1
    return budgets


@given(windows=WINDOWS, total=st.integers(0, 60))
def test_the_largest_give_and_the_smallest_take(windows: list[tuple[int, int]], total: int) -> None:
    sizes = [max(window) for window in windows]
    budgets = [min(window) for window in windows]
    corrected = list(budgets)
    _correct_sum(corrected, sizes, total)
    assert corrected == one_at_a_time(budgets, sizes, total)
