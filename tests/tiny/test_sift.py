"""Thirty steps of OmniSIFT's recipe: where gradients go, what scores see, what order does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seats_cli.config import SeatsConfig
from seats_cli.engine.prune import prune
from seats_cli.engine.session import load_model
from seats_cli.models.load import BUNDLED_PATH
from seats_cli.training.forward import Thinning, encode, packed_forward
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.training.sift import RATIOS, SiftSettings, SiftTrainer, sift_prefix, sifted_logits
from tests.tiny.clip_inputs import clip_inputs

TINY = SiftSettings(steps=30, pairs=1, tokens=200, questions=1, level=0.0)


@pytest.fixture(scope="module")
def trainer() -> SiftTrainer:
    return SiftTrainer(TINY)


@pytest.fixture(scope="module")
def batch(trainer: SiftTrainer) -> TrainingBatch:
    return trainer.batch()


def test_whole_prefix_is_the_unpruned_model(trainer: SiftTrainer, batch: TrainingBatch) -> None:
    """The order test: with everything kept, gathering changes nothing."""
    trainer.model.eval()
    with torch.no_grad():
        prefix = sift_prefix(trainer.model, trainer.selector, batch, (1.0, 1.0))
        found = sifted_logits(trainer.model, batch, prefix)
        expected = packed_forward(trainer.model, batch, thinning=Thinning())
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


def test_the_gradient_of_a_score(trainer: SiftTrainer, batch: TrainingBatch) -> None:
    """Of a token that stays: the inner product of what it is with its gradient; 0 of others."""
    leaves: list[Tensor] = []

    def scoring(audio: Tensor, video: Tensor) -> Tensor:
        leaves.append(torch.rand(len(audio)).requires_grad_())
        return leaves[-1]

    prefix = sift_prefix(trainer.model, scoring, batch, RATIOS[1])
    heard = encode(trainer.model, batch)[1]
    assert heard is not None
    places = (batch.prefix_ids == trainer.model.config.audio_token_id).nonzero()[:, 0]
    direction = torch.randn_like(prefix.states)
    (prefix.states * direction).sum().backward()
    groups = len(leaves) // batch.size
    for clip in range(batch.size):
        where = {place: row for row, place in enumerate(prefix.kept[clip].tolist())}
        kept = [place in where for place in places.tolist()]
        wanted = torch.zeros(len(places))
        for token, place in enumerate(places.tolist()):
            if kept[token]:
                row = where[place]
                # Only the gradient is scaled: what stays is as the encoder gave it.
                torch.testing.assert_close(prefix.states[clip, row], heard[clip, token])
                wanted[token] = (direction[clip, row] * heard[clip, token]).sum()
        mine = leaves[clip * groups :][:groups]
        scored = prefix.scores[clip] != 1
        assert 0 < int((wanted[scored] == 0).sum()) < int(scored.sum())
        found = torch.cat([leaf.grad for leaf in mine if leaf.grad is not None])
        torch.testing.assert_close(found, wanted[scored])


def test_the_gradients_path(trainer: SiftTrainer, batch: TrainingBatch) -> None:
    """From the answer to every matrix of the selector, and to nothing of the model."""
    prefix = sift_prefix(trainer.model, trainer.selector, batch, RATIOS[1])
    logits = sifted_logits(trainer.model, batch, prefix)
    weights = list(trainer.selector.parameters())
    gradients = torch.autograd.grad(logits.square().mean(), weights)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    assert all(bool((gradient != 0).any()) for gradient in gradients if gradient.ndim > 1)
    assert not any(parameter.requires_grad for parameter in trainer.model.parameters())


def test_thirty_steps(batch: TrainingBatch, tmp_path: Path) -> None:
    """The selector alone, then the decoder, too; and the engine selects as the recipe does."""
    trainer = SiftTrainer(replace(TINY, decoder=True, selector_steps=4))
    selector = {name: value.clone() for name, value in trainer.selector.state_dict().items()}
    thinker = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.step([batch]) for _ in range(4)]
    assert all(torch.equal(value, thinker[n]) for n, value in trainer.model.state_dict().items())
    now = trainer.selector.state_dict()
    assert all(bool((value != selector[name]).any()) for name, value in now.items())
    losses += [trainer.step([batch]) for _ in range(26)]
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    learnt = {n for n, value in trainer.model.state_dict().items() if (value != thinker[n]).any()}
    assert learnt
    assert all(".language_model.layers." in f".{name}" for name in learnt)
    trainer.save(tmp_path)
    record = json.loads((tmp_path / "training.json").read_text())
    assert record["steps_done"] == 30
    assert record["settings"]["selector_steps"] == 4

    again = SiftTrainer(replace(TINY, model=str(tmp_path)))  # trained further from there
    for name, value in again.selector.state_dict().items():
        assert torch.equal(value, now[name].half().float())
    loaded, length = load_model(str(tmp_path), device="cpu"), len(batch.prefix_ids)
    ids = torch.cat([batch.prefix_ids, batch.question_ids[0, :3]])
    for video, audio in RATIOS:
        expected = sift_prefix(again.model, again.selector, batch, (video, audio))
        config = SeatsConfig(method="omnisift", retain_video=video, retain_audio=audio)
        with torch.no_grad(), prune(loaded.model, config) as run:
            loaded.model(**clip_inputs(batch, ids, 0))
        kept = run.trace.stages[0].kept
        assert torch.equal(kept[kept < length], expected.kept[0])


def test_the_selector_that_ships() -> None:
    """Better at 6/30 than the same without a picture, and than sound drawn by chance."""
    trainer = SiftTrainer(replace(TINY, model=str(BUNDLED_PATH), checks=4))
    conditions = [f"6/30 {name}" for name in ("selector", "blind", "random")]
    trainer.measure("now", conditions)
    selector, blind, random = (trainer.accuracy["now"][name] for name in conditions)
    assert selector > blind
    assert selector > random
    assert any(
        bool((one != two).any())
        for one, two in zip(
            trainer.selector.parameters(), SiftTrainer(TINY).selector.parameters(), strict=True
        )
    )  # a recipe without a model begins from the seed
