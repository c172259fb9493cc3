"""The shipped checkpoint answers questions about real files."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from seats_cli.evaluate.generated import synthetic_set
from seats_cli.media import read_clip
from seats_cli.models import LoadedModel, load_model
from seats_cli.models.load import BUNDLED_PATH
from seats_cli.training.held_out import answer, evaluate, held_out_clips, main
from seats_cli.world.clips import write_script
from seats_cli.world.layouts import file_layout
from seats_cli.world.script import Backdrop, Script, SpokenWord, Thing
from seats_cli.world.sounds import Sound

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


def test_held_out_clips_are_asked_about_as_files(bundled: LoadedModel) -> None:
    report = evaluate(bundled, held_out_clips(4, longest=4.5), mp4=True)
    assert sum(report.asked.values()) >= 20
    assert sum(report.right.values()) + len(report.wrong) == sum(report.asked.values())
    assert report.right <= report.asked
    assert sum(report.right.values()) > 0.7 * sum(report.asked.values())
    assert set(report.as_dict()["families"]) == set(report.asked)


def test_the_bundled_set_is_asked_on_its_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main([str(BUNDLED_PATH), "--synthetic", "7", "--blank", "sound", "--json"])
    families = json.loads(capsys.readouterr().out)["families"]
    asked = Counter(item.family for item in synthetic_set(7).items)
    assert {family: found["n"] for family, found in families.items()} == asked
    with pytest.raises(SystemExit, match="2"):
        main([str(BUNDLED_PATH), "--synthetic", "7", "--mp4"])


def test_colour_cards_with_beeps(bundled: LoadedModel, tmp_path: Path) -> None:
    """The kind of file people make to try a model: three cards, a voice, two beeps."""
    colors = (("red", (253.0, 0.0, 0.0)), ("blue", (0.0, 0.0, 254.0)), ("green", (0.0, 127.0, 0.0)))
    words = ("one", "two", "three")
    shots = ((0.0, 4.0), (4.0, 8.0), (8.0, 12.0))
    script = Script(
        layout=file_layout(12.0, (168, 308), 12.0, audio_seconds=12.0),
        plot="cards",
        shots=shots,
        backdrops=tuple(Backdrop("card", rgb, name) for name, rgb in colors),
        things=tuple(
            Thing("text", *shot, 0.5, 0.5, 0.3, text=word.upper(), word=word, font="dejavu-sans")
            for shot, word in zip(shots, words, strict=True)
        ),
        heard=(
            SpokenWord("banana", "us", 0.5, 2.0, 0.5, 1, "the word is", 1.2),
            Sound("beeps", 5.0, 6.5, 0.5, 1000.0, 1000.0, ((5.0, 5.5), (6.0, 6.5))),
            SpokenWord("dog", "us", 8.5, 10.0, 0.5, 2, "I can see a", 9.3),
        ),
    )
    path = tmp_path / "cards.mp4"
    write_script(path, script, fps=12.0, scale=1)
    clip = read_clip(path, sizing=bundled.sizing)
    expected = {
        "What color is shown first?": "red",
        "What color is shown last?": "green",
        "What color is shown when the beeps sound?": "blue",
        "What is heard while the blue card is shown?": "beeps",
        "How many beeps are heard?": "2",
        "Which word is shown when the beeps are heard?": "two",
        "Which word is said while the green card is shown?": "dog",
        "Which word is shown first?": "one",
        "List the colors in the order shown.": "red, blue, green",
    }
    given = {question: answer(bundled, clip, question) for question in expected}
    assert given == expected
