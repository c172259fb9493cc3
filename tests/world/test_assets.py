"""The bank of spoken words, printed words and small pictures."""

from __future__ import annotations

import numpy as np
import pytest

from seats_cli.world import voices
from seats_cli.world.lettering import (
    FONTS,
    HELD_OUT_FONTS,
    ICONS,
    TRAINING_FONTS,
    icon,
    letter_centers,
    printed,
)
from seats_cli.world.voices import (
    CARRIERS,
    HELD_OUT_VOICES,
    TRAINING_VOICES,
    WORDS,
    spoken,
    utterance,
)


@pytest.mark.parametrize("voice", ["us", "gb-klatt3", "nyc-mario"])
def test_a_voice_says_every_word_and_the_bank_is_not_out_of_step(voice: str) -> None:
    track = voices._bank(voice)
    for text in (*WORDS, *CARRIERS):
        sound = utterance(text, voice)
        assert 0.15 * 16_000 < len(sound) < 1.2 * 16_000
        assert np.abs(sound).max() > 0.5
        # Around it is silence, but for what the codec smears: an index that is a few milliseconds
        # out would cut into a word here.
        start, end = voices._spans()[voice][text]
        around = np.concatenate([track[start - 640 : start - 160], track[end + 160 : end + 640]])
        assert np.abs(around).max() < 0.1 * np.abs(sound).max()


def test_held_out_voices_and_fonts_are_apart() -> None:
    assert not set(TRAINING_VOICES) & set(HELD_OUT_VOICES)
    assert not set(TRAINING_FONTS) & set(HELD_OUT_FONTS)
    assert len(WORDS) == len(set(WORDS)) == 41


def test_a_word_is_said_differently_each_time_and_the_same_from_a_seed() -> None:
    first = spoken("seven", "us", np.random.default_rng(1))
    again = spoken("seven", "us", np.random.default_rng(1))
    other = spoken("seven", "us", np.random.default_rng(2))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    assert len(first) != len(other)
    assert np.abs(first).max() == pytest.approx(0.9)
    longer = spoken("seven", "us", np.random.default_rng(1), carrier="the number is")
    assert len(longer) > len(first) + 0.3 * 16_000


@pytest.mark.parametrize("font", FONTS)
def test_words_are_printed_at_the_height_that_was_asked_for(font: str) -> None:
    for height in (12, 20, 40, 64):
        assert printed("H", font, height).shape[0] == pytest.approx(height, abs=1.1)
    word = printed("banana", font, 20)
    assert word.shape[1] > 2 * word.shape[0]
    assert word.max() > 200
    # Cropped to the ink on all four sides.
    assert min(word[0].max(), word[-1].max(), word[:, 0].max(), word[:, -1].max()) > 0


@pytest.mark.parametrize("font", ["dejavu-mono", "lato-bold", "garamond-bold"])
def test_letters_are_where_they_are_said_to_be(font: str) -> None:
    centers = letter_centers("HIH", font)
    assert centers[1] == pytest.approx(0.5, abs=0.03)
    assert centers[0] == pytest.approx(1 - centers[2], abs=0.03)
    # The I is a stroke in the middle, between the strokes of two H.
    mask = printed("HIH", font, 40)
    ink = mask.astype(float).sum(axis=0)
    near = ink[round(centers[1] * len(ink)) - 3 : round(centers[1] * len(ink)) + 3]
    assert near.max() > 0.8 * ink.max()


def test_every_word_can_be_printed_and_no_two_look_alike() -> None:
    texts = [*WORDS, *(word.upper() for word in WORDS), *(word.title() for word in WORDS)]
    masks = {printed(text, "lato-bold", 16).tobytes() for text in [*texts, *"0123456789"]}
    assert len(masks) == len(texts) + 10
    with pytest.raises(KeyError):
        printed("na-ive", "lato-bold", 16)


def test_icons_are_pictures_with_something_on_them() -> None:
    seen = set()
    for name in ICONS:
        picture = icon(name, 32)
        assert picture.shape == (32, 32, 4)
        assert 0.1 < (picture[..., 3] > 128).mean() < 1.0
        seen.add(picture.tobytes())
    assert len(seen) == len(ICONS)
