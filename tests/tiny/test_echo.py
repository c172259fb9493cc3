"""EchoingPixels' recipe: where gradients go, what scores see, and that the engine does the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.prune import prune
from seats_cli.engine.session import load_model
from seats_cli.models.optimize import RunSwaps, installed, sync_rope
from seats_cli.training.echo import (
    EchoTrainer,
    QuestionRows,
    answer_logits,
    kept_tokens,
    refined_prompts,
)
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.world.vocabulary import IGNORE


@pytest.fixture(scope="module")
def trainer() -> EchoTrainer:
    return EchoTrainer(steps=20, warm_up=0, tokens=300, level=0.0)


@pytest.fixture(scope="module")
def batch(trainer: EchoTrainer) -> TrainingBatch:
    while True:
        made = trainer.batch()
        if made.pixel_values is not None and made.mel is not None:
            return made


@pytest.fixture
def turning(trainer: EchoTrainer) -> Iterator[None]:
    with sync_rope(trainer.adapter):
        yield


def test_a_row_for_each_question(batch: TrainingBatch) -> None:
    rows = QuestionRows.of(batch)
    assert rows.clip.tolist() == [clip for clip, asked in enumerate(batch.questions) for _ in asked]
    assert int((rows.target != IGNORE).sum()) == int((batch.target != IGNORE).sum())
    for row, asked in enumerate(rows.asked):
        # The question ends where the answer's first token is next; none of the answer counts.
        first = int((rows.target[row] != IGNORE).nonzero()[0])
        assert asked.nonzero()[:, 0].tolist() == list(range(first + 1))
        assert torch.equal(rows.position[row, : first + 1], torch.arange(first + 1))


@pytest.mark.usefixtures("turning")
def test_scores_do_not_see_the_answer(trainer: EchoTrainer, batch: TrainingBatch) -> None:
    """The leak test; of the question they see everything."""
    rows = QuestionRows.of(batch)
    answer = ~rows.asked
    seen = rows.asked.nonzero()[0]
    others = {
        "answer": replace(rows, ids=torch.where(answer, 5, rows.ids)),
        "question": replace(rows, ids=rows.ids.index_put(tuple(seen), torch.tensor(5))),
    }
    found = {}
    with torch.no_grad():
        for name, given in {"as it is": rows, **others}.items():
            prompts = refined_prompts(trainer.model, trainer.sieve, batch, given)
            found[name] = trainer.sieve.scores(prompts.states[:, prompts.pool])
    assert torch.equal(found["answer"], found["as it is"])
    assert not torch.equal(found["question"][0], found["as it is"][0])


@pytest.mark.usefixtures("turning")
def test_everything_gathered_is_everything(trainer: EchoTrainer, batch: TrainingBatch) -> None:
    """The order test."""
    rows = QuestionRows.of(batch)
    with torch.no_grad():
        prompts = refined_prompts(trainer.model, trainer.sieve, batch, rows)
        keep, mask = kept_tokens(trainer.sieve, prompts, 1.0)
        gathered = answer_logits(trainer.model, prompts, rows, keep, mask)
        everything = torch.ones_like(keep)
        expected = answer_logits(trainer.model, prompts, rows, everything, None)
    assert bool(keep.all())
    torch.testing.assert_close(gathered, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("turning")
def test_the_gradients_path(trainer: EchoTrainer, batch: TrainingBatch) -> None:
    """To the head through the softmax: dL/ds_j = y_j (G_j - sum of y_i G_i over the kept)."""
    rows, model, sieve = QuestionRows.of(batch), trainer.model, trainer.sieve
    prompts = refined_prompts(model, sieve, batch, rows)
    keep, mask = kept_tokens(sieve, prompts, 0.1)
    pool = prompts.pool
    budget = keep[:, pool].sum(1)
    assert bool((budget == -(-len(pool) // 10)).all())
    torch.testing.assert_close(mask, keep.float())
    scores = sieve.scores(prompts.states[:, pool]).detach().requires_grad_()
    soft = scores.softmax(-1)
    gate = torch.ones_like(mask)
    gate[:, pool] = keep[:, pool].float() - soft.detach() + soft
    gate.retain_grad()
    loss = answer_logits(model, prompts, rows, keep, gate).square().mean()
    loss.backward(retain_graph=True)
    assert gate.grad is not None
    wanted = gate.grad[:, pool] * keep[:, pool]
    weighed = soft * (wanted - (soft * wanted).sum(-1, keepdim=True))
    torch.testing.assert_close(scores.grad, weighed, atol=1e-7, rtol=1e-3)
    model.zero_grad()
    loss = answer_logits(model, prompts, rows, keep, mask).square().mean()
    loss.backward()
    for part in (sieve, model.model.language_model.layers):
        gradients = [value.grad for value in part.parameters()]
        assert all(
            gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients
        )
    assert all(bool(value.grad.any()) for value in sieve.parameters() if value.ndim > 1)
    for part in (model.model.visual, model.model.audio_tower):
        assert all(value.grad is None for value in part.parameters())
    trainer.optimizer.zero_grad()


def clip_inputs(model: Any, batch: TrainingBatch, ids: torch.Tensor, clip: int) -> dict[str, Any]:
    """Inputs of a prompt about one clip of a batch."""
    pixels, mel = batch.pixel_values, batch.mel
    assert pixels is not None
    assert mel is not None
    patches = len(pixels) // batch.size
    return {
        "input_ids": ids[None],
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values_videos": pixels[clip * patches :][:patches],
        "video_grid_thw": torch.tensor([batch.layout.grid_thw]),
        "video_second_per_grid": torch.tensor([batch.layout.seconds_per_grid]),
        "input_features": mel[clip][None],
        "feature_attention_mask": torch.ones(1, mel.shape[2], dtype=torch.long),
        "use_audio_in_video": True,
    }


def test_steps_and_the_engine(batch: TrainingBatch, tmp_path: Path) -> None:
    """The loss falls, encoders stay, and the saved checkpoint selects as the recipe does."""
    trainer = EchoTrainer(steps=8, warm_up=2, retain=0.2, tokens=300, level=0.0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.step(batch) for _ in range(8)]
    assert sum(losses[-2:]) < 0.6 * sum(losses[2:4])
    learnt = {n for n, value in trainer.model.state_dict().items() if (value != before[n]).any()}
    assert any(".language_model.layers." in name for name in learnt)
    assert not any("visual" in name or "audio_tower" in name for name in learnt)
    trainer.save(tmp_path)

    # Trained further from there, and run by the engine: rounded to float16 in both.
    again = EchoTrainer(str(tmp_path), warm_up=0, tokens=300, level=0.0)
    loaded = load_model(str(tmp_path), device="cpu")
    assert loaded.adapter.own_settings()["rope_sections"] == [5, 4, 4, 3]
    rows, length = QuestionRows.of(batch), len(batch.prefix_ids)
    with torch.no_grad(), sync_rope(again.adapter):
        prompts = refined_prompts(again.model, again.sieve, batch, rows)
        keep, mask = kept_tokens(again.sieve, prompts, 0.2)
        expected = answer_logits(again.model, prompts, rows, keep, mask)
    config = SeatsConfig(method="echoingpixels", retain_video=0.2, retain_audio=0.2)
    for row in (0, len(rows.clip) - 1):
        asked = int(rows.asked[row].sum())
        ids = torch.cat([batch.prefix_ids, rows.ids[row, :asked]])
        given = clip_inputs(loaded.model, batch, ids, int(rows.clip[row]))
        with torch.no_grad(), prune(loaded.model, config) as run:
            logits = loaded.model(**given).logits[0, -1]
        assert torch.equal(run.trace.stages[0].kept, keep[row, : length + asked].nonzero()[:, 0])
        if not row:
            torch.testing.assert_close(logits, expected[0], atol=1e-3, rtol=1e-3)
    # What prunes nothing and knows no refiner turns by the same angles.
    with torch.no_grad(), sync_rope(again.adapter):
        raw = refined_prompts(again.model, None, batch, rows)
        everything = torch.ones(raw.states.shape[:2], dtype=torch.bool)
        of_plain = answer_logits(again.model, raw, rows, everything, None)[0]
    asked = int(rows.asked[0].sum())
    ids = torch.cat([batch.prefix_ids, rows.ids[0, :asked]])
    given = clip_inputs(loaded.model, batch, ids, 0)
    with torch.no_grad(), installed(RunSwaps(loaded.adapter, pruned=False)):
        unpruned = loaded.model(**given).logits[0, -1]
    torch.testing.assert_close(unpruned, of_plain, atol=1e-3, rtol=1e-3)
