"""Random-weights models: real shapes, a working prompt, pruned and not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.prune import prune
from seats_cli.errors import UsageError
from seats_cli.families.base import SAMPLE_RATE
from seats_cli.families.registry import named_config
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.models.inputs import build_inputs
from seats_cli.models.load import LoadedModel
from seats_cli.models.random_weights import random_model


@pytest.fixture(scope="module", params=["cpu-0.5b", "qwen3-omni-30b-a3b"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    # The real encoders take seconds on a CPU: shrink what no option of the command shrinks.
    values = named_config(request.param, layers=4, hidden=256)
    values["text_config"].update(vocab_size=768, num_experts=4, num_experts_per_tok=2)
    values["vision_config"].update(depth=3, hidden_size=64, intermediate_size=64, num_heads=2)
    values["vision_config"].update(fullatt_block_indexes=[2], deepstack_visual_indexes=[0, 1])
    values["audio_config"].update(encoder_layers=2, d_model=64, encoder_ffn_dim=64)
    values["audio_config"].update(encoder_attention_heads=2, downsample_hidden_size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seats_cli.models.random_weights.named_config", lambda *_, **__: values)
        return random_model(request.param, dtype="float32", device="cpu")


def test_prompt_tokens_and_pruned_run(loaded: LoadedModel) -> None:
    factor = loaded.sizing.factor
    frames = np.random.default_rng(0).integers(0, 255, (4, 4 * factor, 3 * factor, 3), np.uint8)
    audio = np.zeros(2 * SAMPLE_RATE, np.float32)
    clip = Clip(frames, np.arange(4) / 2, 2.0, audio, MediaFacts("x", "none", 2.0, 0.0, 2.0))
    inputs = build_inputs(loaded, clip, "What is shown?")
    ids = inputs["input_ids"]
    assert int((ids == loaded.adapter.video_token_id).sum()) == 2 * 12
    seconds = loaded.architecture.audio.tokens_per_second
    assert int((ids == loaded.adapter.audio_token_id).sum()) == 2 * seconds
    with torch.no_grad():
        full = loaded.model(**inputs).logits
        with prune(loaded.model, SeatsConfig(retain=0.25)) as run:
            pruned = loaded.model(**inputs).logits
    assert torch.isfinite(full).all()
    assert torch.isfinite(pruned).all()
    assert run.trace.alive_per_layer()[0][0] < 2 * 12


def test_weights_are_random_but_repeatable(loaded: LoadedModel) -> None:
    matrix = loaded.adapter.layers[0].self_attn.q_proj.weight.detach()
    assert 0.5 * 0.02 < matrix.std().item() < 2 * 0.02
    assert len(torch.unique(matrix[:, 0])) == len(matrix)
    assert bool((loaded.adapter.layers[0].input_layernorm.weight == 1).all())


def test_unknown_architecture() -> None:
    with pytest.raises(UsageError, match="choose from"):
        random_model("gpt")
