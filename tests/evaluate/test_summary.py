"""From records to a summary: nothing counted twice, errors never as wrong answers."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.errors import UsageError
from seats_cli.evaluate.run_folder import ItemRecord
from seats_cli.evaluate.summary import Group, SettingSummary, Summary, summarise


def record(item: int, label: str, correct: bool = True, **more: object) -> ItemRecord:
    values: dict[str, object] = {
        "item_id": f"i{item}",
        "clip_key": f"c{item // 2}",
        "label": label,
        "method": label.split()[0],
        "retain": None if label == "full" else 0.1,
        "expected": "red",
        "correct": correct,
        "family": ("color", "shape")[item % 2],
        "kind": "short",
        **more,
    }
    return ItemRecord(**values)  # type: ignore[arg-type]


def setting(summary: Summary, label: str) -> SettingSummary:
    return next(one for one in summary.settings if one.label == label)


def sample() -> Summary:
    records = [record(item, "seats 10%", item not in (2, 3, 5)) for item in range(10)]
    records[7] = record(7, "seats 10%", False, error="Out of memory on the host.")
    records[9] = record(9, "seats 10%", False, unparsed=True)
    records += [record(item, "full", item != 5, prefill_flops=4.0) for item in range(10)]
    return summarise("test", records)


def test_counts() -> None:
    summary = sample()
    assert (summary.items, summary.clips, summary.errors) == (10, 5, 1)
    assert [one.label for one in summary.settings] == ["full", "seats 10%"]
    assert summary.full is summary.settings[0]
    overall = setting(summary, "seats 10%").overall
    assert (overall.asked, overall.answered, overall.errors) == (10, 9, 1)
    assert (overall.right, overall.unparsed) == (5, 1)
    assert overall.accuracy is not None
    assert overall.accuracy.value == pytest.approx(5 / 9)
    assert (overall.gained, overall.lost) == (0, 3)
    assert overall.p == pytest.approx(0.25)
    assert overall.difference is not None
    assert overall.kept is not None
    assert overall.difference.value == pytest.approx(-3 / 9)
    assert overall.kept.value == pytest.approx(5 / 8)
    assert setting(summary, "seats 10%").error_reasons == {"Out of memory on the host.": 1}


def test_families_add_up() -> None:
    found = setting(sample(), "seats 10%")
    assert [group.name for group in found.families] == ["color", "shape"]
    for name in ("asked", "answered", "right", "unparsed", "gained", "lost"):
        total = sum(getattr(group, name) for group in found.families)
        assert total == getattr(found.overall, name)
    assert [group.name for group in found.kinds] == ["short"]


def test_the_unpruned_model_is_compared_with_nothing() -> None:
    overall = setting(sample(), "full").overall
    assert overall.difference is overall.kept is overall.p is overall.gained is None
    alone = summarise("test", [record(0, "seats 10%")])
    assert alone.full is None
    assert alone.settings[0].overall.difference is None


def test_a_setting_that_never_ran() -> None:
    records = [record(item, "full") for item in range(4)]
    records += [record(item, "fastv 5%", False, error="Out of reach.") for item in range(4)]
    found = setting(summarise("test", records), "fastv 5%")
    assert found.overall == Group("all", 4, 0, 0, 0, None, None, None, 0, 0, None)
    assert found.cost.prefill_s is None
    assert found.error_reasons == {"Out of reach.": 4}


def test_costs() -> None:
    records = [
        record(
            item,
            "seats 10%",
            prefill_flops=1.0 + item,
            full_prefill_flops=10.0,
            selection_flops=0.5,
            prefill_s=seconds,
            video_tokens=float(item),
            peak_host_bytes=100 + item,
        )
        for item, seconds in enumerate((0.1, 0.2, 5.0))
    ]
    cost = summarise("test", records).settings[0].cost
    assert cost.flops_ratio == pytest.approx(7.5 / 30)
    assert cost.flops == pytest.approx(2.5)
    assert cost.prefill_flops == pytest.approx(2.0)
    assert cost.prefill_s == pytest.approx(0.2)
    assert cost.video_tokens == pytest.approx(1.0)
    assert cost.peak_host_bytes == 102
    assert cost.peak_gpu_bytes is cost.average_retention is cost.total_s is None


def test_no_records() -> None:
    empty = summarise("test", [])
    assert (empty.items, empty.clips, empty.settings, empty.full) == (0, 0, (), None)


def test_a_pair_counts_once() -> None:
    once = summarise("test", [record(0, "full"), record(0, "full", False)])
    assert (once.items, once.settings[0].overall.right) == (1, 1)


labels = st.sampled_from(["full", "seats 10%", "random 10%"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), labels, st.sampled_from("rwe")), max_size=40))
def test_every_record_is_counted_in_one_way(drawn: list[tuple[int, str, str]]) -> None:
    records = {
        (item, label): record(item, label, what == "r", error="no" if what == "e" else None)
        for item, label, what in drawn
    }
    summary = summarise("test", records.values(), resamples=20)
    for one in summary.settings:
        own = [value for (_, label), value in records.items() if label == one.label]
        assert one.overall.asked == len(own)
        assert one.overall.right == sum(value.correct for value in own)
        assert one.overall.errors == sum(value.error is not None for value in own)
        for group in (one.overall, *one.families):
            if group.accuracy is not None:
                assert group.accuracy.value == pytest.approx(group.right / group.answered)
            if group.difference is not None:
                assert group.gained is not None
                assert group.lost is not None


class TestRecord:
    def test_round_trip(self) -> None:
        first = record(1, "seats 10%", prefill_s=0.25, retain=0.1)
        again = ItemRecord.from_dict(json.loads(json.dumps({**first.as_dict(), "newer": 1})))
        assert again == first
        assert again.key == ("i1", "seats 10%")

    def test_refusals(self) -> None:
        with pytest.raises(UsageError, match="not a record"):
            ItemRecord.from_dict({"item_id": "a"})
        with pytest.raises(ValueError, match="cannot be correct"):
            dataclasses.replace(record(0, "full"), error="no")
