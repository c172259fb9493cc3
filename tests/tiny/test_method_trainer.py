"""What recipes share: draws, steps of several batches, resuming, what is refused and recorded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from seats_cli.engine.session import load_model
from seats_cli.errors import ModelError, UsageError
from seats_cli.families.registry import BUNDLED_PATH
from seats_cli.training import echo, sift
from seats_cli.training.echo import EchoSettings, EchoTrainer
from seats_cli.training.held_out import Answers
from seats_cli.training.method_trainer import pairs_of, rate_at, train
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.training.sift import SiftSettings, SiftTrainer
from tests.models.checkpoints import write_checkpoint

ECHO = EchoSettings(steps=3, warm_up=1, pairs=1, tokens=200, level=0.0, checks=1, check_clips=1)
SIFT = SiftSettings(steps=3, pairs=1, tokens=200, questions=1, level=0.0, checks=1, check_clips=1)


def test_settings_do_not_change_the_clips() -> None:
    """Nor the head's first weights: runs that are compared differ in what is compared."""
    one = EchoTrainer(replace(ECHO, retain=0.2))
    other = EchoTrainer(replace(ECHO, layers=0, plain=0.5, gumbel=True))
    assert len(one.sieve.refiner) == 2
    assert not other.sieve.refiner
    for name, value in one.sieve.score_head.state_dict().items():
        assert torch.equal(value, other.sieve.score_head.state_dict()[name])
    seen: list[torch.Tensor] = []
    for trainer in (one, other):
        drawn = [trainer.batch()]
        trainer.step(drawn)
        drawn.append(trainer.batch())
        assert not torch.equal(drawn[0].question_ids, drawn[1].question_ids)
        seen += [made.question_ids for made in drawn]
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_a_step_has_its_pairs() -> None:
    """Batches are added up until there are enough, each by what it has of them."""
    trainer = SiftTrainer(replace(SIFT, pairs=6, ratios=((0.5, 0.5),)))
    batches = list(trainer.batches())
    assert len(batches) > 1
    assert sum(map(pairs_of, batches[:-1])) < 6 <= sum(map(pairs_of, batches))
    trainer.step(batches)
    weights = list(trainer.selector.parameters())
    together = [value.grad.clone() for value in weights if value.grad is not None]
    apart = [torch.zeros_like(value) for value in weights]
    trainer = SiftTrainer(trainer.settings)
    weights = list(trainer.selector.parameters())
    for batch in batches:
        found = trainer.answers(batch, 0)
        loss = torch.nn.functional.cross_entropy(found.logits, found.target)
        for sum_, value in zip(apart, torch.autograd.grad(loss, weights), strict=True):
            sum_ += value * pairs_of(batch) / sum(map(pairs_of, batches))
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-3)


def test_a_resumed_run_is_the_run(tmp_path: Path) -> None:
    whole = SiftTrainer(SIFT)
    for _ in range(3):
        whole.step()
    first = SiftTrainer(SIFT)
    first.step()
    first.save_state(tmp_path)
    again = SiftTrainer(SIFT)
    again.resume(tmp_path)
    while again.steps_done < 3:
        again.step()
    for name, value in whole.selector.state_dict().items():
        assert torch.equal(value, again.selector.state_dict()[name])
    with pytest.raises(UsageError, match=r"begun with `seed` 0 and not 1"):
        SiftTrainer(replace(SIFT, seed=1)).resume(tmp_path)


def test_a_whole_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It measures before, after the warm-up and in the end, and says what that comes to."""
    trainer = EchoTrainer(ECHO)
    seats = trainer.model.config.seats
    assert seats["rope_sections"]
    with torch.no_grad():
        for layer in trainer.sieve.refiner:
            for value in layer.parameters():
                value.normal_()
    train(trainer, tmp_path)
    assert trainer.model.config.seats == seats
    record = json.loads((tmp_path / "training.json").read_text())
    marks = record["held_out_accuracy"]
    assert set(marks) == {"before", "after the warm-up", "after"}
    assert {"refined", "5 %", "10 %", "20 %", "30 %", "plain"} <= set(marks["after"])
    # One step does not teach the decoder states out of a refiner of noise.
    assert marks["after the warm-up"]["refined"] < 0.97 * marks["before"]["start"]
    assert "below 97 % of the" in caplog.text
    assert "are no comparison" in caplog.text
    assert not (tmp_path / "state.pt").exists()
    with pytest.raises(UsageError, match="holds a checkpoint already"):
        EchoTrainer(ECHO).resume(tmp_path)
    # What the checkpoint has is not asked for again.
    there = replace(ECHO, model=str(tmp_path))
    with pytest.raises(UsageError, match="a refiner of 2 already"):
        EchoTrainer(replace(there, layers=4))
    with pytest.raises(UsageError, match="Sync-RoPE already"):
        EchoTrainer(replace(there, sync=False))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (replace(ECHO, steps=0), "`steps` is 0"),
        (replace(ECHO, warm_up=3), "`warm_up` is 3, of 3 `steps`"),
        (replace(ECHO, retain=0.0), "`retain` is 0.0"),
        (replace(ECHO, plain=1.0), "`plain` is 1.0"),
        (replace(ECHO, tau=0.0), "`tau` is 0.0"),
        (replace(ECHO, layers=20), "`layers` is 20"),
        (replace(SIFT, selector_steps=1), "`selector_steps` needs `decoder`"),
        (replace(SIFT, decoder=True, selector_steps=3), "`selector_steps` is 3"),
        (replace(SIFT, ratios=((0.5, 0.0),)), "`ratios` are shares"),
        (replace(SIFT, seed=-1), "`seed` is -1"),
    ],
)
def test_what_is_refused(settings: Any, sentence: str) -> None:
    build: Any = EchoTrainer if isinstance(settings, EchoSettings) else SiftTrainer
    with pytest.raises(UsageError) as caught:
        build(settings)
    assert str(caught.value).startswith(sentence)


def test_another_family(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, "qwen3_omni_moe")
    with pytest.raises(ModelError, match=r"small Qwen2\.5-Omni models"):
        SiftTrainer(replace(SIFT, model=str(tmp_path)))


@pytest.mark.parametrize("recipe", [sift, echo])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "0"], "--steps is 0: it has to be 1 at least."),
        (["--checks", "-1"], "--checks is -1: it has to be 0 at least."),
    ],
)
def test_one_sentence_at_the_command_line(
    recipe: Any, flags: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        recipe.main(["--out", str(tmp_path), *flags])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.strip().endswith(words)
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_frames_that_the_model_scales(tmp_path: Path) -> None:
    """Clips of full difficulty have frames as large as the bundled model reads, and no larger."""
    assert not SiftTrainer(replace(SIFT, level=1.0)).notices
    smaller = tmp_path / "model"
    shutil.copytree(BUNDLED_PATH, smaller)
    values = json.loads((smaller / "config.json").read_text())
    values["seats"]["max_pixels"] -= 28 * 28
    (smaller / "config.json").write_text(json.dumps(values))
    most = SiftTrainer(replace(SIFT, level=1.0, model=str(smaller))).notices
    assert ["give a `model` that reads larger ones" in said for said in most] == [True]
    assert not SiftTrainer(replace(SIFT, model=str(smaller))).notices


def test_the_rate_of_a_phase() -> None:
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[4] == 1.0 == max(rates)
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.01


@pytest.mark.parametrize(("plain", "said"), [(0.0, True), (0.25, False)])
def test_a_decoder_that_knows_refined_states_alone(
    plain: float, said: bool, tmp_path: Path
) -> None:
    EchoTrainer(replace(ECHO, plain=plain)).save(tmp_path)
    notices = load_model(str(tmp_path), device="cpu").notices
    assert len(notices) == said
    assert all("trained on what 'echoingpixels' makes" in notice for notice in notices)
    # A file of somebody else, without a recipe or broken, is no reason for a notice or an error.
    for content in (b"", b"\x02" + bytes(7) + b"{}"):
        (tmp_path / "echoingpixels.safetensors").write_bytes(content)
        assert not load_model(str(tmp_path), device="cpu").notices


@pytest.mark.parametrize("way", ["blind", "causal"])
def test_weights_of_another_way_are_for_no_method(way: str, tmp_path: Path) -> None:
    trainer = EchoTrainer(replace(ECHO, sync=False, **{way: True}))
    trainer.save(tmp_path)
    assert EchoTrainer(replace(ECHO, model=str(tmp_path), sync=False)).stored() is None
    # The decoder, which was trained with it, is for no method either.
    assert len(load_model(str(tmp_path), device="cpu").notices) == 1


def test_a_refiner_keeps_its_angles(tmp_path: Path) -> None:
    EchoTrainer(replace(ECHO, sync=False)).save(tmp_path)
    with pytest.raises(UsageError, match="give `stock_rope`"):
        EchoTrainer(replace(ECHO, model=str(tmp_path)))


def test_an_answer_is_right_if_all_of_it_is() -> None:
    """Held-out accuracy counts questions, by their tokens."""
    trainer = SiftTrainer(SIFT)
    batch = trainer.batch()

    def perfect(batch: TrainingBatch) -> Answers:
        found = trainer.under("start", batch)
        said = torch.nn.functional.one_hot(found.target, found.logits.shape[-1]).float()
        return found._replace(logits=said)

    assert len(set(perfect(batch).question.tolist())) == pairs_of(batch)
