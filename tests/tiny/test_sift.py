"""Thirty steps of OmniSIFT's recipe: where gradients go, what scores see, what order does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.session import load_model
from seats_cli.media.reader import read_clip
from seats_cli.training.forward import Thinning, packed_forward
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.training.sift import RATIOS, SiftTrainer, sift_prefix, sifted_logits

CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"


@pytest.fixture(scope="module")
def trainer() -> SiftTrainer:
    return SiftTrainer(steps=30, tokens=300, questions=1, level=0.0)


@pytest.fixture(scope="module")
def batch(trainer: SiftTrainer) -> TrainingBatch:
    return trainer.batch()


def test_whole_prefix_is_the_unpruned_model(trainer: SiftTrainer, batch: TrainingBatch) -> None:
    """The order test: with everything kept, gathering changes nothing."""
    trainer.model.eval()
    with torch.no_grad():
        prefix = sift_prefix(trainer.model, trainer.selector, batch, (1.0, 1.0))
        found = sifted_logits(trainer.model, batch, prefix)
        expected = packed_forward(trainer.model, batch, thinning=Thinning(), middle_layer=5)
    assert prefix.kept.shape[1] == len(batch.prefix_ids)
    torch.testing.assert_close(found, expected.logits, atol=1e-4, rtol=1e-4)


def test_scores_see_no_question_and_no_answer(trainer: SiftTrainer, batch: TrainingBatch) -> None:
    """The leak test."""
    other = replace(
        batch,
        question_ids=batch.question_ids.flip(1),
        target=torch.where(batch.target >= 0, batch.target * 0 + 5, batch.target),
    )
    one, two = (
        sift_prefix(trainer.model, trainer.selector, given, RATIOS[0]) for given in (batch, other)
    )
    assert torch.equal(one.scores, two.scores)
    assert torch.equal(one.kept, two.kept)


def test_the_gradients_path(trainer: SiftTrainer, batch: TrainingBatch) -> None:
    """From the answer through the sound that stays to the selector's weights."""
    prefix = sift_prefix(trainer.model, trainer.selector, batch, RATIOS[1])
    # Only the forward value is 0 or 1: what stays is as the encoder gave it.
    logits = sifted_logits(trainer.model, batch, prefix)
    weights = list(trainer.selector.parameters())
    gradients = torch.autograd.grad(logits.square().mean(), weights, retain_graph=True)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert all(bool((gradient != 0).any()) for gradient in gradients if gradient.ndim > 1)
    assert not any(parameter.requires_grad for parameter in trainer.model.parameters())


def test_thirty_steps(batch: TrainingBatch, tmp_path: Path) -> None:
    """Decoder and selector learn, the encoders and the rest do not, and the result runs."""
    trainer = SiftTrainer(steps=30, decoder=True)
    selector = {name: value.clone() for name, value in trainer.selector.state_dict().items()}
    thinker = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.step(batch) for _ in range(30)]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    learnt = {n for n, value in trainer.model.state_dict().items() if (value != thinker[n]).any()}
    assert learnt
    assert all(".language_model.layers." in f".{name}" for name in learnt)
    now = trainer.selector.state_dict()
    assert all(bool((value != selector[name]).any()) for name, value in now.items())
    trainer.save(tmp_path)
    loaded = load_model(str(tmp_path), device="cpu")
    config = SeatsConfig(method="omnisift", retain_video=0.33, retain_audio=0.5)
    clip = read_clip(CARDS, sizing=loaded.sizing)
    found = ask(loaded, clip, "What color is shown first?", config=config, max_new_tokens=2)
    assert found.trace.stages[0].audio < found.trace.offered[1]


def test_a_frozen_decoder_stays(trainer: SiftTrainer, batch: TrainingBatch) -> None:
    thinker = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    selector = trainer.selector.a_proj.weight.detach().clone()
    trainer.step(batch)
    assert all(torch.equal(value, thinker[n]) for n, value in trainer.model.state_dict().items())
    assert not torch.equal(trainer.selector.a_proj.weight, selector)
