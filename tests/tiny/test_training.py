"""A few steps of a micro model: finite losses, resuming, exporting."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, Qwen2Tokenizer

from seats_cli.models.optimize import SEGMENTS, encoder_attention
from seats_cli.training import build, train
from seats_cli.training.build import (
    build_config,
    build_model,
    export,
    lookup_layers,
    start_encoders_from,
)
from seats_cli.training.forward import Thinker, encode, packed_attention, packed_mask
from seats_cli.training.held_out import as_clip, blanked, held_out_clips
from seats_cli.training.hyperparameters import Hyperparameters, Phase
from seats_cli.training.minibatch import drill_batch, long_batch, token_count
from seats_cli.training.objective import (
    Muon,
    Naming,
    draw_thinning,
    orthogonalised,
    split_parameters,
)
from seats_cli.training.train import Trainer
from seats_cli.world.vocabulary import IGNORE
from seats_cli.world.voices import WORDS


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


def test_a_resumed_run_keeps_its_tokenizer_when_the_wording_has_changed(
    finished: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new_wording() -> Qwen2Tokenizer:
        raise AssertionError("the tokenizer of the run is there")

    monkeypatch.setattr(train, "build_tokenizer", new_wording)
    again = Trainer(finished.settings, finished.out)
    text = "Which word is said while the red square is on the left? <|VIDEO|> banana"
    first, second = (run.processor.tokenizer for run in (finished, again))
    assert first.encode(text) == second.encode(text)
    assert first.get_vocab() == second.get_vocab()


def test_exported_folder_loads(finished: Trainer, tmp_path: Path) -> None:
    export(finished.model, finished.processor, tmp_path)
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        tmp_path, dtype=torch.float32
    )
    assert model.config.seats["max_pixels"] == 308 * 336
    weights = (model.model.visual.patch_embed.proj.weight, finished.model.model.visual)
    torch.testing.assert_close(weights[0], weights[1].patch_embed.proj.weight, atol=1e-3, rtol=1e-3)


def test_the_state_of_a_run_can_be_exported_before_its_end(tmp_path: Path) -> None:
    trainer = Trainer(Hyperparameters(), tmp_path)
    trainer.save()
    build.main([str(tmp_path / "state.pt"), str(tmp_path / "model")])
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        tmp_path / "model", dtype=torch.float32
    )
    ours, theirs = (m.model.language_model.embed_tokens.weight for m in (trainer.model, model))
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    saved = Qwen2Tokenizer.from_pretrained(tmp_path / "model")
    assert saved.get_vocab() == trainer.processor.tokenizer.get_vocab()


def test_every_trained_parameter_has_one_optimiser(micro_model: Thinker) -> None:
    matrices, rest = split_parameters([micro_model.model])
    assert all(parameter.ndim == 2 for parameter in matrices)
    ids = {id(parameter) for parameter in (*matrices, *rest)}
    assert len(ids) == len(matrices) + len(rest)
    left_out = [
        name for name, parameter in micro_model.named_parameters() if id(parameter) not in ids
    ]
    assert left_out == ["model.audio_tower.audio_bos_eos_token.weight"]


def test_encoders_may_start_from_a_saved_model(finished: Trainer, tmp_path: Path) -> None:
    export(finished.model, finished.processor, tmp_path)
    model = build_model(finished.model.config)
    words = model.model.language_model.embed_tokens.weight.clone()
    start_encoders_from(model, tmp_path)
    for name in ("visual", "audio_tower"):
        pairs = zip(
            getattr(model.model, name).parameters(),
            getattr(finished.model.model, name).parameters(),
            strict=True,
        )
        for mine, other in pairs:
            torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-3)
    assert torch.equal(model.model.language_model.embed_tokens.weight, words)


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (8, 8)])
def test_muon_is_that_of_torch_but_for_rounding(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(weight.clone()) for _ in range(2))
    pair = Muon([ours], 0.1), torch.optim.Muon([theirs], 0.1, weight_decay=0.01)
    for _ in range(3):
        gradient = torch.randn(shape)
        for parameter, optimiser in zip((ours, theirs), pair, strict=True):
            parameter.grad = gradient.clone()
            optimiser.step()  # type: ignore[no-untyped-call]
    moved = (ours - weight).norm()
    assert (ours - theirs).norm() < 0.03 * moved  # bfloat16 there
    spread = torch.linalg.svdvals(orthogonalised(torch.randn(4, 16, 8)))
    assert ((spread > 0.6) & (spread < 1.3)).all()


def test_drills_come_in_their_share_and_at_the_same_steps_for_all(finished: Trainer) -> None:
    assert [finished._is_drill(step) for step in range(6)] == [False, True] * 3


def test_no_step_begins_while_the_pause_file_is_there(tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    pause.touch()
    trainer = Trainer(micro_run(), tmp_path, pause=pause)
    waiter = threading.Thread(target=lambda: next(iter(trainer._batches())))
    waiter.start()
    waiter.join(2.0)
    assert waiter.is_alive()
    assert (tmp_path / "state.pt").exists()  # so it may as well be killed
    pause.unlink()
    waiter.join(30.0)
    assert not waiter.is_alive()


def test_rates_rise_stay_and_fall(finished: Trainer) -> None:
    long = dataclasses.replace(finished.phase, steps=1000, warmup_steps=100, decay_share=0.25)
    trainer = Trainer(dataclasses.replace(finished.settings, phases=(long,)), finished.out)
    rates = []
    for step in (0, 99, 700, 875, 1000):
        trainer.step = step
        trainer._set_rates()
        rates.append(trainer.muon.param_groups[0]["lr"] / long.muon_rate)
    assert rates == pytest.approx([0.01, 1.0, 1.0, 0.515, 0.03])


def test_a_long_clip_comes_alone_and_is_thinned(processor: Any) -> None:
    rng = np.random.default_rng(1)
    batch = long_batch(rng, processor, tokens=(600, 1200), questions=3)
    assert batch.size == 1
    assert 600 <= token_count(batch.layout) <= 1200
    settings = Hyperparameters()
    drops = [draw_thinning(rng, 1.0, settings, long=True).video_drop for _ in range(50)]
    assert min(drops) >= settings.long_drop
    others = [draw_thinning(rng, 1.0, settings).video_drop for _ in range(50)]
    assert 0.0 in others


def test_long_steps_wait_for_full_difficulty_and_are_the_same_for_all(tmp_path: Path) -> None:
    trainer = Trainer(Hyperparameters(), tmp_path)
    trainer.phase_index = 1
    steps = trainer.phase.steps
    trainer.step = 0
    assert not any(trainer._is_long(step) for step in range(300))
    trainer.step = steps // 2
    share = np.mean([trainer._is_long(step) for step in range(steps)])
    assert 0.01 < share < 1 / trainer.settings.long_every + 0.001


def test_a_blanked_clip_keeps_its_size_and_nothing_else() -> None:
    clip = as_clip(next(iter(held_out_clips(1, shortest=2.0, longest=2.5)))[1])
    assert clip.frames is not None
    assert clip.audio is not None
    silent = blanked(clip, ["sound"])
    assert silent.frames is clip.frames
    assert silent.audio is not None
    assert silent.audio.shape == clip.audio.shape
    assert not silent.audio.any()
    grey = blanked(clip, ["picture", "sound"])
    assert grey.frames is not None
    assert grey.frames.shape == clip.frames.shape
    assert grey.frames.std() == 0
    assert blanked(clip, []) is clip


def test_naming_rewards_states_that_say_what_they_show(processor: Any) -> None:
    # A stand-in decoder with embeddings at right angles: a state that is a word's own row names it.
    tokenizer = processor.tokenizer
    naming = Naming(tokenizer)
    rows = torch.eye(len(tokenizer))
    model = SimpleNamespace(
        model=SimpleNamespace(language_model=SimpleNamespace(norm=lambda states: 20 * states)),
        lm_head=SimpleNamespace(weight=rows),
    )
    seven, dog = (tokenizer.encode(word)[0] for word in ("seven", "dog"))
    silent = torch.zeros(1, 4, dtype=torch.long)
    said = torch.tensor([[0, WORDS.index("seven") + 1, IGNORE, WORDS.index("dog") + 1]])
    labels = {"word": said, "kind": silent}
    states = rows[[seven, seven, dog, dog]][None]
    loss, figures = naming.loss(model, "audio", states, labels)
    assert figures == {"named.audio.word": 1.0}
    assert loss < 0.01
    loss, figures = naming.loss(model, "audio", states.flip(1), labels)
    assert figures == {"named.audio.word": 0.0}
    assert loss > 5
    nothing = {"word": silent, "kind": silent}
    assert naming.loss(model, "audio", states, nothing) == (0.0, {})


def test_the_joint_phase_begins_with_encoders_as_loud_as_words(tmp_path: Path) -> None:
    settings = micro_run()
    trainer = Trainer(settings, tmp_path)
    trainer.phase_index = 1
    trainer.begin_phase()
    batch = drill_batch(np.random.default_rng(5), trainer.processor, tokens=400)
    for states in encode(trainer.model, batch):
        assert states is not None
        level = float(states.detach().square().mean().sqrt())
        assert level == pytest.approx(settings.encoder_level, rel=0.2)
    words = trainer.model.model.language_model.embed_tokens.weight
    assert float(words.detach().square().mean().sqrt()) == pytest.approx(1.0, rel=0.02)
    trainer.save()
    resumed = Trainer(settings, tmp_path)
    resumed.resume()
    before, after = (run.model.model.audio_tower.proj.weight for run in (trainer, resumed))
    torch.testing.assert_close(before, after)  # not made louder again


def test_words_are_spelled_alike_with_and_without_a_blank(tmp_path: Path) -> None:
    trainer = Trainer(micro_run(), tmp_path)
    tokenizer = trainer.processor.tokenizer
    rows = trainer.model.model.language_model.embed_tokens.weight.detach()
    (alone,), (behind,) = tokenizer.encode("seven"), tokenizer.encode(" seven")
    (other,) = tokenizer.encode(" dog")
    assert alone != behind
    alike = torch.nn.functional.cosine_similarity(rows[[alone, alone]], rows[[behind, other]])
    assert alike[0] > 0.6
    assert abs(alike[1]) < 0.5


def test_attention_begins_as_a_copy(processor: Any) -> None:
    """What a token looks at in a lookup layer is in its state right away."""
    model = build_model(build_config(processor.tokenizer))
    language = model.model.language_model
    rows = language.embed_tokens.weight.detach()
    for index in (0, lookup_layers(model)[0]):
        attention = language.layers[index].self_attn
        fetched = attention.o_proj(attention.v_proj(rows[40:60])).detach()
        nearest = (fetched @ rows.T).argmax(dim=1)
        assert float((nearest == torch.arange(40, 60)).float().mean()) > 0.8, index


def test_half_precision_attention_is_nearly_the_fused_one() -> None:
    torch.manual_seed(0)
    mask = packed_mask(torch.tensor([[0] * 5 + [1, 1, 2, -1], [0] * 5 + [1, 2, 2, 2]]))
    query, key, value = (torch.randn(2, 2, 9, 8) for _ in range(3))
    exact, _ = packed_attention(None, query, key, value, mask, prefix_length=5, scaling=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = packed_attention(None, query, key, value, mask, prefix_length=5, scaling=0.3)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.03, rtol=0.03)
