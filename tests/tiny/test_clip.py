"""Generated clips: repeatable, and what is said of them is to be seen and heard in them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.world.clip_questions import every_question, sample_questions
from seats_cli.world.clips import TinyClip, make_clip
from seats_cli.world.drawing import render_frames
from seats_cli.world.layouts import LayoutMix, file_layout, frame_count, make_layout, sample_layout
from seats_cli.world.scene import MIN_SEGMENT_FRAMES
from seats_cli.world.vocabulary import COLORS, SAMPLE_RATE, SHAPES, SOUND_KINDS

seeds = st.integers(min_value=0, max_value=10**6)


def clip_of(seed: int, mix: LayoutMix | None = None) -> TinyClip:
    rng = np.random.default_rng(seed)
    return make_clip(rng, sample_layout(rng, mix or LayoutMix()))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_same_seed_gives_the_same_clip_and_questions(seed: int) -> None:
    first, again = clip_of(seed), clip_of(seed)
    for name in ("frames", "audio"):
        left, right = getattr(first, name), getattr(again, name)
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right)
    rngs = [np.random.default_rng(seed) for _ in range(2)]
    asked = [
        sample_questions(rng, clip, 8, {}) for rng, clip in zip(rngs, (first, again), strict=True)
    ]
    assert asked[0] == asked[1]


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_tracks_are_well_formed(seed: int) -> None:
    clip = clip_of(seed)
    layout = clip.layout
    if clip.scene is not None:
        assert clip.frames is not None
        assert clip.frames.dtype == np.uint8
        assert clip.frames.shape == (len(layout.frame_times), layout.height, layout.width, 3)
        assert len(clip.frames) % 2 == 0
        segments = clip.scene.segments
        assert len({segment.color for segment in segments}) == len(segments)
        assert segments[0].start == 0.0
        assert all(a.end == b.start for a, b in itertools.pairwise(segments))
        shown = [clip.scene.segment_index(time) for time in layout.frame_times]
        assert all(shown.count(index) >= MIN_SEGMENT_FRAMES for index in range(len(segments)))
    if clip.audio is not None:
        assert clip.audio.shape == (layout.audio_samples,)
        assert clip.audio.dtype == np.float32
        assert np.abs(clip.audio).max() <= 1.0
    for sound, later in zip(clip.sounds[:-1], clip.sounds[1:], strict=True):
        assert sound.end <= later.start
    for sound in clip.sounds:
        assert 0 <= sound.start < sound.end <= layout.audio_samples / SAMPLE_RATE


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_sounds_are_loud_where_they_are_said_to_be(seed: int) -> None:
    clip = clip_of(seed)
    if clip.audio is None:
        return
    quiet = np.ones(len(clip.audio), dtype=bool)
    for sound in clip.sounds:
        first, last = (int(time * SAMPLE_RATE) for time in (sound.start, sound.end))
        quiet[first : last + 2] = False
        assert np.abs(clip.audio[first:last]).max() > 0.4 * sound.amplitude
    assert np.abs(clip.audio[quiet]).max(initial=0.0) < 0.02


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_answers_follow_from_the_clip(seed: int) -> None:
    clip = clip_of(seed)
    questions = every_question(np.random.default_rng(seed), clip)
    for question in questions:
        assert question.text
        assert question.answer
        if question.family == "color_order":
            assert clip.scene is not None
            assert question.answer.split(", ") == [s.color for s in clip.scene.segments]
        elif question.family == "beep_count":
            assert question.answer == str(sum(len(sound.beeps) for sound in clip.sounds))
        elif question.family == "sound_kind":
            heard = [sound.kind for sound in clip.sounds] or ["silence"]
            assert heard == [question.answer]
        elif question.family == "color_at_sound":
            # The colour is on screen during the whole of some sound.
            assert clip.scene is not None
            segment = next(s for s in clip.scene.segments if s.color == question.answer)
            assert any(segment.start <= s.start and s.end <= segment.end for s in clip.sounds)
        elif question.family == "sound_at_picture":
            assert question.answer in SOUND_KINDS
            assert any(word in question.text for word in (*COLORS, *SHAPES)), (
                "the question must name the picture"
            )


def test_larger_drawings_show_the_same() -> None:
    clip = clip_of(5)
    assert clip.scene is not None
    assert clip.frames is not None
    height, width = clip.layout.height, clip.layout.width
    large = render_frames(clip.scene, clip.layout.frame_times, 2 * height, 2 * width)
    small = large.reshape(len(large), height, 2, width, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - clip.frames).mean() < 12


@pytest.mark.parametrize(
    ("duration", "frames"), [(2.0, 4), (3.9, 6), (4.0, 8), (5.0, 10), (5.7, 10), (12.0, 24)]
)
def test_frame_counts_follow_qwen_omni_utils(duration: float, frames: int) -> None:
    assert frame_count(duration) == frames
    layout = file_layout(duration, (84, 140), 25.0, audio_seconds=0.0)
    assert len(layout.frame_times) == frames
    assert layout.effective_fps == pytest.approx(frames / duration)


def test_layouts_differ_in_size_and_length() -> None:
    rng = np.random.default_rng(0)
    layouts = [sample_layout(rng, LayoutMix()) for _ in range(300)]
    assert len({(layout.height, layout.width) for layout in layouts}) >= 9
    assert any(layout.audio_samples == 0 for layout in layouts)
    assert any(not layout.frame_times for layout in layouts)
    assert any(abs(la.audio_samples / SAMPLE_RATE - la.duration) > 0.2 for la in layouts)
    assert make_layout(rng, 4.0, (84, 140)).grid_thw == (4, 6, 10)
