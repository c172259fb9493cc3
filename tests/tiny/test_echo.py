"""EchoingPixels' recipe: where gradients go, what scores see, and that the engine does the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.prune import prune
from seats_cli.engine.session import load_model
from seats_cli.models.optimize import RunSwaps, installed, sync_rope, sync_sections
from seats_cli.training.echo import (
    EchoSettings,
    EchoTrainer,
    QuestionRows,
    answer_logits,
    kept_tokens,
    refined_prompts,
)
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.world.vocabulary import IGNORE
from tests.tiny.clip_inputs import clip_inputs

TINY = EchoSettings(steps=30, warm_up=2, pairs=1, tokens=200, level=0.0)


@pytest.fixture(scope="module")
def trainer() -> EchoTrainer:
    return EchoTrainer(TINY)


@pytest.fixture(scope="module")
def batch(trainer: EchoTrainer) -> TrainingBatch:
    made = trainer.batch()
    assert made.pixel_values is not None
    assert made.mel is not None
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
def test_answers_are_put_back(trainer: EchoTrainer, batch: TrainingBatch) -> None:
    """And with a blind refiner, so is the question."""
    rows, language = QuestionRows.of(batch), trainer.model.model.language_model
    raw = language.embed_tokens(rows.ids)
    with torch.no_grad():
        prompts, unasked = (
            refined_prompts(trainer.model, trainer.sieve, batch, rows, blind=blind)
            for blind in (False, True)
        )
    behind = prompts.states[:, prompts.prefix :]
    assert torch.equal(behind[~rows.asked], raw[~rows.asked])
    assert not torch.isclose(behind[rows.asked], raw[rows.asked]).all(-1).any()
    assert torch.equal(unasked.states[:, prompts.prefix :], raw)
    same = rows.clip == rows.clip[0]
    of_clip = unasked.states[same][:, prompts.pool]
    assert int(same.sum()) > 1
    torch.testing.assert_close(of_clip[0], of_clip[-1])


@pytest.mark.usefixtures("turning")
def test_a_causal_refiner_sees_what_came_before(trainer: EchoTrainer, batch: TrainingBatch) -> None:
    """It is a stack of the decoder's own layers, then, from which it was copied."""
    rows, language = QuestionRows.of(batch), trainer.model.model.language_model
    with torch.no_grad():
        raw = refined_prompts(trainer.model, None, batch, rows)
        refined = refined_prompts(trainer.model, trainer.sieve, batch, rows, causal=True)
        rotary = language.rotary_emb(raw.states, raw.positions)
        states, length = raw.states, raw.states.shape[1]
        mask = torch.full((1, 1, length, length), -torch.inf).triu(1)
        for layer in language.layers[: len(trainer.sieve.refiner)]:
            states = layer(states, attention_mask=mask, position_embeddings=rotary)
    seen = torch.cat([torch.ones(len(rows.clip), raw.prefix, dtype=torch.bool), rows.asked], dim=1)
    expected = torch.where(seen[..., None], states, raw.states)
    torch.testing.assert_close(refined.states, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("share", [1.0, 0.2])
@pytest.mark.usefixtures("turning")
def test_what_is_gathered_keeps_its_order(
    trainer: EchoTrainer, batch: TrainingBatch, share: float
) -> None:
    """The order test: transformers' own decoder on the tokens that stay, at their positions."""
    rows, model = QuestionRows.of(batch), trainer.model
    found = []
    with torch.no_grad():
        prompts = refined_prompts(model, trainer.sieve, batch, rows)
        keep, mask = kept_tokens(trainer.sieve, prompts, share)
        gathered = answer_logits(model, prompts, rows, keep, mask)
        for row, kept in enumerate(keep):
            states = model.model.language_model(
                inputs_embeds=prompts.states[row, kept][None],
                position_ids=prompts.positions[:, row, kept][:, None],
                attention_mask=torch.ones(1, int(kept.sum()), dtype=torch.long),
                use_cache=False,
            ).last_hidden_state[0]
            behind = states[-rows.ids.shape[1] :]
            found.append(model.lm_head(behind[rows.target[row] != IGNORE]))
    assert bool(keep.all()) == (share == 1.0)
    torch.testing.assert_close(gathered, torch.cat(found), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tau", [1.0, 2.0])
@pytest.mark.usefixtures("turning")
def test_the_gradient_of_a_score(trainer: EchoTrainer, batch: TrainingBatch, tau: float) -> None:
    """Through the softmax: dL/ds_j = y_j (G_j - sum of y_i G_i over the kept) / tau."""
    rows, model = QuestionRows.of(batch), trainer.model
    with torch.no_grad():
        prompts = refined_prompts(model, trainer.sieve, batch, rows)
    pool = prompts.pool
    scores = torch.randn(len(rows.clip), len(pool), requires_grad=True)
    given: Any = SimpleNamespace(scores=lambda states: scores)
    keep, mask = kept_tokens(given, prompts, 0.1, tau=tau)
    chosen = keep[:, pool]
    assert bool((chosen.sum(1) == -(-len(pool) // 10)).all())
    torch.testing.assert_close(mask, keep.float())
    mask.retain_grad()
    answer_logits(model, prompts, rows, keep, mask).square().mean().backward()
    assert mask.grad is not None
    of_mask, soft = mask.grad[:, pool], (scores.detach() / tau).softmax(-1)
    assert not bool(of_mask[~chosen].any())
    wanted = soft * (of_mask - (soft * of_mask).sum(-1, keepdim=True)) / tau
    assert bool(wanted[~chosen].any())  # what is dropped learns, too
    torch.testing.assert_close(scores.grad, wanted, atol=1e-8, rtol=1e-3)
    trainer.optimizer.zero_grad()


@pytest.mark.usefixtures("turning")
def test_the_gradients_path(trainer: EchoTrainer, batch: TrainingBatch) -> None:
    """To the whole decoder and the sieve, and to no encoder."""
    rows, model, sieve = QuestionRows.of(batch), trainer.model, trainer.sieve
    prompts = refined_prompts(model, sieve, batch, rows)
    keep, mask = kept_tokens(sieve, prompts, 0.1)
    answer_logits(model, prompts, rows, keep, mask).square().mean().backward()
    for part in (sieve, model.model.language_model):
        gradients = [value.grad for value in part.parameters()]
        assert all(
            gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients
        )
    assert all(bool(value.grad.any()) for value in sieve.parameters() if value.ndim > 1)
    # A softmax does not see what is added to all scores.
    head = sieve.score_head
    assert float(head[2].bias.grad.abs()) < 1e-4 * float(head[2].weight.grad.abs().max())
    for part in (model.model.visual, model.model.audio_tower):
        assert all(value.grad is None for value in part.parameters())
    trainer.optimizer.zero_grad()


def saying(answer: list[int], start: int) -> Callable[[int, torch.Tensor], list[int]]:
    """What makes `generate` say these tokens behind a prompt of `start`."""
    return lambda _, so_far: [answer[len(so_far) - start]]


def test_steps_and_the_engine(batch: TrainingBatch, tmp_path: Path) -> None:
    """The loss falls, encoders stay, and the saved checkpoint selects as the recipe does."""
    trainer = EchoTrainer(replace(TINY, retain=0.2))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    losses = [trainer.step([batch]) for _ in range(30)]
    assert sum(losses[-2:]) < 0.3 * sum(losses[2:4])
    learnt = {n for n, value in trainer.model.state_dict().items() if (value != before[n]).any()}
    assert any(".language_model.layers." in name for name in learnt)
    assert not any("visual" in name or "audio_tower" in name for name in learnt)
    trainer.save(tmp_path)

    # Trained further from there, and run by the engine: rounded to float16 in both.
    again = EchoTrainer(replace(TINY, model=str(tmp_path)))
    loaded = load_model(str(tmp_path), device="cpu")
    sections = list(sync_sections(loaded.architecture.head_dim))
    assert loaded.adapter.own_settings()["rope_sections"] == sections
    rows, length = QuestionRows.of(batch), len(batch.prefix_ids)
    with torch.no_grad(), sync_rope(again.adapter):
        prompts = refined_prompts(again.model, again.sieve, batch, rows)
        keep, mask = kept_tokens(again.sieve, prompts, 0.2)
        expected = answer_logits(again.model, prompts, rows, keep, mask)
    config = SeatsConfig(method="echoingpixels", retain_video=0.2, retain_audio=0.2)
    for row in (0, len(rows.clip) - 1):
        asked = int(rows.asked[row].sum())
        ids = torch.cat([batch.prefix_ids, rows.ids[row, :asked]])
        given = clip_inputs(batch, ids, int(rows.clip[row]))
        with torch.no_grad(), prune(loaded.model, config) as run:
            logits = loaded.model(**given).logits[0, -1]
        assert torch.equal(run.trace.stages[0].kept, keep[row, : length + asked].nonzero()[:, 0])
        if not row:
            torch.testing.assert_close(logits, expected[0], atol=1e-3, rtol=1e-3)
            # Behind a part of the answer, which no prefill has seen.
            answer = rows.target[0][rows.target[0] != IGNORE].tolist()
            with prune(loaded.model, config):
                out = loaded.model.generate(
                    **given,
                    max_new_tokens=len(answer),
                    do_sample=False,
                    prefix_allowed_tokens_fn=saying(answer, len(ids)),
                    output_logits=True,
                    return_dict_in_generate=True,
                )
            later = torch.cat(out.logits)
            assert len(later) == len(answer) > 1
            torch.testing.assert_close(later, expected[: len(answer)], atol=1e-3, rtol=1e-3)
    # What prunes nothing and knows no refiner turns by the same angles.
    with torch.no_grad(), sync_rope(again.adapter):
        raw = refined_prompts(again.model, None, batch, rows)
        everything = torch.ones(raw.states.shape[:2], dtype=torch.bool)
        of_plain = answer_logits(again.model, raw, rows, everything, None)[0]
    asked = int(rows.asked[0].sum())
    ids = torch.cat([batch.prefix_ids, rows.ids[0, :asked]])
    given = clip_inputs(batch, ids, 0)
    with torch.no_grad(), installed(RunSwaps(loaded.adapter, pruned=False)):
        unpruned = loaded.model(**given).logits[0, -1]
    torch.testing.assert_close(unpruned, of_plain, atol=1e-3, rtol=1e-3)
