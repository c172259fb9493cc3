"""Question sets by name."""

from __future__ import annotations

import pytest

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks import question_set


def test_only_some_families_or_kinds() -> None:
    whole = question_set("synthetic", limit=300)
    orders = question_set("synthetic", limit=30, only=("color_order",))
    assert len(orders) == 30
    assert {item.family for item in orders.items} == {"color_order"}
    first = [item.id for item in whole.items if item.family == "color_order"]
    assert [item.id for item in orders.items][: len(first)] == first[:30]
    assert {item.kind for item in question_set("synthetic", limit=9, only=("moment",)).items} == {
        "moment"
    }


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(UsageError, match="color_order"):
        question_set("synthetic", limit=3, only=("colour",))
    with pytest.raises(UsageError, match="'colour'"):
        question_set("synthetic", limit=3, only=("color_order", "colour"))


def test_rare_families_are_found() -> None:
    rare = question_set("synthetic", limit=2, only=("same_word", "shape_at_sound"))
    assert len(rare) == 2
    assert {item.family for item in rare.items} <= {"same_word", "shape_at_sound"}
