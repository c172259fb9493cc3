"""FLOP formulas against what torch counts while stock models run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seats_cli.cost.flops import audio_flops, decode_flops, prefill_flops, vision_flops
from seats_cli.cost.memory import kv_bytes
from seats_cli.families.base import Architecture
from seats_cli.models.registry import adapter_for
from tests.cost.counting import counted
from tests.engine.golden import FAMILIES, build


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest) -> tuple[Any, Architecture]:
    # Eager attention and experts consist of products that the counter knows.
    model = build(request.param, "eager")
    if request.param == "qwen3":
        model.set_experts_implementation("eager")
    return model, adapter_for(model).architecture()


def test_llm(subject: tuple[Any, Architecture]) -> None:
    model, architecture = subject
    prompt = torch.arange(57).unsqueeze(0) + 5
    alive = [57] * architecture.num_layers
    flops, output = counted(lambda: model(input_ids=prompt, use_cache=True))
    assert flops == prefill_flops(architecture, alive, head_positions=57)

    cache = output.past_key_values
    assert kv_bytes(architecture, alive, 4) == sum(
        tensor.numel() * tensor.element_size()
        for layer in cache.layers
        for tensor in (layer.keys, layer.values)
    )

    def decode() -> None:
        for _ in range(3):
            model(input_ids=prompt[:, :1], past_key_values=cache, use_cache=True)

    assert counted(decode)[0] == decode_flops(architecture, alive, steps=3)


def test_vision(subject: tuple[Any, Architecture]) -> None:
    model, architecture = subject
    shape = architecture.vision
    grids = torch.tensor([[3, 6, 10], [2, 8, 4]])  # the first has ragged windows
    width = shape.in_channels * shape.temporal_patch_size * shape.patch_size**2
    pixels = torch.zeros(int(grids.prod(1).sum()), width)
    flops, _ = counted(lambda: adapter_for(model).visual(pixels, grid_thw=grids))
    assert flops == vision_flops(shape, grids.tolist())


@pytest.mark.parametrize("frames", [37, 200, 433, 1234])
def test_audio(subject: tuple[Any, Architecture], frames: int) -> None:
    model, architecture = subject
    mel = torch.zeros(architecture.audio.num_mel_bins, frames)
    tower = adapter_for(model).audio_tower
    flops, _ = counted(lambda: tower(mel, feature_lens=torch.tensor([frames])))
    assert flops == audio_flops(architecture, frames)


def test_no_sound_costs_nothing(subject: tuple[Any, Architecture]) -> None:
    assert audio_flops(subject[1], 0) == 0
    assert vision_flops(subject[1].vision, []) == 0
