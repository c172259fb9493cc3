"""Time of a prompt's positions, by transformers' loop and without it.

python -m tests.measure_positions
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from seats_cli.models.optimize import vectorized_mrope
from seats_cli.models.registry import adapter_for
from tests.engine.golden import FAMILIES, build
from tests.engine.test_positions import prompt

GRIDS, ROWS, COLUMNS, MEL_FRAMES = 60, 13, 23, 6000  # a minute at 644x364


def least_ms(core: Any, given: dict[str, Any]) -> float:
    """Least milliseconds of five calls."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        core.get_rope_index(**given)
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def main() -> None:
    for family in FAMILIES:
        adapter = adapter_for(build(family))
        merge = adapter.config.vision_config.spatial_merge_size
        sound = adapter.family.audio_tokens(MEL_FRAMES)
        ids = torch.tensor([prompt(adapter, 10, 20, GRIDS * ROWS * COLUMNS, sound)])
        given = {
            "input_ids": ids,
            "video_grid_thw": torch.tensor([[GRIDS, ROWS * merge, COLUMNS * merge]]),
            "attention_mask": torch.ones_like(ids),
            "use_audio_in_video": True,
            "audio_seqlens": torch.tensor([MEL_FRAMES]),
            "second_per_grids": torch.tensor([1.0]),
        }
        stock = least_ms(adapter.core, given)
        with vectorized_mrope(adapter):
            quick = least_ms(adapter.core, given)
        sys.stdout.write(f"{family:8s} stock {stock:7.1f} ms   quick {quick:6.2f} ms\n")


if __name__ == "__main__":
    main()
