"""Question sets by name."""

from __future__ import annotations

import pytest

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks import question_set


def test_only_some_families_or_kinds() -> None:
    whole = question_set("synthetic", limit=300)
    orders = question_set("synthetic", limit=30, only=("place_in_time",))
    assert len(orders) == 30
    assert {item.family for item in orders.items} == {"place_in_time"}
    first = [item.id for item in whole.items if item.family == "place_in_time"]
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
    rare = question_set("synthetic", limit=2, only=("shape", "sound_kind"))
    assert len(rare) == 2
    assert {item.family for item in rare.items} <= {"shape", "sound_kind"}
