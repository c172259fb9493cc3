"""Speech-like sound: harmonics of a wandering voice shaped by formants, syllable by syllable."""

from __future__ import annotations

import numpy as np

from seats_cli.tiny.vocabulary import SAMPLE_RATE

# First three formants (Hz) of a few vowels; what is said does not matter, only that it talks.
_VOWELS = np.array(
    [
        [730, 1090, 2440],
        [270, 2290, 3010],
        [300, 870, 2240],
        [530, 1840, 2480],
        [570, 840, 2410],
        [660, 1720, 2410],
        [490, 1350, 1690],
    ],
    dtype=np.float64,
)
_BANDWIDTHS = np.array([90.0, 120.0, 180.0])  # Hz
_CONTROL_RATE = 200  # formants and loudness are set this many times per second


def _syllable_track(rng: np.random.Generator, steps: int) -> tuple[np.ndarray, ...]:
    """Control tracks: formants (steps, 3) in Hz, voiced and hiss loudness (steps,)."""
    formants = np.zeros((steps, 3))
    voiced, hiss = np.zeros(steps), np.zeros(steps)
    position = 0
    while position < steps:
        vowel = _VOWELS[rng.integers(len(_VOWELS))] * rng.uniform(0.92, 1.12)
        onset = int(rng.uniform(0.02, 0.09) * _CONTROL_RATE)
        body = int(rng.uniform(0.09, 0.24) * _CONTROL_RATE)
        end = min(position + onset + body, steps)
        formants[position:end] = vowel
        if rng.random() < 0.45:
            hiss[position : position + onset] = rng.uniform(0.05, 0.3)
        middle = min(position + onset, end)
        voiced[middle:end] = np.sin(np.linspace(0.25, np.pi - 0.1, end - middle))
        pause = rng.uniform(0.12, 0.3) if rng.random() < 0.12 else rng.uniform(0, 0.03)
        position = end
        stop = min(position + int(pause * _CONTROL_RATE), steps)
        formants[position:stop] = vowel
        position = max(stop, position)
    return formants, voiced, hiss


def _smooth(track: np.ndarray, width: int) -> np.ndarray:
    """Moving average along the first axis: mouths do not jump."""
    kernel = np.ones(width) / width
    columns = track.reshape(len(track), -1)
    padded = np.pad(columns, ((width // 2, width - 1 - width // 2), (0, 0)), mode="edge")
    smooth = [np.convolve(padded[:, i], kernel, mode="valid") for i in range(columns.shape[1])]
    return np.stack(smooth, axis=1).reshape(track.shape)


def synthesise_speech(seed: int, samples: int) -> np.ndarray:
    """Babble of the given length.

    Parameters
    ----------
    seed : int
        Chooses voice and syllables.
    samples : int
        Length at `SAMPLE_RATE`.

    Returns
    -------
    float64 array, shape (samples,)
        Peak about 1.
    """
    rng = np.random.default_rng(seed)
    steps = samples * _CONTROL_RATE // SAMPLE_RATE + 2
    formants, voiced, hiss = _syllable_track(rng, steps)
    formants, voiced, hiss = _smooth(formants, 7), _smooth(voiced, 3), _smooth(hiss, 3)

    voice = rng.uniform(85, 240)  # Hz
    drift = np.cumsum(rng.standard_normal(steps)) * 0.004
    pitch = voice * (1 + 0.08 * np.sin(np.linspace(0, rng.uniform(2, 8), steps)) + 0.3 * drift)
    pitch = np.clip(pitch, 70, 300)

    when = np.arange(samples) * (_CONTROL_RATE / SAMPLE_RATE)
    control = np.arange(steps)
    phase = 2 * np.pi * np.cumsum(np.interp(when, control, pitch)) / SAMPLE_RATE
    wave = np.zeros(samples)
    for harmonic in range(1, int(min(30, 3600 / voice)) + 1):
        distance = (harmonic * pitch[:, None] - formants) / _BANDWIDTHS
        resonance = (np.array([1.0, 0.6, 0.3]) / (1 + distance**2)).sum(axis=1)
        strength = (resonance + 0.02) * voiced / harmonic**0.4
        wave += np.interp(when, control, strength) * np.sin(harmonic * phase)
    breath = rng.standard_normal(samples)
    wave += np.interp(when, control, hiss) * (breath - np.roll(breath, 1)) * 0.7
    peak = float(np.abs(wave).max()) or 1.0
    return wave / peak
