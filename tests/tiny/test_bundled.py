"""The shipped checkpoint answers questions about real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seats_cli.media import read_clip
from seats_cli.models import LoadedModel, load_model
from seats_cli.models.load import BUNDLED_PATH
from seats_cli.training.held_out import answer, evaluate, held_out_clips
from seats_cli.world.clips import write_mp4
from seats_cli.world.drawing import render_frames
from seats_cli.world.scene import Scene, SceneSegment
from seats_cli.world.sounds import Sound, synthesise

MOST_BYTES = 16 * 2**20


@pytest.fixture(scope="module")
def bundled() -> LoadedModel:
    return load_model("bundled", device="cpu", dtype="float32")


def test_it_is_small_and_complete() -> None:
    names = {path.name for path in BUNDLED_PATH.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "processor_config.json",
        "chat_template.jinja",
        "MODEL_CARD.md",
        "seats.json",
    } <= names
    assert sum(path.stat().st_size for path in BUNDLED_PATH.iterdir()) < MOST_BYTES


def test_its_layers_are_in_order() -> None:
    settings = json.loads((BUNDLED_PATH / "seats.json").read_text())
    layers = [*settings["drop_layers"], settings["late_layer"]]
    assert len(settings["drop_layers"]) == 3
    assert layers == sorted(set(layers))


def test_most_answers_about_files_are_right(bundled: LoadedModel) -> None:
    report = evaluate(bundled, held_out_clips(4, longest=4.5), mp4=True)
    assert sum(report.asked.values()) >= 20
    assert sum(report.right.values()) / sum(report.asked.values()) > 0.85


def test_colour_cards_with_beeps(bundled: LoadedModel, tmp_path: Path) -> None:
    """The kind of file people make to try a model: three cards, a voice, two beeps."""
    colors = (("red", (253.0, 0.0, 0.0)), ("blue", (0.0, 0.0, 254.0)), ("green", (0.0, 127.0, 0.0)))
    words = ("ONE", "TWO", "THREE")
    segments = tuple(
        SceneSegment(4.0 * index, 4.0 * index + 4.0, name, rgb, None, words[index])
        for index, (name, rgb) in enumerate(colors)
    )
    scene = Scene(
        segments=segments,
        style="card",
        motion="still",
        speed=0.0,
        radius=0.2,
        start=(0.5, 0.5),
        texture=np.zeros((2, 2, 3)),
        softness=1.0,
        noise=0.0,
        block_noise=0.0,
        blur=False,
        seed=0,
    )
    sounds = (
        Sound("speech", 0.5, 2.7, 0.5, seed=1),
        Sound("beeps", 5.0, 6.5, 0.5, 1000.0, 1000.0, ((5.0, 5.5), (6.0, 6.5))),
        Sound("speech", 8.5, 10.2, 0.5, seed=2),
    )
    path = tmp_path / "cards.mp4"
    frames = render_frames(scene, np.arange(144) / 12.0, 180, 320)
    write_mp4(path, frames, 12.0, synthesise(sounds, 12 * 16_000, floor=0.0, seed=0))
    clip = read_clip(path, sizing=bundled.sizing)
    expected = {
        "What color is shown first?": "red",
        "What color is shown last?": "green",
        "What color is shown when the beeps sound?": "blue",
        "How many beeps are heard?": "2",
        "How many colors are shown?": "3",
    }
    given = {question: answer(bundled, clip, question) for question in expected}
    assert given == expected
