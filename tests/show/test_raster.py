"""Video tokens stand in the prompt in the raster order in which patches are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.models import load_model
from seats_cli.models.inputs import build_inputs
from tests.models.checkpoints import write_checkpoint

GRIDS, ROWS, COLUMNS = 2, 5, 3


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
def test_a_patch_that_changes_is_the_token_that_changes_most(tmp_path, family):
    write_checkpoint(tmp_path, family)
    loaded = load_model(str(tmp_path), device="cpu", dtype="float32")
    side = loaded.sizing.factor
    plain = _embeddings(loaded, side, None)
    assert len(plain) == GRIDS * ROWS * COLUMNS
    for grid in range(GRIDS):
        for row in range(ROWS):
            for column in range(COLUMNS):
                changed = _embeddings(loaded, side, (grid, row, column))
                most = int((changed - plain).norm(dim=-1).argmax())
                assert most == (grid * ROWS + row) * COLUMNS + column


def _embeddings(loaded, side, cell):
    """Projected video tokens of grey frames, in prompt order; one patch of them red."""
    frames = np.full((2 * GRIDS, ROWS * side, COLUMNS * side, 3), 90, np.uint8)
    if cell is not None:
        grid, row, column = cell
        at = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
        frames[2 * grid : 2 * grid + 2, at[0], at[1]] = (250, 20, 20)
    facts = MediaFacts("x.mp4", "mp4", 2.0, 0.0, 2.0)
    clip = Clip(frames, np.arange(2 * GRIDS) / 2, 2.0, None, facts)
    inputs = build_inputs(loaded, clip, "what?")
    seen = []
    handle = loaded.adapter.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.inference_mode():
        loaded.model(**inputs)
    handle.remove()
    return seen[0][0][inputs["input_ids"][0] == loaded.adapter.video_token_id]
