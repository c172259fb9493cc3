"""Channels into one: weights of layouts, microphones, and channels that cancel each other."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from seats_cli.media import SAMPLE_RATE, Clip, read_clip
from seats_cli.media.downmix import channel_weights
from tests.media.build import Sound, steady, tone, unnamed_channels, write
from tests.media.test_sound import level


def cancelling(clip: Clip) -> list[str]:
    return [w for w in clip.warnings if "cancel each other" in w]


def noise(seconds: float, seed: int) -> np.ndarray:
    samples = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE))
    return samples.clip(-1, 1).astype(np.float32)


@pytest.mark.parametrize(
    "layout", ["stereo", "3.0", "quad", "5.0", "5.1", "5.1(side)", "6.1", "7.1", "octagonal"]
)
def test_the_weights_are_those_of_libswresample(layout: str) -> None:
    """It has the matrix of ITU-R BS.775 for the layouts that it knows."""
    names = tuple(channel.name for channel in av.AudioLayout(layout).channels)
    mixed = []
    for channel in range(len(names)):
        samples = np.zeros((4096, len(names)), np.float32)
        samples[:, channel] = 0.5
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", layout)
        frame.sample_rate = SAMPLE_RATE
        mixer = av.AudioResampler("fltp", "mono", SAMPLE_RATE)
        mixed.append(float(mixer.resample(frame)[0].to_ndarray()[0, 2000]))
    assert channel_weights(names) == pytest.approx(np.array(mixed) / sum(mixed), abs=1e-4)


def test_what_no_matrix_knows() -> None:
    high = av.AudioLayout("7.1.4")
    weights = channel_weights(tuple(channel.name for channel in high.channels))
    assert weights.sum() == pytest.approx(1)
    assert (weights > 0).sum() == 11  # all but the LFE: none of the four above is dropped
    assert channel_weights(("AMBI0", "AMBI1", "AMBI2", "AMBI3")).tolist() == [1, 0, 0, 0]
    assert channel_weights(("LFE",)).tolist() == [1]


def test_the_lfe_of_a_layout_is_left_out(tmp_path: Path) -> None:
    samples = np.stack([0 * noise(1, 0), 0 * noise(1, 0), tone(1, 60, SAMPLE_RATE)[0]])
    path = write(tmp_path / "a.wav", sounds=[Sound(samples, SAMPLE_RATE, "2.1", codec="pcm_s16le")])
    clip = read_clip(path)
    assert np.abs(clip.audio).max() == 0
    assert not cancelling(clip)


@pytest.mark.parametrize("count", [2, 3, 4, 6, 8, 12])
def test_channels_without_a_layout_are_microphones(tmp_path: Path, count: int) -> None:
    """In three, the third would be an LFE if they were taken for 2.1; in six, the fourth."""
    for channel in range(count):
        samples = np.zeros((count, SAMPLE_RATE), np.float32)
        samples[channel] = tone(1, 440, SAMPLE_RATE)[0]
        clip = read_clip(unnamed_channels(tmp_path / f"{channel}.wav", samples))
        assert level(clip.audio) == pytest.approx(0.5 / count, abs=0.01)
        assert not cancelling(clip)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("factor", [-1.0, -0.9, -1.1])
def test_channels_that_cancel_each_other(tmp_path: Path, rate: int, factor: float) -> None:
    wave = 0.8 * tone(3, 440, rate)[0]
    path = unnamed_channels(tmp_path / "a.wav", np.stack([wave, factor * wave]), rate)
    clip = read_clip(path)
    assert level(clip.audio) == pytest.approx(0.4, abs=0.02)
    assert len(cancelling(clip)) == 1
    assert "for 3.0 s" in cancelling(clip)[0]
    wanted = 0.8 * tone(3, 440, SAMPLE_RATE)[0]
    assert np.abs(clip.audio[400:-400] - wanted[400 : len(clip.audio) - 400]).max() < 0.02


def test_named_and_coded_channels_that_cancel(tmp_path: Path) -> None:
    """A lossy codec leaves a little of the mix."""
    samples = np.stack([noise(3, 1), -noise(3, 1)])
    path = write(tmp_path / "a.mp4", steady(75), [Sound(samples, SAMPLE_RATE, "stereo")])
    clip = read_clip(path)
    assert np.std(clip.audio) == pytest.approx(0.1, abs=0.02)
    assert cancelling(clip)
    six = np.tile(tone(2, 440, SAMPLE_RATE), (6, 1))
    six[[1, 4, 5, 2]] *= np.array([[-1], [-1], [1], [0]], np.float32)
    surround = Sound(six, SAMPLE_RATE, "5.1", codec="pcm_s16le")
    clip = read_clip(write(tmp_path / "b.wav", sounds=[surround]))
    assert level(clip.audio) == pytest.approx(0.5, abs=0.02)
    assert cancelling(clip)


def test_a_part_that_cancels(tmp_path: Path) -> None:
    """Two voices in the first half, one wired the wrong way round in the second."""
    left, right = noise(8, 1), noise(8, 2)
    right[len(right) // 2 :] = -left[len(left) // 2 :]
    clip = read_clip(unnamed_channels(tmp_path / "a.wav", np.stack([left, right])))
    half = 4 * SAMPLE_RATE
    assert np.abs(clip.audio[:half] - (left + right)[:half] / 2).max() < 1e-3
    assert np.abs(clip.audio[half + 400 :] - left[half + 400 :]).max() < 1e-3
    assert "for 4.0 s" in cancelling(clip)[0]
    assert not cancelling(read_clip(tmp_path / "a.wav", end=3.9))
    # What is decoded on the way to the range is not part of it.
    turned = unnamed_channels(tmp_path / "b.wav", np.stack([left, right])[:, ::-1])
    assert not cancelling(read_clip(turned, start=4.1))
    assert "for 2.0 s" in cancelling(read_clip(tmp_path / "a.wav", start=6.0))[0]


@pytest.mark.parametrize(("start", "end"), [(0.3, 2.7), (3.13, 6.9), (4.05, 8.0)])
def test_a_range_is_mixed_like_the_whole(tmp_path: Path, start: float, end: float) -> None:
    left, right = noise(8, 1), noise(8, 2)
    right[3 * SAMPLE_RATE : 6 * SAMPLE_RATE] = -left[3 * SAMPLE_RATE : 6 * SAMPLE_RATE]
    path = unnamed_channels(tmp_path / "a.wav", np.stack([left, right]))
    whole, part = read_clip(path).audio, read_clip(path, start=start, end=end).audio
    assert whole is not None
    begin = round(start * SAMPLE_RATE)
    assert np.abs(part - whole[begin : begin + len(part)]).max() < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_channels_that_do_not_cancel(tmp_path: Path, seed: int) -> None:
    """Equal ones, unrelated ones, one that is silent, a delayed one, and a faint hum."""
    wave = noise(2, seed)
    hum = 3e-4 * tone(2, 50, SAMPLE_RATE)[0]
    for other in (wave, noise(2, seed + 9), 0 * wave, -np.roll(wave, 40), -0.4 * wave):
        clip = read_clip(unnamed_channels(tmp_path / "a.wav", np.stack([wave, other])))
        assert not cancelling(clip)
        assert np.abs(clip.audio - (wave + other) / 2).max() < 1e-3
    assert not cancelling(read_clip(unnamed_channels(tmp_path / "b.wav", np.stack([hum, -hum]))))
