"""The answer loop on the bundled model and a clip made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.errors import ResourceError, UsageError
from seats_cli.families.base import SAMPLE_RATE
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.models import LoadedModel, build_inputs

COLORS = {"red": (220, 40, 40), "blue": (50, 80, 230), "green": (40, 180, 60)}


def cards(*names: str, seconds: int = 2, sound: bool = True) -> Clip:
    """Plain colour cards, `seconds` each, with a quiet tone."""
    frames = np.concatenate(
        [np.full((2 * seconds, 84, 140, 3), COLORS[name], np.uint8) for name in names]
    )
    total = seconds * len(names)
    time = np.arange(total * SAMPLE_RATE) / SAMPLE_RATE
    audio = (0.1 * np.sin(2 * np.pi * 440 * time)).astype(np.float32) if sound else None
    facts = MediaFacts("cards", "none", float(total), 0.0, float(total))
    return Clip(frames, np.arange(len(frames)) / 2, 2.0, audio, facts)


def test_stream_and_answer_are_the_same_text(loaded: LoadedModel) -> None:
    pieces: list[str] = []
    answer = ask(
        loaded,
        cards("red", "blue"),
        "Which color is shown first?",
        config=SeatsConfig(retain=0.35),
        on_text=pieces.append,
    )
    assert "".join(pieces).strip() == answer.text
    assert answer.finish_reason == "stop"
    assert len(answer.token_ids) == answer.timing.decode_tokens + 1
    assert answer.timing.first_token_s <= answer.timing.total_s


def test_unpruned_run_has_no_stages_and_full_cost(loaded: LoadedModel) -> None:
    answer = ask(loaded, cards("red"), "Which color?", config=None, max_new_tokens=2)
    assert answer.plan is None
    assert answer.trace.stages == []
    assert answer.cost.prefill_flops == answer.cost.full_prefill_flops
    assert answer.cost.kv_bytes == answer.cost.full_kv_bytes


def test_pruned_run_costs_less(loaded: LoadedModel) -> None:
    answer = ask(
        loaded,
        cards("red", "blue"),
        "List the colors in the order shown.",
        config=SeatsConfig.preset("10%"),
        max_new_tokens=1,
    )
    assert answer.cost.prefill_flops < 0.5 * answer.cost.full_prefill_flops
    assert answer.finish_reason == "length"
    assert answer.timing.select_s > 0


@pytest.mark.parametrize("config", [None, SeatsConfig(retain=0.35)], ids=["full", "pruned"])
def test_choices_equal_scoring_one_by_one(loaded: LoadedModel, config: SeatsConfig | None) -> None:
    clip, question = cards("red", "blue"), "Which color is shown last?"
    options = ("red", "blue", "red and then blue")
    answer = ask(loaded, clip, question, config=config, choices=options)
    assert sum(score.probability for score in answer.choices) == pytest.approx(1.0)
    assert answer.text == max(answer.choices, key=lambda score: score.probability).text
    if config is not None:  # one by one below needs the unpruned model
        return
    tokenizer, inputs = loaded.processor.tokenizer, build_inputs(loaded, clip, question)
    prompt, alone = inputs["input_ids"], []
    for option in options:
        tokens = [*tokenizer.encode(option, add_special_tokens=False), tokenizer.eos_token_id]
        inputs["input_ids"] = torch.cat([prompt, torch.tensor([tokens])], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with torch.no_grad():
            scores = loaded.model(**inputs).logits[0].log_softmax(-1)
        where = torch.arange(prompt.shape[1] - 1, inputs["input_ids"].shape[1] - 1)
        alone.append(scores[where, torch.tensor(tokens)].sum())
    expected = torch.stack(alone).softmax(0)
    found = torch.tensor([score.probability for score in answer.choices])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_seed_makes_sampling_repeatable(loaded: LoadedModel) -> None:
    def sample(seed: int) -> tuple[int, ...]:
        return ask(
            loaded,
            cards("red", "green"),
            "Tell me more.",
            config=None,
            temperature=5.0,
            seed=seed,
            max_new_tokens=8,
        ).token_ids

    assert sample(1) == sample(1)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_long_sound_is_not_cut(loaded: LoadedModel) -> None:
    """The Whisper feature extractor cuts at its own length unless told not to."""
    seconds = loaded.processor.feature_extractor.chunk_length + 5
    clip = cards("red", seconds=2)
    audio = np.zeros(seconds * SAMPLE_RATE, np.float32)
    inputs = build_inputs(loaded, Clip(None, None, None, audio, clip.facts), "What is heard?")
    assert int((inputs["input_ids"] == loaded.adapter.audio_token_id).sum()) == 25 * seconds


def test_no_sound_and_very_short_sound(loaded: LoadedModel) -> None:
    silent = ask(loaded, cards("red", sound=False), "Which color?", config=SeatsConfig())
    assert silent.trace.offered[1] == 0
    clip = cards("red")
    blip = Clip(clip.frames, clip.frame_times, clip.fps, np.zeros(10, np.float32), clip.facts)
    assert ask(loaded, blip, "Which color?", config=SeatsConfig()).trace.offered[1] >= 1


class TestRefusals:
    def test_empty_question(self, loaded: LoadedModel) -> None:
        with pytest.raises(UsageError, match="empty"):
            ask(loaded, cards("red"), "  ", config=None)

    def test_context_overflow(self, loaded: LoadedModel) -> None:
        with pytest.raises(ResourceError, match="context holds"):
            ask(loaded, cards("red"), "What?", config=None, max_new_tokens=100_000)

    @pytest.mark.parametrize(
        "setting",
        [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"choices": ["a"]}],
    )
    def test_impossible_settings(self, loaded: LoadedModel, setting: dict) -> None:
        with pytest.raises(UsageError):
            ask(loaded, cards("red"), "What?", config=None, **setting)
