"""Sound: format, weights, completeness, and nothing lost without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seats_cli.errors import MediaError, UsageError
from seats_cli.media import SAMPLE_RATE, audio, notices, read_clip
from tests.media.build import Picture, Sound, click, plain, steady, tone, write


def sound_of(path: Path, **options: object) -> np.ndarray:
    clip = read_clip(path, **options)  # type: ignore[arg-type]
    assert clip.audio is not None
    assert clip.audio.dtype == np.float32
    return clip.audio


def level(samples: np.ndarray) -> float:
    """Amplitude of a sine, from its middle part."""
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    return float(np.sqrt(2 * np.mean(middle.astype(np.float64) ** 2)))


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 96_000])
@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_rates_and_layouts(tmp_path: Path, rate: int, layout: str, channels: int) -> None:
    audio = Sound(tone(1.5, 440, rate, channels), rate, layout, codec="pcm_s16le")
    audio = sound_of(write(tmp_path / "a.wav", sounds=[audio]))
    assert len(audio) == pytest.approx(1.5 * SAMPLE_RATE, abs=2)
    wanted = tone(1.5, 440, SAMPLE_RATE)[0][: len(audio)]
    # The same wave at the same place: the resampler adds no delay.
    assert np.abs(audio[200:-200] - wanted[200 : len(audio) - 200]).max() < 0.01


def test_surround_is_weighted_and_never_clips(tmp_path: Path) -> None:
    weights = []
    for channel in range(6):
        samples = np.zeros((6, 16_000), np.float32)
        samples[channel] = tone(1.0, 440, 16_000)[0]
        audio = Sound(samples, 16_000, "5.1", codec="pcm_s16le")
        weights.append(level(sound_of(write(tmp_path / f"{channel}.wav", sounds=[audio]))) / 0.5)
    left, right, centre, lfe, back_left, back_right = weights
    assert left == pytest.approx(right, rel=0.01)
    assert centre == pytest.approx(left * np.sqrt(2), rel=0.01)
    assert back_left == pytest.approx(left / np.sqrt(2), rel=0.01)
    assert back_right == pytest.approx(back_left, rel=0.01)
    assert lfe < 0.01
    assert sum(weights) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.m4a", "aac", 44_100), ("a.mp3", "libmp3lame", 44_100), ("a.opus", "libopus", 48_000)],
)
def test_sound_files(tmp_path: Path, name: str, codec: str, rate: int) -> None:
    path = write(tmp_path / name, sounds=[Sound(tone(2, 440, rate), rate, codec=codec)])
    clip = read_clip(path)
    assert clip.frames is None
    assert clip.audio_s == pytest.approx(2.0, abs=0.1)
    assert level(clip.audio) == pytest.approx(0.5, abs=0.03)
    assert [w for w in clip.warnings if "no picture" in w]
    with pytest.raises(MediaError, match="no picture"):
        read_clip(path, audio=False)


def test_cover_art_is_not_a_video(tmp_path: Path) -> None:
    """An ID3 picture in front of an MP3 stream."""
    Image = pytest.importorskip("PIL.Image")
    Image.fromarray(plain((200, 0, 0))).save(tmp_path / "cover.jpg")
    audio = Sound(tone(1, 440, 44_100), 44_100, codec="libmp3lame")
    mp3 = write(tmp_path / "a.mp3", sounds=[audio], container_options={"id3v2_version": "0"})
    picture = b"\0image/jpeg\0\x03\0" + (tmp_path / "cover.jpg").read_bytes()
    frame = b"APIC" + len(picture).to_bytes(4, "big") + b"\0\0" + picture
    size = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    path = tmp_path / "covered.mp3"
    path.write_bytes(b"ID3\x03\0\0" + size + frame + mp3.read_bytes())
    clip = read_clip(path)
    assert clip.frames is None
    assert clip.audio_s == pytest.approx(1.0, abs=0.1)


def test_several_tracks(tmp_path: Path) -> None:
    tracks = [Sound(tone(2, 300)), Sound(tone(2, 1200), language="eng")]
    path = write(tmp_path / "a.mkv", steady(50), tracks)

    def pitch(audio: np.ndarray) -> float:
        return float(np.argmax(np.abs(np.fft.rfft(audio[:16_000]))))

    first = read_clip(path)
    assert pitch(first.audio) == pytest.approx(300, abs=5)
    assert first.facts.audio_tracks == 2
    assert [w for w in first.warnings if "track 0" in w and "`audio_track`" in w]
    second = read_clip(path, audio_track=1)
    assert pitch(second.audio) == pytest.approx(1200, abs=5)
    assert second.facts.audio_track == 1
    assert not [w for w in second.warnings if "`audio_track`" in w]
    with pytest.raises(UsageError, match="tracks 0 to 1"):
        read_clip(path, audio_track=2)


def test_the_default_track_is_the_one_marked_as_such(tmp_path: Path) -> None:
    """A film whose first track is a commentary; `--audio-track 0` still means the first."""
    path = write(tmp_path / "a.mkv", steady(50), [Sound(tone(2, 300)), Sound(tone(2, 1200))])
    assert read_clip(path).facts.audio_track == 0
    data = bytearray(path.read_bytes())
    flags = [at for at in range(len(data)) if data[at : at + 3] == b"\x88\x81\0"]  # FlagDefault
    data[flags[-1] + 2] = 1
    path.write_bytes(data)
    clip = read_clip(path)
    assert clip.facts.audio_track == 1
    assert [w for w in clip.warnings if "track 1" in w and "`audio_track`" in w]
    assert read_clip(path, audio_track=0).facts.audio_track == 0


def test_no_sound_track(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(25))
    clip = read_clip(path)
    assert clip.audio is None
    assert clip.warnings == ("The file has no sound track; only the picture is used.",)
    with pytest.raises(MediaError, match="no sound track"):
        read_clip(path, video=False)
    with pytest.raises(UsageError, match="no sound"):
        read_clip(path, audio_track=0)


def test_a_gap_is_silence(tmp_path: Path) -> None:
    """Two stretches of one track with 1.5 s between them."""
    path = tmp_path / "a.mkv"
    audio = Sound(
        np.concatenate([tone(1, 440), np.zeros((1, 72_000), np.float32), tone(1, 440)], axis=1)
    )
    write(path, steady(90), [audio], drop_between=(1.0, 2.5))
    audio = sound_of(path)
    assert len(audio) == pytest.approx(3.5 * SAMPLE_RATE, abs=800)
    assert level(audio[2000:14_000]) == pytest.approx(0.5, abs=0.05)
    assert np.abs(audio[18_000:38_000]).max() == 0
    assert level(audio[42_000:54_000]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["a.wav", "a.mp4", "a.mkv", "a.ts"])
def test_a_range_is_cut_from_the_whole(tmp_path: Path, name: str) -> None:
    codec = "pcm_s16le" if name.endswith("wav") else "aac"
    times = np.arange(48_000 * 4) / 48_000
    sweep = (0.5 * np.sin(2 * np.pi * (200 * times + 100 * times**2))).astype(np.float32)[None]
    path = write(tmp_path / name, sounds=[Sound(sweep, codec=codec)])
    whole, part = sound_of(path), sound_of(path, start=1.25, end=3.0)
    assert len(part) == round(1.75 * SAMPLE_RATE)
    # Matroska rounds time stamps to 1 ms, so that much of a shift is in the file.
    lags = range(-16, 17)
    likeness = [np.corrcoef(part, whole[20_000 + lag : 48_000 + lag])[0, 1] for lag in lags]
    assert max(likeness) > 0.99


def test_sound_that_is_not_numbers(tmp_path: Path) -> None:
    """A float file may hold infinities; they must not reach the model."""
    samples = tone(1, 440, 16_000)[0]
    samples[5000:5010] = [np.nan, np.inf, -np.inf, 1e30, -1e30] * 2
    body = samples.astype("<f4").tobytes()
    head = b"RIFF" + (36 + len(body)).to_bytes(4, "little") + b"WAVEfmt \x10\0\0\0\x03\0\x01\0"
    head += (16_000).to_bytes(4, "little") + (64_000).to_bytes(4, "little") + b"\x04\0\x20\0"
    (tmp_path / "a.wav").write_bytes(head + b"data" + len(body).to_bytes(4, "little") + body)
    audio = sound_of(tmp_path / "a.wav")
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() <= 1.0


def test_a_short_click_is_not_moved(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", sounds=[Sound(click(2, 0.75), codec="pcm_s16le")])
    loud = np.flatnonzero(np.abs(sound_of(path)) > 0.2)
    assert loud[0] / SAMPLE_RATE == pytest.approx(0.75, abs=0.001)


def test_picture_longer_or_shorter_than_the_sound_causes_a_warning(tmp_path: Path) -> None:
    short = Picture([plain(90)] * 25, [k / 25 for k in range(25)])
    clip = read_clip(write(tmp_path / "a.mp4", short, [Sound(tone(3))]))
    assert clip.audio_s == pytest.approx(3.0, abs=0.05)
    assert [w for w in clip.warnings if w.startswith("The picture ends at 1.00 s")]
    clip = read_clip(write(tmp_path / "b.mp4", steady(75), [Sound(tone(1))]))
    assert [w for w in clip.warnings if w.startswith("The sound ends at 1.")]


@pytest.mark.parametrize("name", ["a.mp4", "a.wav"])
def test_a_longest_length_is_kept_with_a_warning(tmp_path: Path, name: str) -> None:
    codec = "pcm_s16le" if name.endswith("wav") else "aac"
    picture = None if name.endswith("wav") else steady(150)
    path = write(tmp_path / name, picture, [Sound(tone(6), codec=codec)])
    whole = sound_of(path)
    for options, length, left in (
        ({"max_audio": 2.5}, 2.5, 3.5),
        ({"max_audio": 2.5, "start": 1.0}, 2.5, 2.5),
        ({"max_audio": 1.0, "start": 1.0, "end": 4.0}, 1.0, 2.0),
    ):
        clip = read_clip(path, **options)  # type: ignore[arg-type]
        assert clip.audio_s == pytest.approx(length, abs=1e-3)
        cuts = [w for w in clip.warnings if w.startswith("The sound is cut")]
        assert len(cuts) == 1
        assert "`max_audio`" in cuts[0]
        assert "`start` and `end`" in cuts[0]
        assert float(cuts[0].split("other ")[1].split(" s")[0]) == pytest.approx(left, abs=0.1)
        assert not [w for w in clip.warnings if w.startswith("The sound ends")]
    assert np.array_equal(sound_of(path, max_audio=100), whole)
    assert not [w for w in read_clip(path, max_audio=100).warnings if "cut" in w]
    with pytest.raises(UsageError, match="above 0"):
        read_clip(path, max_audio=0)


def test_the_longest_sound_there_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight hours, here two seconds: that cut causes a warning too."""
    for module in (audio, notices):
        monkeypatch.setattr(module, "MAX_AUDIO_S", 2.0)
    path = write(tmp_path / "a.wav", sounds=[Sound(tone(5), codec="pcm_s16le")])
    clip = read_clip(path)
    assert clip.audio_s == pytest.approx(2.0, abs=1e-3)
    assert [w for w in clip.warnings if "its other 3.0 s" in w and "`max_audio`" not in w]
    assert not [w for w in read_clip(path, start=3.5).warnings if "cut" in w]
