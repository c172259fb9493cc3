"""Scripts: the same seed gives the same clip, and what a script says is what is painted."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from seats_cli.world.clips import draft_script, render_script
from seats_cli.world.layouts import Layout, file_layout, sample_wide_layout
from seats_cli.world.links import (
    Question,
    every_question,
    sample_questions,
    truths_of,
)
from seats_cli.world.painting import paint_frames
from seats_cli.world.script import Script, Thing, place_of
from seats_cli.world.soundtrack import render_sound
from seats_cli.world.storylines import PLOTS
from seats_cli.world.vocabulary import COLORS
from seats_cli.world.voices import WORDS
from seats_cli.world.wording import (
    FAMILIES,
    LINKED_FAMILIES,
    PLACE_NAMES,
    answers_of,
    corpus,
    lexicon,
)

WIDE = file_layout(8.0, (308, 336), 25.0, audio_seconds=8.0)


def _scripts(count: int, *, seed: int = 0, level: float = 1.0) -> list[Script]:
    rng = np.random.default_rng(seed)
    return [draft_script(rng, sample_wide_layout(rng, level), level) for _ in range(count)]


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    return _scripts(400)


@pytest.fixture(scope="module")
def asked(scripts: list[Script]) -> dict[str, list[tuple[Script, Question]]]:
    rng = np.random.default_rng(1)
    found: dict[str, list[tuple[Script, Question]]] = defaultdict(list)
    for script in scripts:
        for question in sample_questions(rng, script, 8) + every_question(rng, script):
            found[question.family].append((script, question))
    return found


@pytest.mark.parametrize("plot", PLOTS)
def test_a_seed_decides_everything(plot: str) -> None:
    layout = file_layout(4.0, (196, 224), 25.0, audio_seconds=4.0)
    first, second = (
        render_script(draft_script(np.random.default_rng(5), layout, 1.0, plot=plot))
        for _ in range(2)
    )
    assert first.script == second.script
    assert first.frames is not None
    assert second.frames is not None
    assert first.audio is not None
    assert second.audio is not None
    assert first.frames.shape == (8, 196, 224, 3)
    assert first.frames.dtype == np.uint8
    assert first.audio.shape == (64000,)
    assert first.audio.dtype == np.float32
    np.testing.assert_array_equal(first.frames, second.frames)
    np.testing.assert_array_equal(first.audio, second.audio)


def test_every_family_is_asked(asked: dict[str, list[tuple[Script, Question]]]) -> None:
    assert set(asked) == set(FAMILIES)
    assert len(FAMILIES) >= 30
    assert set(LINKED_FAMILIES) < set(FAMILIES)


def test_evidence_lies_in_the_clip(asked: dict[str, list[tuple[Script, Question]]]) -> None:
    for family, pairs in asked.items():
        for script, question in pairs:
            if not script.layout.audio_samples and question.answer == "silence":
                continue
            assert question.evidence, family
            for part in question.evidence:
                assert 0 <= part.start < part.end <= script.layout.duration + 1.0
                if part.box is not None:
                    y0, x0, y1, x1 = part.box
                    assert 0 <= y0 < y1 <= 1
                    assert 0 <= x0 < x1 <= 1
            heard = {part.modality for part in question.evidence}
            assert (heard == {"video", "audio"}) == (family in LINKED_FAMILIES), family


def test_questions_use_known_words(asked: dict[str, list[tuple[Script, Question]]]) -> None:
    known = {word.lower() for word in lexicon()}
    for pairs in asked.values():
        for _, question in pairs:
            text = f"{question.text} {question.answer}".lower()
            words = list(text.replace("?", " ").replace(",", " ").split())
            strange = {word.rstrip(".") for word in words} - known
            assert not {word for word in strange if word.isalpha()}, question.text


def test_no_answer_is_a_good_guess(scripts: list[Script]) -> None:
    """The commonest answer of a family, learned on half of the questions."""
    rng = np.random.default_rng(3)
    found: dict[str, list[Question]] = defaultdict(list)
    for script in scripts:
        for question in sample_questions(rng, script, 12):
            found[question.family].append(question)
    for family, questions in found.items():
        half = len(questions) // 2
        if half < 60:
            continue
        usual = Counter(question.answer for question in questions[:half]).most_common(1)[0][0]
        right = np.mean([question.answer == usual for question in questions[half:]])
        binary = {question.answer for question in questions} in (
            {"yes", "no"},
            {"low", "high"},
            {"rising", "falling"},
        )
        assert right < (0.68 if binary else 0.55), (family, usual, right)


def _inked(frame: np.ndarray, thing: Thing, script: Script, time: float) -> float:
    """Mean distance from the thing's colour over its middle."""
    height, width = frame.shape[:2]
    y, x = thing.center(time)
    patch = frame[
        int(y * height) - 2 : int(y * height) + 3, int(x * width) - 2 : int(x * width) + 3
    ]
    return float(np.abs(patch.astype(float) - thing.rgb).mean())


def test_shapes_are_painted_where_the_script_says() -> None:
    rng = np.random.default_rng(4)
    seen = 0
    for plot in ("scatter", "mover", "hops"):
        script = draft_script(rng, WIDE, 1.0, plot=plot, moment=False)
        times = np.array(WIDE.frame_times)
        frames = paint_frames(script, times, WIDE.height, WIDE.width)
        for frame, time in zip(frames, times.tolist(), strict=True):
            for thing in script.shapes:
                box = thing.box(time, WIDE.height, WIDE.width)
                assert (box is not None) == thing.is_visible(time)
                whole = box is not None and box[2] - box[0] > 20 and box[3] - box[1] > 20
                if whole and thing.shape in ("circle", "square", "cross"):
                    assert _inked(frame, thing, script, time) < 3 * script.grain + 4
                    seen += 1
    assert seen > 40


def test_places_have_names_away_from_the_middle_and_the_corners() -> None:
    assert [place_of(0.5, 0.2), place_of(0.5, 0.8), place_of(0.2, 0.5), place_of(0.8, 0.5)] == [
        *PLACE_NAMES
    ]
    assert place_of(0.5, 0.5) is None
    assert place_of(0.1, 0.1) is None


def test_a_word_is_heard_where_the_script_says(scripts: list[Script]) -> None:
    quiet = [s for s in scripts if s.words and len(s.words) == len(s.heard) and not s.bed.level]
    assert len(quiet) > 20
    for script in quiet[:10]:
        track = render_sound(script)
        silent = np.ones(len(track), dtype=bool)
        for word in script.words:
            assert word.word in WORDS
            span = slice(int(word.start * 16000), int(word.end * 16000) + 1)
            assert np.abs(track[span]).max() > 0.5 * word.amplitude
            silent[span] = False
        assert np.abs(track[silent]).max(initial=0.0) < 1e-4


def test_long_quiet_clips_are_about_one_short_shot() -> None:
    layout = file_layout(30.0, (224, 392), 25.0, audio_seconds=30.0)
    rng = np.random.default_rng(6)
    for plot in ("cards", "texts", "hops"):
        script = draft_script(rng, layout, 1.0, plot=plot, moment=True)
        if len(script.shots) == 1:
            continue
        start, end = script.shots[1]
        assert 1.5 < end - start < 4.5
        assert all(start <= sound.start and sound.end <= end for sound in script.heard)


def test_level_0_is_small_and_level_1_is_wide() -> None:
    rng = np.random.default_rng(7)
    tokens = {
        level: np.mean([_tokens(sample_wide_layout(rng, level)) for _ in range(200)])
        for level in (0.0, 1.0)
    }
    assert tokens[0.0] < 20
    assert tokens[1.0] > 70
    assert all(_total(sample_wide_layout(rng, 1.0, max_tokens=900)) <= 900 for _ in range(20))


def _tokens(layout: Layout) -> float:
    return layout.height * layout.width / 784 if layout.frame_times else 12.0


def _total(layout: Layout) -> int:
    return int(np.prod(layout.grid_thw)) // 4 + layout.audio_samples // 640


def test_mains_are_the_colours_in_order(scripts: list[Script]) -> None:
    checked = 0
    for script in scripts:
        facts = truths_of(script)
        if "color_order" not in facts or script.plot != "cards":
            continue
        named = [backdrop.color for backdrop in script.backdrops]
        assert facts["color_order"][0].answer == ", ".join(str(name) for name in named)
        assert set(named) <= set(COLORS)
        checked += 1
    assert checked > 10


def test_the_corpus_has_every_family() -> None:
    lines = corpus(np.random.default_rng(8), 2 * len(FAMILIES))
    assert any("said while" in line or "is said when" in line for line in lines)
    assert len(lines) > 10 * len(FAMILIES)


def test_answers_are_of_their_family(asked: dict[str, list[tuple[Script, Question]]]) -> None:
    for family, pairs in asked.items():
        known = {*answers_of(family), *(answers_of("printed_number") if "print" in family else ())}
        for _, question in pairs:
            assert set(question.answer.split(", ")) <= known, (family, question)
            assert set(question.rivals) <= known
            assert question.answer not in question.rivals
