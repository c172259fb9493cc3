"""Named sounds on a timeline: tones, beeps, chirps and noise, drawn and synthesised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seats_cli.world.vocabulary import MAX_BEEPS, SAMPLE_RATE

FloatArray = npt.NDArray[np.float32]

LOW_PITCH_BELOW = 650.0  # Hz; between the two limits "high or low" is not asked
HIGH_PITCH_ABOVE = 1400.0
MIN_LENGTH = {"tone": 1.0, "beeps": 0.15, "chirp": 0.5, "noise": 0.4}  # seconds
_MAX_LENGTH = {"tone": 5.0, "chirp": 1.8, "noise": 2.0}  # seconds
_RAMP = 80  # samples faded in and out: 5 ms, so that no sound starts with a click


@dataclass(frozen=True)
class Sound:
    """One named sound."""

    kind: str  # one of `MIN_LENGTH`, or "music" (see `soundtrack`)
    start: float  # seconds
    end: float
    amplitude: float  # peak, 0..1
    frequency: float = 0.0  # Hz, of tones and beeps; start of a chirp
    end_frequency: float = 0.0  # Hz, end of a chirp; otherwise equal to `frequency`
    beeps: tuple[tuple[float, float], ...] = ()  # start and end of each, only of "beeps"
    overtone: float = 0.0  # strength of the second harmonic of tones and beeps
    seed: int = 0  # for noise and music

    @property
    def pitch(self) -> str | None:
        """`low` or `high`; None in between, where listeners would disagree."""
        if self.kind not in ("tone", "beeps"):
            return None
        if self.frequency < LOW_PITCH_BELOW:
            return "low"
        return "high" if self.frequency > HIGH_PITCH_ABOVE else None

    @property
    def sweep(self) -> str | None:
        """`rising` or `falling` for chirps."""
        if self.kind != "chirp":
            return None
        return "rising" if self.end_frequency > self.frequency else "falling"


def _beep_times(rng: np.random.Generator, low: float, high: float) -> list[tuple[float, float]]:
    """Between 1 and `MAX_BEEPS` equal beeps of 0.1 to 0.6 s inside [low, high]."""
    room = high - low
    least_gap = 0.14
    most = min(MAX_BEEPS, int((room + least_gap) / (0.1 + least_gap)))
    count = int(rng.integers(1, max(most, 1) + 1))
    longest = min(0.6, max(0.1, (room - (count - 1) * least_gap) / count))
    length = 0.1 + (longest - 0.1) * float(rng.random()) ** 1.5
    gap = 0.0
    if count > 1:
        widest = min(0.9, (room - count * length) / (count - 1))
        gap = float(rng.uniform(least_gap, max(widest, least_gap + 1e-6)))
    total = count * length + (count - 1) * gap
    first = float(rng.uniform(low, max(high - total, low + 1e-6)))
    starts = [first + index * (length + gap) for index in range(count)]
    return [(start, start + length) for start in starts]


def sample_sound(rng: np.random.Generator, kind: str, low: float, high: float) -> Sound:
    """Draw a sound of the given kind that fits into [low, high] seconds.

    Raises
    ------
    ValueError
        If the room is shorter than `MIN_LENGTH` of the kind.
    """
    room = high - low
    if room < MIN_LENGTH[kind]:
        raise ValueError(f"{kind} needs {MIN_LENGTH[kind]} s, got {room:.2f} s")
    amplitude = float(10 ** rng.uniform(-1.4, -0.2))
    seed = int(rng.integers(2**31))
    if kind == "beeps":
        beeps = _beep_times(rng, low, high)
        start, end = beeps[0][0], beeps[-1][1]
    else:
        beeps = []
        longest = min(_MAX_LENGTH[kind], room)
        length = float(rng.uniform(max(MIN_LENGTH[kind], 0.4 * longest), longest))
        start = float(rng.uniform(low, high - length))
        end = start + length
    frequency = end_frequency = 0.0
    if kind in ("tone", "beeps"):
        frequency = end_frequency = float(np.exp(rng.uniform(np.log(200), np.log(3500))))
    elif kind == "chirp":
        frequency, end_frequency = float(rng.uniform(200, 450)), float(rng.uniform(1800, 3500))
        if rng.random() < 0.5:
            frequency, end_frequency = end_frequency, frequency
    overtone = float(rng.uniform(0, 0.3))
    frequencies = (frequency, end_frequency)
    return Sound(kind, start, end, amplitude, *frequencies, tuple(beeps), overtone, seed)


def _faded(wave: np.ndarray) -> np.ndarray:
    steps = np.arange(len(wave))
    return wave * np.minimum(1.0, np.minimum(steps, steps[::-1]) / _RAMP)


def _tone(frequency: float, overtone: float, samples: int) -> np.ndarray:
    phase = 2 * np.pi * frequency * np.arange(samples) / SAMPLE_RATE
    return np.asarray(np.sin(phase) + overtone * np.sin(2 * phase))


def _chirp(first: float, last: float, samples: int) -> np.ndarray:
    """Exponential sweep: equal time per octave."""
    ratio = np.log(last / first)
    part = np.arange(samples) / samples
    phase = 2 * np.pi * first * samples / SAMPLE_RATE * (np.exp(ratio * part) - 1) / ratio
    return np.asarray(np.sin(phase))


def _noise(seed: int, samples: int) -> np.ndarray:
    """White noise, sometimes low-passed."""
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal(samples)
    if rng.random() < 0.4:
        wave = (wave + np.roll(wave, 1) + np.roll(wave, 2)) / 1.7
    return wave * 0.4


def _waves(sound: Sound) -> list[tuple[float, np.ndarray]]:
    """(start in seconds, waveform) of every piece of a sound."""
    samples = int((sound.end - sound.start) * SAMPLE_RATE)
    if sound.kind == "beeps":
        return [
            (start, _tone(sound.frequency, sound.overtone, int((end - start) * SAMPLE_RATE)))
            for start, end in sound.beeps
        ]
    if sound.kind == "tone":
        return [(sound.start, _tone(sound.frequency, sound.overtone, samples))]
    if sound.kind == "chirp":
        return [(sound.start, _chirp(sound.frequency, sound.end_frequency, samples))]
    return [(sound.start, _noise(sound.seed, samples))]


def synthesise(sounds: Sequence[Sound], samples: int) -> FloatArray:
    """Mix sounds of `MIN_LENGTH` into a track of `samples` at `SAMPLE_RATE`: float32 (samples,)."""
    track = np.zeros(samples, dtype=np.float32)
    for sound in sounds:
        for start, wave in _waves(sound):
            first = int(start * SAMPLE_RATE)
            piece = (sound.amplitude * _faded(wave))[: max(0, samples - first)]
            track[first : first + len(piece)] += piece.astype(np.float32)
    return np.clip(track, -1.0, 1.0)
