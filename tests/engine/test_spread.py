"""A model spread over devices: accelerate's hooks and ours work on the same modules.

There is one device here. The split is a real one all the same: part of the weights lies on the
disk, as "meta" parameters, and is fetched whenever a module runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.prune import prune
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import adapter_for, load_model
from tests.engine import golden
from tests.engine.golden import Run

accelerate = pytest.importorskip("accelerate")

METHODS = ("seats", "visionzip-om", "omnidrop", "fastv")


def spread(model: Any, folder: Path) -> Any:
    """Every second decoder layer and the last attention of both encoders on the disk."""
    adapter = adapter_for(model)
    names = {id(module): name for name, module in model.named_modules()}
    on_disk = {names[id(layer)] for layer in list(adapter.layers)[1::2]}
    on_disk |= {names[id(adapter.visual.blocks[-1])], names[id(adapter.audio_tower.layers[-1])]}
    whole = set(on_disk)
    places: dict[str, str] = dict.fromkeys(on_disk, "disk")
    for name, _ in model.named_parameters():
        if not any(name.startswith(f"{part}.") for part in whole):
            places[name.rsplit(".", 1)[0]] = "cpu"
    return accelerate.dispatch_model(
        model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True
    )


def outcome(model: Any, inputs: dict[str, Any], config: SeatsConfig, cache: Any = None) -> Any:
    with torch.no_grad(), prune(model, config, encoder_cache=cache) as run:
        logits = model(**inputs).logits[0, -1]
    return [stage.kept.tolist() for stage in run.trace.stages], logits


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3"])
def test_the_same_tokens_and_logits(family: str, tmp_path: Path) -> None:
    inputs = golden.inputs(Run(family, "audio_longer", ""))
    configs = [SeatsConfig(method=m, retain_video=0.6, retain_audio=0.7) for m in METHODS]
    plain = golden.build(family, "sdpa")
    expected = [outcome(plain, inputs, config) for config in configs]
    model = spread(golden.build(family, "sdpa"), tmp_path)
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    encoder_cache = EncoderCache()
    for config, (kept, logits) in zip(configs, expected, strict=True):
        for shared in (None, encoder_cache):
            found = outcome(model, inputs, config, shared)
            assert found[0] == kept
            torch.testing.assert_close(found[1], logits)


def test_device_spread_answers_alike() -> None:
    plain, loaded = (load_model("bundled", device=device) for device in ("cpu", "spread"))
    assert loaded.facts.device == "cpu"  # all there is here
    clip = synthetic_clip(4.0, fps=2.0, max_frames=8, sizing=loaded.sizing, audio=True)
    for config in (SeatsConfig(retain=0.25), None):
        one, other = (ask(m, clip, "What is shown?", config=config) for m in (plain, loaded))
        assert one.token_ids == other.token_ids
