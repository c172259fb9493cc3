"""Windows of fixed length and temporal windows."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from torch import Tensor

from seats_cli.selection.windows import contiguous_runs, fixed_windows, pair_windows
from tests.golden_units import Case, family_cases


def _mask(token_types: str, letter: str) -> Tensor:
    return torch.tensor([token == letter for token in token_types], dtype=torch.bool)


@pytest.mark.parametrize("case", family_cases("build_windows"), ids=lambda case: case.name)
def test_golden(case: Case) -> None:
    video = contiguous_runs(_mask(case.facts["token_types"], "V"))
    audio = contiguous_runs(_mask(case.facts["token_types"], "A"))
    windows = pair_windows(video, audio)
    ranges = [
        [list(part) for part in pairwise(accumulate((w[side] for w in windows), initial=0))]
        for side in (0, 1)
    ]
    built = [
        {
            "video_indices": v if v[0] < v[1] else None,
            "audio_indices": a if a[0] < a[1] else None,
        }
        for v, a in zip(*ranges, strict=True)
    ]
    assert built == case.facts["windows"]


def test_runs_index_every_token() -> None:
    runs = contiguous_runs(_mask("TVVTVAV", "V"))
    assert runs.positions.tolist() == [1, 2, 4, 6]
    assert runs.index.tolist() == [0, 0, 1, 2]
    assert runs.sizes == [2, 1, 1]
    assert runs.total == 4


def test_fixed_windows_group_by_size() -> None:
    assert fixed_windows(10, 4) == {4: [0, 4], 2: [8]}
    assert fixed_windows(11, [4, 2], [7, 4]) == {4: [0], 3: [4], 2: [7, 9]}
    assert fixed_windows(0, 4) == {}
