"""Spoken words: a bank of utterances in many synthetic voices, changed a little each time.

The bank was spoken by espeak-ng (`seats_cli/training/make_assets.py`) and is decoded once per
process. Voices that are held out must never be heard in training: they are what shows that a word
is recognised and not a recording.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt

from seats_cli.world.vocabulary import SAMPLE_RATE

FloatArray = npt.NDArray[np.float32]

NUMBERS: Final = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)
SPOKEN_COLORS: Final = ("red", "green", "blue", "yellow")
NOUNS: Final = (
    "cat",
    "dog",
    "bird",
    "fish",
    "horse",
    "cow",
    "tree",
    "flower",
    "house",
    "door",
    "car",
    "boat",
    "train",
    "ball",
    "book",
    "cup",
    "hat",
    "shoe",
    "key",
    "clock",
    "sun",
    "moon",
    "star",
    "rain",
    "snow",
    "banana",
)
WORDS: Final[tuple[str, ...]] = (*NUMBERS, *SPOKEN_COLORS, *NOUNS)

# What may be said before a word, so that words are not only known alone.
CARRIERS: Final = ("the word is", "the number is", "I can see a", "this is the")

TRAINING_VOICES: Final[tuple[str, ...]] = (
    "us",
    "gb",
    "us-male1",
    "gb-male2",
    "us-male3",
    "scotland-male4",
    "us-male6",
    "us-female1",
    "gb-female2",
    "us-female3",
    "rp-female4",
    "us-klatt",
    "gb-klatt3",
    "us-steph",
    "gb-andy",
    "us-alex",
    "caribbean-ed",
    "us-annie",
    "gb-gene",
    "us-grandma",
)
HELD_OUT_VOICES: Final[tuple[str, ...]] = (
    "us-male7",
    "gb-female5",
    "us-linda",
    "gb-michael",
    "nyc-mario",
    "us-belinda",
)
VOICES: Final = (*TRAINING_VOICES, *HELD_OUT_VOICES)

_ASSETS = Path(__file__).parent / "assets"
_STRETCH = 0.12  # a voice is made faster and higher, or slower and lower, by up to this share
_TILT = 0.35  # strength of the first-order filter that makes a voice duller or sharper


@lru_cache(maxsize=1)
def _spans() -> dict[str, dict[str, tuple[int, int]]]:
    """First and last sample of every utterance, by voice and text."""
    spans: dict[str, dict[str, tuple[int, int]]] = json.loads(
        (_ASSETS / "voices.json").read_text(encoding="utf-8")
    )
    return spans


@cache
def _bank(voice: str) -> FloatArray:
    """All that a voice says, one after the other, at `SAMPLE_RATE`: float32 (n,)."""
    with av.open(str(_ASSETS / f"{voice}.ogg")) as container:
        decoded = list(container.decode(audio=0))  # at 48 kHz, as Opus is by its standard
    track = np.concatenate([frame.to_ndarray()[0] for frame in decoded])
    whole = av.AudioFrame.from_ndarray(track[None], format="flt", layout="mono")
    whole.sample_rate = decoded[0].sample_rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    pieces = [*resampler.resample(whole), *resampler.resample(None)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces])


def utterance(text: str, voice: str) -> FloatArray:
    """A word of `WORDS` or a phrase of `CARRIERS` as recorded.

    Returns
    -------
    float32 array, shape (n,)
        At `SAMPLE_RATE`, with the silence around it cut off; peak about 0.9.

    Raises
    ------
    KeyError
        If there is no such voice, or it does not say that.
    """
    start, end = _spans()[voice][text]
    return _bank(voice)[start:end]


def spoken(word: str, voice: str, rng: np.random.Generator, *, carrier: str = "") -> FloatArray:
    """Say a word, a little differently each time: faster or slower, duller or sharper.

    Parameters
    ----------
    word : str
        One of `WORDS`.
    voice : str
        One of `VOICES`.
    rng : numpy Generator
        Decides how.
    carrier : str
        One of `CARRIERS`, to be said before the word; nothing by default.

    Returns
    -------
    float32 array, shape (n,)
        At `SAMPLE_RATE`, 0.2 to 2 seconds, peak 0.9.
    """
    wave = utterance(word, voice)
    if carrier:
        pause = np.zeros(int(rng.uniform(0.0, 0.06) * SAMPLE_RATE), dtype=np.float32)
        wave = np.concatenate([utterance(carrier, voice), pause, wave])
    speed = 1.0 + float(rng.uniform(-_STRETCH, _STRETCH))
    places = np.arange(0.0, len(wave) - 1.0, speed, dtype=np.float32)
    wave = np.interp(places, np.arange(len(wave)), wave).astype(np.float32)
    tilt = float(rng.uniform(-_TILT, _TILT))
    wave[1:] += tilt * wave[:-1]
    return np.asarray(0.9 * wave / max(float(np.abs(wave).max()), 1e-6), dtype=np.float32)
