"""Clips: repeatable, well formed, and what is heard in them is where the script says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.world.canvas import MIN_SHOT_FRAMES
from seats_cli.world.clips import WorldClip, draft_script, render_script
from seats_cli.world.layouts import file_layout, frame_count, make_layout, sample_wide_layout
from seats_cli.world.links import every_question, sample_questions
from seats_cli.world.painting import paint_frames
from seats_cli.world.sounds import Sound
from seats_cli.world.vocabulary import SAMPLE_RATE

seeds = st.integers(min_value=0, max_value=10**6)


def clip_of(seed: int) -> WorldClip:
    rng = np.random.default_rng(seed)
    level = float(rng.choice([0.0, 0.5, 1.0]))
    layout = sample_wide_layout(rng, level, max_tokens=1200)
    return render_script(draft_script(rng, layout, level))


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_same_seed_gives_the_same_clip_and_questions(seed: int) -> None:
    first, again = clip_of(seed), clip_of(seed)
    assert first.script == again.script
    for name in ("frames", "audio"):
        left, right = getattr(first, name), getattr(again, name)
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(left, right)
    rngs = [np.random.default_rng(seed) for _ in range(2)]
    asked = [
        sample_questions(rng, clip.script, 8) + every_question(rng, clip.script)
        for rng, clip in zip(rngs, (first, again), strict=True)
    ]
    assert asked[0] == asked[1]


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_tracks_are_well_formed(seed: int) -> None:
    clip = clip_of(seed)
    layout, shots = clip.layout, clip.script.shots
    assert (clip.frames is None) == (not shots)
    if clip.frames is not None:
        assert clip.frames.dtype == np.uint8
        assert clip.frames.shape == (len(layout.frame_times), layout.height, layout.width, 3)
        assert len(clip.frames) % 2 == 0
        assert shots[0][0] == 0.0
        assert all(one[1] == other[0] for one, other in pairwise(shots))
        shown = [clip.script.shot_index(time) for time in layout.frame_times]
        assert all(shown.count(index) >= MIN_SHOT_FRAMES for index in range(len(shots)))
    if clip.audio is not None:
        assert clip.audio.shape == (layout.audio_samples,)
        assert clip.audio.dtype == np.float32
        assert np.abs(clip.audio).max() <= 1.0
    assert all(sound.end <= later.start for sound, later in pairwise(clip.script.heard))
    for sound in clip.script.heard:
        assert 0 <= sound.start < sound.end <= layout.audio_samples / SAMPLE_RATE


@settings(max_examples=25, deadline=None)
@given(seeds)
def test_sounds_are_loud_where_they_are_said_to_be(seed: int) -> None:
    clip = clip_of(seed)
    if clip.audio is None:
        return
    quiet = np.ones(len(clip.audio), dtype=bool)
    for sound in clip.script.heard:
        first, last = (int(time * SAMPLE_RATE) for time in (sound.start, sound.end))
        quiet[first : last + 2] = False
        if isinstance(sound, Sound):
            assert np.abs(clip.audio[first:last]).max() > 0.4 * sound.amplitude
    level = clip.script.bed.level
    assert np.abs(clip.audio[quiet]).max(initial=0.0) <= 8 * level


def test_larger_paintings_show_the_same() -> None:
    layout = file_layout(2.0, (112, 140), 25.0, audio_seconds=0.0)
    rng = np.random.default_rng(5)
    script = draft_script(rng, layout, 1.0, plot="single")
    small = paint_frames(script, layout.frame_times, layout.height, layout.width)
    large = paint_frames(script, layout.frame_times, 2 * layout.height, 2 * layout.width)
    shrunk = large.reshape(len(large), layout.height, 2, layout.width, 2, 3).mean(axis=(2, 4))
    assert np.abs(shrunk - small).mean() < 12


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
    layouts = [sample_wide_layout(rng, 0.5) for _ in range(300)]
    assert len({(layout.height, layout.width) for layout in layouts}) >= 18
    assert any(layout.audio_samples == 0 for layout in layouts)
    assert any(not layout.frame_times for layout in layouts)
    assert any(abs(la.audio_samples / SAMPLE_RATE - la.duration) > 0.2 for la in layouts)
    assert make_layout(rng, 4.0, (84, 140)).grid_thw == (4, 6, 10)
