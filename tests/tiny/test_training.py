"""A few steps of a micro model: finite losses, resuming, exporting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from seats_cli.models.optimize import SEGMENTS, encoder_attention
from seats_cli.training.build import export
from seats_cli.training.forward import Thinker
from seats_cli.training.hyperparameters import Hyperparameters, Phase
from seats_cli.training.minibatch import drill_batch
from seats_cli.training.objective import split_parameters
from seats_cli.training.train import Trainer


def micro_run() -> Hyperparameters:
    """A run of a few seconds."""
    return Hyperparameters(
        phases=(
            Phase("encoders", 2, 0.02, 2e-3, 400, warmup_steps=1),
            Phase("joint", 4, 0.01, 1.5e-3, 400, questions=3, drill_share=0.5, warmup_steps=1),
        ),
        first_level=0.0,
        check_batches=2,
        check_clips=1,
        width=64,
        layers=4,
        mlp=96,
        encoder_layers=2,
        middle_layer=2,
        cut_layers=(2, 3),
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A trainer that has run both micro phases."""
    trainer = Trainer(micro_run(), tmp_path_factory.mktemp("run"))
    trainer.run()
    return trainer


def test_a_run_ends_with_finite_weights(finished: Trainer) -> None:
    assert finished.phase.name == "joint"
    assert finished.step == 4
    assert all(bool(parameter.isfinite().all()) for parameter in finished.model.parameters())


def test_repeated_steps_lower_the_loss(processor: Any, tmp_path: Path) -> None:
    settings = micro_run()
    trainer = Trainer(settings, tmp_path)
    batch = drill_batch(np.random.default_rng(0), processor, tokens=400)
    seen: set[str] = set()
    block = trainer.model.model.visual.blocks[0]
    block.register_forward_hook(lambda *_: seen.update(encoder_attention(trainer.adapter)))
    losses = [trainer.update(batch)["loss"] for _ in range(6)]
    assert seen == {SEGMENTS}
    assert encoder_attention(trainer.adapter) == ("sdpa", "sdpa")
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_resuming_restores_the_state(finished: Trainer) -> None:
    again = Trainer(finished.settings, finished.out)
    again.resume()
    assert (again.phase_index, again.step) == (finished.phase_index, finished.step)
    for left, right in zip(again.model.parameters(), finished.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert again.muon.state_dict()["state"].keys() == finished.muon.state_dict()["state"].keys()


def test_exported_folder_loads(finished: Trainer, tmp_path: Path) -> None:
    export(finished.model, finished.processor, tmp_path)
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32
    )
    assert model.config.seats["max_pixels"] == 308 * 336
    weights = (model.model.visual.patch_embed.proj.weight, finished.model.model.visual)
    torch.testing.assert_close(weights[0], weights[1].patch_embed.proj.weight, atol=1e-3, rtol=1e-3)


def test_every_trained_parameter_has_one_optimiser(micro_model: Thinker) -> None:
    matrices, rest = split_parameters([micro_model.model])
    assert all(parameter.ndim == 2 for parameter in matrices)
    ids = {id(parameter) for parameter in (*matrices, *rest)}
    assert len(ids) == len(matrices) + len(rest)
    left_out = [
        name for name, parameter in micro_model.named_parameters() if id(parameter) not in ids
    ]
    assert left_out == ["model.audio_tower.audio_bos_eos_token.weight"]
