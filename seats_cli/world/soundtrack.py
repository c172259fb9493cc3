"""What clips sound like: spoken words and named sounds, over noise or music."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from seats_cli.world.layouts import weighted_choice
from seats_cli.world.script import Bed, Heard, Script, SpokenWord
from seats_cli.world.sounds import MIN_LENGTH, Sound, sample_sound, synthesise
from seats_cli.world.storylines import Picture
from seats_cli.world.vocabulary import SAMPLE_RATE
from seats_cli.world.voices import NOUNS, NUMBERS, TRAINING_VOICES, WORDS, spoken, utterance

FloatArray = npt.NDArray[np.float32]
Span = tuple[float, float]

MAX_WORDS: Final = 5  # in one clip
_EDGE = 0.12  # seconds kept free between a sound and a change of picture
_LONGEST_WORD = 0.7  # seconds that a word may take
_CARRIED = 0.3  # share of tracks, at level 1, in which words are said in a phrase
_MUSIC_LENGTHS = (1.5, 5.0)  # seconds
_KINDS = {"beeps": 0.34, "tone": 0.17, "chirp": 0.15, "noise": 0.17, "music": 0.17}
_ABOVE_BED = 12.0  # at least so many times the bed's standard deviation is every sound's peak
_RAMP = 480  # samples over which music is faded in and out


@lru_cache(maxsize=256)
def _said(word: str, voice: str, seed: int, carrier: str) -> FloatArray:
    """A spoken word: drafting needs its length, painting its samples."""
    return spoken(word, voice, np.random.default_rng(seed), carrier=carrier)


def _carrier(rng: np.random.Generator, word: str) -> str:
    """A phrase that the word can end."""
    fitting = ["the word is"]
    if word in NUMBERS:
        fitting.append("the number is")
    elif word in NOUNS:
        fitting += ["I can see a", "this is the"]
    return str(rng.choice(fitting))


def say(
    rng: np.random.Generator, word: str, voice: str, span: Span, *, carried: bool = False
) -> SpokenWord:
    """A word somewhere in a span (start and end in seconds).

    With `carried`, after one of `voices.CARRIERS`, if the span is long enough.
    """
    seed = int(rng.integers(2**31))
    carrier = _carrier(rng, word) if carried else ""
    length = len(_said(word, voice, seed, carrier)) / SAMPLE_RATE
    if carrier and length > span[1] - span[0]:
        carrier = ""
        length = len(_said(word, voice, seed, carrier)) / SAMPLE_RATE
    start = float(rng.uniform(span[0], max(span[1] - length, span[0] + 1e-6)))
    alone = len(utterance(word, voice))
    phrase = len(utterance(carrier, voice)) if carrier else 0
    amplitude = float(10 ** rng.uniform(-0.9, -0.03))
    word_start = start + length * phrase / (phrase + alone)
    return SpokenWord(word, voice, start, start + length, amplitude, seed, carrier, word_start)


def _sound(rng: np.random.Generator, kind: str, span: Span) -> Sound:
    """A named sound somewhere in the span."""
    if kind != "music":
        return sample_sound(rng, kind, *span)
    low, high = _MUSIC_LENGTHS
    longest = min(high, span[1] - span[0])
    length = float(rng.uniform(max(low, 0.5 * longest), longest))
    start = float(rng.uniform(span[0], span[1] - length))
    amplitude = float(10 ** rng.uniform(-1.0, -0.15))
    return Sound("music", start, start + length, amplitude, seed=int(rng.integers(2**31)))


def _side_by_side(rng: np.random.Generator, seconds: float, count: int) -> list[Span]:
    """`count` spans one after the other that fill the track."""
    borders = np.linspace(0.08, seconds - 0.08, count + 1)
    borders[1:-1] += rng.uniform(-0.18, 0.18, size=count - 1) * seconds / count
    return [(float(a), float(b) - _EDGE) for a, b in pairwise(borders)]


def _of_shots(picture: Picture | None, seconds: float) -> list[Span]:
    """The inside of every shot that is long enough for a word; of a moment's shot alone."""
    if picture is None:
        return []
    shots = picture.shots if picture.moment is None else (picture.shots[picture.moment],)
    spans = [(start + _EDGE, min(end, seconds - 0.08) - _EDGE) for start, end in shots]
    return [span for span in spans if span[1] - span[0] >= _LONGEST_WORD]


def _words(
    rng: np.random.Generator,
    spans: Sequence[Span],
    voices: Sequence[str],
    taken: Sequence[str],
    carried: bool = False,
) -> list[Heard]:
    """A different word in every span, mostly in one voice."""
    free = [word for word in WORDS if word not in taken]
    names = rng.permutation(free)[: len(spans)]
    voice = str(rng.choice(voices))
    several = rng.random() < 0.25
    return [
        say(rng, str(name), str(rng.choice(voices)) if several else voice, span, carried=carried)
        for name, span in zip(names, spans, strict=True)
    ]


def _sounds(rng: np.random.Generator, spans: Sequence[Span]) -> list[Heard]:
    """A different kind of sound in every span that has room for it."""
    unused = dict(_KINDS)
    found: list[Heard] = []
    for span in spans:
        room = span[1] - span[0]
        fitting = {
            kind: share
            for kind, share in unused.items()
            if MIN_LENGTH.get(kind, _MUSIC_LENGTHS[0]) <= room
        }
        if fitting:
            kind = weighted_choice(rng, fitting)
            del unused[kind]
            found.append(_sound(rng, kind, span))
    return found


def _spans(
    rng: np.random.Generator, picture: Picture | None, seconds: float, recipe: str
) -> list[Span]:
    """Where something is heard: in shots (some of them left quiet) or side by side."""
    shots = _of_shots(picture, seconds)
    several = picture is not None and len(picture.shots) > 1
    is_moment = picture is not None and picture.moment is not None
    if several and shots and (is_moment or rng.random() < 0.85):
        quiet = rng.random() < 0.35 and len(shots) > 1
        keep = len(shots) - int(quiet)
        return [shots[index] for index in sorted(rng.permutation(len(shots))[:keep])]
    most = max(1, int(seconds / (_LONGEST_WORD + 2 * _EDGE)))
    if recipe == "words":
        count = int(rng.integers(1, min(MAX_WORDS, most) + 1))
    else:
        count = min(most, 1 + int(rng.random() < 0.45) + int(rng.random() < 0.1))
    return _side_by_side(rng, seconds, count)


def draw_heard(
    rng: np.random.Generator,
    picture: Picture | None,
    seconds: float,
    level: float,
    *,
    voices: Sequence[str] = TRAINING_VOICES,
) -> tuple[Heard, ...]:
    """Decide what is heard in `seconds` of sound, by difficulty (0..1)."""
    words = 0.12 + 0.4 * level
    if picture is not None and len(picture.shots) > 1:
        words += (0.25 if picture.asks_for_words else 0.1) * level
    shares = {"nothing": 0.07, "words": words, "mixed": 0.12 * level}
    shares["sounds"] = 1.0 - sum(shares.values())
    recipe = weighted_choice(rng, shares)
    if recipe == "nothing" or seconds < _LONGEST_WORD + 4 * _EDGE:
        return ()
    shown = [thing.word for thing in picture.things if thing.word] if picture is not None else []
    spans = _spans(rng, picture, seconds, recipe)
    carried = bool(rng.random() < _CARRIED * level)
    if recipe == "words" and len(shown) == 1 and shown[0] in WORDS and rng.random() < 0.6:
        # Half of the time the one word that is said is the one that is printed.
        span = spans[int(rng.integers(len(spans)))]
        found: list[Heard] = _words(rng, [span], voices, shown, carried)
        if rng.random() < 0.5:
            found = [say(rng, shown[0], str(rng.choice(voices)), span, carried=carried)]
    elif recipe == "words":
        found = _words(rng, spans, voices, (), carried)
    elif recipe == "sounds" or len(spans) < 2:
        # Speech is a kind of sound too, and then one of several.
        count = int(rng.random() < 0.2)
        mixed = rng.permutation(len(spans))
        found = _words(rng, [spans[index] for index in mixed[:count]], voices, ())
        found += _sounds(rng, [spans[index] for index in mixed[count:]])
    else:
        odd = int(rng.integers(len(spans)))
        rest = [span for index, span in enumerate(spans) if index != odd]
        found = _words(rng, rest, voices, ()) + _sounds(rng, [spans[odd]])
    return tuple(sorted(found, key=lambda sound: sound.start))


def draw_bed(rng: np.random.Generator, level: float) -> Bed:
    """Decide what is heard under everything: room noise at most where the difficulty is 0."""
    seed = int(rng.integers(2**31))
    draw = rng.random()
    if draw < 0.3:
        return Bed()
    if draw < 1 - 0.4 * level:
        return Bed("noise", float(10 ** rng.uniform(-4.5, -2.8)), seed)
    if draw < 1 - 0.18 * level:
        return Bed("noise", float(10 ** rng.uniform(-2.8, -1.8)), seed)
    return Bed("music", float(10 ** rng.uniform(-2.6, -1.8)), seed)


def over_bed(heard: Sequence[Heard], bed: Bed) -> tuple[Heard, ...]:
    """The sounds, made loud enough to stand out from the bed."""
    least = min(_ABOVE_BED * bed.level, 0.9)
    return tuple(replace(sound, amplitude=max(sound.amplitude, least)) for sound in heard)


@lru_cache(maxsize=2)
def _noise_pool(dull: bool) -> FloatArray:
    """Unit noise, white or falling by about 3 dB per octave, to cut pieces from."""
    rng = np.random.default_rng(21)
    samples = 1 << 18
    if not dull:
        return rng.standard_normal(samples, dtype=np.float32)
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 50.0))
    noise = np.fft.irfft(spectrum, samples)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _noise(seed: int, samples: int) -> FloatArray:
    """Noise with a standard deviation of 1: float32 (samples,)."""
    rng = np.random.default_rng(seed)
    pool = _noise_pool(bool(rng.random() < 0.5))
    start = int(rng.integers(len(pool)))
    return np.resize(np.roll(pool, -start), samples)


def _plucked(frequency: float, bright: float) -> FloatArray:
    """A note that fades away: float32 (14400,)."""
    when = np.arange(int(0.9 * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    wave = np.zeros_like(when)
    for harmonic in range(1, 5):
        fade = np.exp(-when * (3.0 + 2.0 * harmonic))
        wave += bright ** (harmonic - 1) * fade * np.sin(2 * np.pi * harmonic * frequency * when)
    wave[:80] *= np.linspace(0, 1, 80, dtype=np.float32)
    wave[-80:] *= np.linspace(1, 0, 80, dtype=np.float32)
    return np.asarray(wave, dtype=np.float32)


def _music(seed: int, samples: int) -> FloatArray:
    """A plucked tune with a bass, with a standard deviation of 1: float32 (samples,)."""
    rng = np.random.default_rng(seed)
    root = float(110 * 2 ** (rng.integers(0, 12) / 12))
    steps = [0, 3, 5, 7, 10] if rng.random() < 0.5 else [0, 2, 4, 7, 9]
    bright = float(rng.uniform(0.2, 0.6))
    notes = [_plucked(root * 2 ** ((step + 12) / 12), bright) for step in [*steps, 12]]
    bass = [1.5 * _plucked(root * 2 ** (step / 12), 0.4) for step in steps[:3]]
    beat = int(SAMPLE_RATE * rng.uniform(0.22, 0.4))
    track = np.zeros(samples + len(notes[0]), dtype=np.float32)
    for index, start in enumerate(range(0, samples, beat)):
        if index % 4 == 0:
            note = bass[int(rng.integers(len(bass)))]
            track[start : start + len(note)] += note
        if rng.random() < 0.8:
            note = notes[int(rng.integers(len(notes)))]
            track[start : start + len(note)] += note
    track = track[:samples]
    return np.asarray(track / max(float(track.std()), 1e-6), dtype=np.float32)


def _faded(wave: FloatArray) -> FloatArray:
    steps = np.arange(len(wave), dtype=np.float32)
    return np.asarray(wave * np.minimum(1.0, np.minimum(steps, steps[::-1]) / _RAMP))


def render_sound(script: Script) -> FloatArray:
    """Synthesise a script's sound: float32 (audio_samples,), -1..1 at `SAMPLE_RATE`."""
    samples = script.layout.audio_samples
    plain = [sound for sound in script.heard if isinstance(sound, Sound) and sound.kind != "music"]
    track = synthesise(plain, samples)
    for sound in script.heard:
        first = int(sound.start * SAMPLE_RATE)
        if isinstance(sound, SpokenWord):
            wave = _said(sound.word, sound.voice, sound.seed, sound.carrier)
        elif sound.kind == "music":
            tune = _faded(_music(sound.seed, int((sound.end - sound.start) * SAMPLE_RATE)))
            wave = tune / max(float(np.abs(tune).max()), 1e-6)
        else:
            continue
        piece = sound.amplitude * wave[: max(0, samples - first)]
        track[first : first + len(piece)] += piece
    bed = script.bed
    if bed.level > 0:
        track += bed.level * (_music if bed.kind == "music" else _noise)(bed.seed, samples)
    return np.clip(track, -1.0, 1.0)
