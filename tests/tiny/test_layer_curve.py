"""From a measured layer curve to SEATS layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seats_cli.evaluate.layer_curve import LayerCurve
from seats_cli.training.ablated_layers import first_blind_layer, seats_layers, write_settings


def curve_of(after: dict[int, float]) -> LayerCurve:
    return LayerCurve(0.95, {"both": after}, 100, 14)


@pytest.mark.parametrize(
    ("last_bad_layer", "drops", "late"),
    [(10, (8, 9, 10), 12), (11, (8, 9, 10), 13), (7, (8, 9, 10), 12), (13, (8, 9, 10), 14)],
)
def test_late_block_begins_where_nothing_is_lost(
    last_bad_layer: int, drops: tuple[int, ...], late: int
) -> None:
    after = {layer: 0.5 if layer <= last_bad_layer else 0.949 for layer in range(3, 14)}
    found = seats_layers(curve_of(after), 14)
    assert found == (drops, late)
    assert list(found[0]) == sorted(set(found[0]))
    assert found[0][-1] < found[1]
    assert first_blind_layer(curve_of(after)) == min(last_bad_layer + 2, 14)


def test_settings_go_into_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"seats": {"max_pixels": 12544}, "x": 1}))
    after = {layer: 0.5 if layer < 11 else 0.95 for layer in range(3, 14)}
    write_settings(tmp_path, curve_of(after), 14)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["x"] == 1
    assert config["seats"] == {"max_pixels": 12544, "drop_layers": [8, 9, 10], "late_layer": 12}
    assert "points" in json.loads((tmp_path / "seats.json").read_text())["why"]
