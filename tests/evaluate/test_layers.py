"""The layer curve and what follows from it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seats_cli.errors import UsageError
from seats_cli.evaluate.layer_curve import LayerCurve, blind_specs, layer_curve, recommend
from seats_cli.evaluate.run_folder import ItemRecord
from seats_cli.report import layers_table


def curve(both: list[float], full: float = 1.0) -> LayerCurve:
    """A model whose accuracy is `both[l - 1]` with everything hidden after layer l."""
    values = dict(enumerate(both, start=1))
    return LayerCurve(full, {"video": values, "audio": values, "both": values}, 100, len(both) + 1)


def test_published_model_gets_the_published_layers() -> None:
    found = recommend(curve([0.5] * 22 + [1.0] * 5))
    assert found.drop_layers == (16, 18, 20)
    assert found.late_layer == 24
    assert found.encoder_scale == pytest.approx(1.4)


def test_a_model_that_looks_to_the_end_has_no_late_block() -> None:
    found = recommend(curve([0.5] * 13))
    assert found.late_layer is None
    assert found.as_dict()["late_layer"] == "none"


def test_a_dip_behind_counts() -> None:
    dipping = curve([0.5, 1.0, 1.0, 0.9, 1.0, 1.0])
    assert dipping.last_needed("both") == 5
    assert dipping.last_needed("both", tolerated=0.2) == 2


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60))
def test_any_curve_gives_a_possible_plan(both: list[float]) -> None:
    found = recommend(curve(both))
    last = len(both) + 1 if found.late_layer is None else found.late_layer - 1
    assert list(found.drop_layers) == sorted(set(found.drop_layers))
    assert all(1 <= layer < last for layer in found.drop_layers)
    assert found.encoder_scale >= 1.0


def records(layers: int, items: int, errors: tuple[str, ...] = ()) -> list[ItemRecord]:
    """Everything needs the video up to layer 2, nothing the sound."""
    found = []
    for setting in blind_specs(layers):
        assert setting.blind is not None
        right = setting.blind.after_layer >= 2 or not setting.blind.video
        for item in range(items):
            failed = setting.label if setting.label in errors and item == 0 else None
            found.append(
                ItemRecord(
                    str(item),
                    "c",
                    setting.label,
                    "blind",
                    "x",
                    correct=right and failed is None,
                    error=failed,
                )
            )
    full = [ItemRecord(str(item), "c", "full", "full", "x", correct=True) for item in range(items)]
    return found + full


def test_curve_of_records() -> None:
    found = layer_curve(records(5, 4), 5)
    assert found.after_layer["both"] == {1: 0.0, 2: 1.0, 3: 1.0, 4: 1.0}
    assert found.after_layer["audio"] == {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}
    assert (found.last_needed("video"), found.last_needed("audio")) == (2, 1)
    assert found.questions == 4


def test_an_item_that_failed_once_counts_nowhere() -> None:
    found = layer_curve(records(5, 4, errors=("no video after layer 1",)), 5)
    assert found.questions == 3
    with pytest.raises(UsageError, match="no curve"):
        layer_curve(records(5, 1, errors=("no video after layer 1",)), 5)


def test_reports_agree() -> None:
    found = layer_curve(records(5, 4), 5)
    plan = recommend(found)
    document = layers_table.layers_document(found, plan)
    assert json.loads(json.dumps(document))["recommended"] == plan.as_dict()
    assert document["accuracy_hidden_after_layer"]["video"]["1"] == 0.0
    assert layers_table.layers_csv(found).splitlines()[1] == "1,0.0,1.0,0.0"
    assert "| 1 | 0.0 | 100.0 | 0.0 |" in layers_table.layers_markdown(found, plan)
    assert "late block from 3" in layers_table.recommendation(found, plan)
