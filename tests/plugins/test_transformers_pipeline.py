"""transformers' own `pipeline("any-to-any")` inside `prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from seats_cli import SeatsConfig, ask, load_model, prune, read_clip

CARDS = Path(__file__).parents[2] / "assets" / "cards_words_beeps_12s.mp4"

FIRST = "What color is shown first?"


@pytest.fixture(scope="module")
def pipe() -> Any:
    loaded = load_model("bundled", device="cpu")
    return pipeline("any-to-any", model=loaded.model, processor=loaded.processor, device="cpu")


@pytest.fixture(scope="module")
def conversation() -> list[dict[str, Any]]:
    loaded = load_model("bundled", device="cpu")
    clip = read_clip(CARDS, sizing=loaded.sizing)
    assert clip.frames is not None
    parts = [
        {"type": "video", "video": torch.from_numpy(clip.frames).permute(0, 3, 1, 2)},
        {"type": "audio", "audio": clip.audio},
        {"type": "text", "text": FIRST},
    ]
    return [{"role": "user", "content": parts}]


def answer(pipe: Any, conversation: list[dict[str, Any]]) -> str:
    copied = [{**turn, "content": list(turn["content"])} for turn in conversation]
    (found,) = pipe(
        text=copied,
        max_new_tokens=8,
        return_full_text=False,
        processor_kwargs={"videos_kwargs": {"do_sample_frames": False, "do_resize": False}},
    )
    return str(found["generated_text"])


def test_prune_around_a_pipeline(pipe: Any, conversation: list[dict[str, Any]]) -> None:
    full = answer(pipe, conversation)
    with prune(pipe.model, SeatsConfig(method="full")):
        assert answer(pipe, conversation) == full
    config = SeatsConfig.preset("25%")
    with prune(pipe.model, config) as run:
        pruned = answer(pipe, conversation)
    loaded = load_model("bundled", device="cpu")
    wanted = ask(loaded, read_clip(CARDS, sizing=loaded.sizing), FIRST, config=config)
    assert pruned.strip() == wanted.text == "red"
    assert run.trace.offered[:2] == wanted.trace.offered[:2]
    # Not token by token: the prompt around the clip is the checkpoint's own template.
    retained = wanted.trace.average_retention()
    assert run.trace.average_retention() == pytest.approx(retained, abs=0.01)
    assert answer(pipe, conversation) == full  # the model is as it was
