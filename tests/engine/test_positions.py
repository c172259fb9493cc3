"""Positions found without a loop over tokens are transformers' own."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.models.adapter import Adapter
from seats_cli.models.optimize import vectorized_mrope
from seats_cli.models.qwen2_5_omni import chunk_borders
from seats_cli.models.registry import adapter_for
from tests.engine.golden import FAMILIES, build


@cache
def adapter(family: str) -> Adapter:
    return adapter_for(build(family))


def prompt(adapter: Adapter, before: int, after: int, video: int, audio: int) -> list[int]:
    """Ids of a prompt; how its media alternate plays no part in the positions."""
    config = adapter.config
    text = 5
    vision_end = getattr(config, "vision_end_token_id", text)
    media = [adapter.video_token_id] * video + [adapter.audio_token_id] * audio
    begin = [config.vision_start_token_id] + [config.audio_start_token_id] * bool(audio)
    end = [getattr(config, "audio_end_token_id", text)] * bool(audio) + [vision_end]
    return [text] * before + begin + media + end + [text] * after


def arguments(adapter: Adapter, data: st.DataObject, sound: bool) -> dict[str, Any]:
    merge = adapter.config.vision_config.spatial_merge_size
    grid = [data.draw(st.integers(1, 12), "time")]
    grid += [merge * data.draw(st.integers(1, 5), name) for name in ("height", "width")]
    frames = data.draw(st.integers(20, 3000), "mel frames") if sound else 0
    # half a second to a grid, in steps that are no round number of positions, up to long pauses
    seconds = data.draw(st.sampled_from([0.08, 0.5, 1.0, 1.0 / 3, 2 / 1.28, 4.0, 7.3]), "seconds")
    video = grid[0] * grid[1] * grid[2] // merge**2
    audio = adapter.family.audio_tokens(frames) if sound else 0
    lengths = [data.draw(st.integers(0, 9), name) for name in ("before", "after")]
    ids = torch.tensor([prompt(adapter, *lengths, video, audio)])
    return {
        "input_ids": ids,
        "image_grid_thw": None,
        "video_grid_thw": torch.tensor([grid]),
        "attention_mask": torch.ones_like(ids),
        "use_audio_in_video": sound,
        "audio_seqlens": torch.tensor([frames]) if sound else None,
        "second_per_grids": torch.tensor([seconds]),
    }


@settings(max_examples=60, deadline=None)
@given(data=st.data(), sound=st.booleans())
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_stock(family: str, data: st.DataObject, sound: bool) -> None:
    model = adapter(family)
    given_ = arguments(model, data, sound)
    positions, delta = model.core.get_rope_index(**given_)
    with vectorized_mrope(model):
        ours, our_delta = model.core.get_rope_index(**given_)
    for found, expected in ((ours, positions), (our_delta, delta)):
        assert torch.equal(found, expected)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("change", ["padding", "two"])
def test_other_prompts_go_to_stock(family: str, change: str) -> None:
    model = adapter(family)
    merge = model.config.vision_config.spatial_merge_size
    ids = prompt(model, 3, 4, 4, model.family.audio_tokens(80))
    mask = [1] * len(ids)
    grids, frames, seconds = [[2, 2 * merge, merge]], [80], [1.0]
    if change == "padding":
        ids, mask = [5, 5, *ids], [0, 0, *mask]
    else:
        ids, mask = 2 * ids, 2 * mask
        grids, frames, seconds = 2 * grids, 2 * frames, 2 * seconds
    settings_ = {
        "input_ids": torch.tensor([ids]),
        "video_grid_thw": torch.tensor(grids),
        "attention_mask": torch.tensor([mask]),
        "use_audio_in_video": True,
        "audio_seqlens": torch.tensor(frames),
        "second_per_grids": torch.tensor(seconds),
    }
    expected = model.core.get_rope_index(**settings_)
    with vectorized_mrope(model):
        found = model.core.get_rope_index(**settings_)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_left_as_it_was_found(family: str) -> None:
    model = adapter(family)
    (_, name, _), *_ = model.vectorized_methods()
    stock = getattr(model.core, name)
    with vectorized_mrope(model):
        once = getattr(model.core, name)
        with vectorized_mrope(model):
            assert getattr(model.core, name) not in (stock, once)
        assert getattr(model.core, name) is once
    assert name not in vars(model.core)
    assert name not in vars(model.model)
    assert getattr(model.core, name) == stock


@given(
    steps=st.lists(st.integers(0, 130), min_size=1, max_size=40),
    size=st.integers(1, 60),
    start=st.integers(0, 9),
)
def test_chunks_are_those_of_the_loop(steps: list[int], size: int, start: int) -> None:
    values = start + torch.tensor(steps).cumsum(0) - steps[0]
    stock = adapter("qwen2_5").model.get_chunked_index(values, size, start)
    assert chunk_borders(values, size, start) == stock


def test_values_that_do_not_ascend_are_left_to_the_loop() -> None:
    assert chunk_borders(torch.tensor([0, 60, 50]), 50) is None
