"""The second generated set: stable, of the published regime, and true of its clips as files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seats_cli.errors import UsageError
from seats_cli.evaluate.benchmarks import question_set
from seats_cli.evaluate.generated import ScriptedClipMaker, scripted_set
from seats_cli.evaluate.jsonl import write_scripted
from seats_cli.evaluate.questions import Item
from seats_cli.media import FrameSizing, read_clip
from seats_cli.world.lettering import HELD_OUT_FONTS
from seats_cli.world.links import truths_of
from seats_cli.world.painting import write_script
from seats_cli.world.voices import HELD_OUT_VOICES

LARGE = FrameSizing(28, 3136, 336 * 308)


@pytest.fixture(scope="module")
def items() -> tuple[Item, ...]:
    return scripted_set(300).items


def _maker(item: Item) -> ScriptedClipMaker:
    assert isinstance(item.media, ScriptedClipMaker)
    return item.media


def test_a_larger_set_begins_with_the_smaller(items: tuple[Item, ...]) -> None:
    few = scripted_set(30).items
    assert few == items[:30]
    assert question_set("scripted", limit=30).items == few
    assert scripted_set(30, seed=3).items[7].question != few[7].question
    with pytest.raises(UsageError, match="at least 1"):
        scripted_set(0)


def test_clips_take_turns_and_many_families_are_asked(items: tuple[Item, ...]) -> None:
    families = Counter(item.family for item in items)
    assert len([family for family, count in families.items() if count >= 4]) >= 20
    assert set(Counter(item.kind for item in items)) == {"short", "medium", "long", "moment"}
    assert 70 < sum(1 for item in items if item.choices) < 130
    assert max(families.values()) < 0.15 * len(items)


def test_answers_are_true_and_their_evidence_is_named(items: tuple[Item, ...]) -> None:
    for item in items:
        facts = truths_of(_maker(item).script)[item.family]
        assert item.answer_text in {fact.answer for fact in facts}
        assert len(set(item.choices)) == len(item.choices)
        for part in item.meta["evidence"]:
            assert part["modality"] in ("video", "audio")
            assert 0 <= part["start"] < part["end"] <= item.meta["duration_s"] + 0.1
        decisive, parts = item.meta["decisive"], item.meta["evidence"]
        if decisive is not None:
            assert {part["modality"] for part in parts} == set(decisive["modalities"])
            assert all(part["start"] <= decisive["start"] for part in parts)
            assert all(decisive["end"] <= part["end"] for part in parts)


def test_ten_per_cent_mean_ten_per_cent(items: tuple[Item, ...]) -> None:
    """The published pair, 6 % of video and 35 % of audio, keeps about a tenth of the tokens."""
    for item in items[::5]:
        layout = _maker(item).script.layout
        video, audio = float(np.prod(layout.grid_thw)) / 4, layout.audio_samples / 640
        assert video > 2.5 * audio
        assert 0.08 < (0.06 * video + 0.35 * audio) / (video + audio) < 0.143


def test_half_of_the_voices_and_fonts_were_never_trained_on(items: tuple[Item, ...]) -> None:
    held_out: list[bool] = []
    for key in {item.clip_key: _maker(item) for item in items}.values():
        fonts = {thing.font in HELD_OUT_FONTS for thing in key.script.texts}
        voices = {word.voice in HELD_OUT_VOICES for word in key.script.words}
        assert len(fonts | voices) <= 1
        held_out += fonts | voices
    assert 0.35 < np.mean(held_out) < 0.65


def test_a_file_is_the_clip_that_was_made(items: tuple[Item, ...], tmp_path: Path) -> None:
    maker = next(
        _maker(item)
        for item in items
        if item.kind == "short" and item.family == "place_when_said" and not item.choices
    )
    write_script(tmp_path / "clip.mp4", maker.script, fps=12.0, scale=1)
    read, made = read_clip(tmp_path / "clip.mp4", sizing=LARGE), maker.open(LARGE)
    assert read.frames is not None
    assert made.frames is not None
    assert read.audio is not None
    assert made.audio is not None
    assert read.frames.shape == made.frames.shape
    differences = [
        float(np.abs(one.astype(int) - other.astype(int)).mean())
        for one, other in zip(read.frames, made.frames, strict=True)
    ]
    assert np.median(differences) < 8  # the codec smooths the grain
    shared = min(len(read.audio), len(made.audio))
    assert shared > 0.97 * len(made.audio)
    assert abs(float(np.abs(read.audio[:shared]).max() - np.abs(made.audio).max())) < 0.25


def test_a_model_that_reads_small_frames_gets_small_frames(items: tuple[Item, ...]) -> None:
    clip = _maker(items[0]).open(FrameSizing(28, 3136, 12544))
    assert clip.frames is not None
    assert clip.frames.shape[1] * clip.frames.shape[2] <= 12544


def test_the_set_as_files_asks_the_same(tmp_path: Path) -> None:
    made = scripted_set(2, seed=8).items
    read = question_set(str(write_scripted(tmp_path, 2, seed=8)))
    assert not read.warnings
    for one, other in zip(made, read.items, strict=True):
        assert (one.id, one.question, one.answer, one.choices, one.family, one.kind) == (
            (other.id, other.question, other.answer, other.choices, other.family, other.kind)
        )
        assert isinstance(other.media, str)
        assert Path(other.media).stat().st_size > 1000
