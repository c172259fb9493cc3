"""Folders that are no plain 16-bit checkpoints: loaded right, or refused with what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.broken_layouts import write_broken
from tests.models.hub_layouts import LAYOUTS, write_repository


@pytest.mark.parametrize("layout", ["omni-7b", "omni3-instruct"])
@pytest.mark.parametrize("kind", ["fp8-block", "fp8-channel", "int8"])
def test_dequantized_weights_are_near_the_original(kind: str, layout: str, tmp_path: Path) -> None:
    assert layout in LAYOUTS
    original = write_repository(tmp_path / "good", layout)
    dequantized = write_broken(tmp_path / "small", kind, layout)
    assert dequantized is not None
    changed = 0
    for name, weight in original.items():
        apart = (dequantized[name].float() - weight.float()).norm() / weight.float().norm()
        assert apart < 0.05
        changed += bool(apart)
    assert changed == (42 if layout == "omni-7b" else 6 * (4 + 4 * 3))
