"""The retention schedule against the authors' values and its own definition."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seats_cli.schedule import (
    active_layers,
    average_of_fractions,
    keep_ratios,
    reachable_range,
)
from tests.golden_units import Case, cases_with_result
from tests.shapes import average_retention


@pytest.mark.parametrize("case", cases_with_result("scheduler"), ids=lambda case: case.name)
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_golden(case: Case, modality: str) -> None:
    arguments, expected = case.facts["args"], case.facts["result"]
    ratios = keep_ratios(
        arguments[f"{modality}_ratio"],
        arguments[f"{modality}_encoder_ratio"],
        expected["num_layers"],
        expected["drop_layers"],
        arguments["late_block_layer"],
    )
    golden = expected[f"{modality}_inner_progressive_ratio_list"]
    assert ratios == pytest.approx(golden, abs=1e-4)


@st.composite
def _models(draw: st.DrawFn) -> tuple[int, list[int], int | None]:
    num_layers = draw(st.integers(4, 60))
    late_layer = draw(st.none() | st.integers(4, num_layers))
    drops = st.lists(st.integers(1, num_layers), min_size=1, max_size=5, unique=True)
    return num_layers, sorted(draw(drops)), late_layer


@given(model=_models(), initial=st.floats(0.05, 1.0), place=st.floats(0.01, 0.95))
def test_average_meets_reachable_targets(
    model: tuple[int, list[int], int | None], initial: float, place: float
) -> None:
    lowest, highest = reachable_range(initial, *model)
    target = lowest + place * (highest - lowest)
    ratios = keep_ratios(target, initial, *model)
    assert average_retention(initial, ratios, *model) == pytest.approx(target, abs=3e-4)
    assert all(0.0 <= ratio <= 1.0 for ratio in ratios)
    assert ratios == sorted(ratios, reverse=True)  # deeper steps remove more


@given(model=_models(), initial=st.floats(0.05, 1.0))
def test_unreachable_targets_are_clamped(
    model: tuple[int, list[int], int | None], initial: float
) -> None:
    steps, _ = active_layers(*model)
    assert keep_ratios(2.0, initial, *model) == [1.0] * len(steps)
    assert keep_ratios(0.0, initial, *model)[-1:] == [0.0] * bool(steps)


def test_drop_after_the_last_audiovisual_layer_is_ignored() -> None:
    assert active_layers(28, [22, 16, 23], 23) == ([16], 22)
    assert active_layers(28, [28, 27], None) == ([27], 28)
    assert active_layers(28, [16], 60) == ([16], 28)


def test_fractions_must_fit_the_layers() -> None:
    with pytest.raises(ValueError, match="need 3"):
        average_of_fractions([1.0], 28, [16, 18], 24)


def test_module_does_not_import_torch() -> None:
    code = "import sys, seats_cli.schedule; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
