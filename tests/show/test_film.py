"""The film: length, size, sound and dimmed patches, read back by our own reader."""

from __future__ import annotations

import dataclasses

import av
import numpy as np
import pytest

from seats_cli.errors import UsageError
from seats_cli.families.base import FrameSizing
from seats_cli.media.reader import read_clip
from seats_cli.show.film import render_film
from tests.media.build import Picture, Sound, plain, tone, turn, write


def film_of(run, path, target):
    render_film(run.record, run.clip, str(path), target)
    return read_whole(target)


def read_whole(path):
    """Every frame in its own size."""
    with av.open(str(path)) as container:
        area = container.streams.video[0].width * container.streams.video[0].height
    return read_clip(path, fps=25, sizing=FrameSizing(2, area, area, None))


def test_length_size_sound_and_veil(ask, tmp_path):
    path = write(
        tmp_path / "a.mp4",
        Picture([plain(200, 160, 96)] * 100, [k / 25 for k in range(100)]),
        [Sound(tone(4, hertz=500))],
    )
    run = ask(path)
    film = film_of(run, path, tmp_path / "film.mp4")
    assert (film.facts.video_codec, film.facts.audio_codec) == ("h264", "aac")
    assert film.facts.duration_s == pytest.approx(4.0, abs=0.1)
    assert (film.facts.source_width, film.facts.source_height) == (160, 96)
    assert film.facts.source_fps == pytest.approx(25)
    assert film.warnings == ()
    power = np.abs(np.fft.rfft(film.audio[:16_000]))
    assert power.argmax() == pytest.approx(500, abs=2)
    # Every patch of every grid is either bright or dim, as the trace says.
    grid = run.record.grid
    lived = run.record.layers_lived()[run.record.modality == 1]
    lived = lived.reshape(grid.grids, grid.rows, grid.columns)
    for number in range(grid.grids):
        frame = film.frames[int((number + 0.5) * 25)].mean(-1)
        rows, columns = (np.arange(n) + 0.5 for n in (grid.rows, grid.columns))
        y, x = (rows / grid.rows * 96).astype(int), (columns / grid.columns * 160).astype(int)
        np.testing.assert_array_equal(frame[np.ix_(y, x)] > 140, lived[number] > 0)


def test_a_turned_film_is_upright(ask, tmp_path):
    pixels = plain(90, 128, 64)
    pixels[:32, :64] = 250  # the top left, as coded
    plainly = write(tmp_path / "a.mp4", Picture([pixels] * 50, [k / 25 for k in range(50)]))
    path = turn(plainly, tmp_path / "b.mp4", 90)
    run = ask(path)
    keeps_all = dataclasses.replace(run.record, stages=())
    render_film(keeps_all, run.clip, str(path), tmp_path / "film.mp4")
    film = read_whole(tmp_path / "film.mp4")
    assert (film.facts.source_width, film.facts.source_height) == (64, 128)
    assert film.facts.rotation_deg == 0
    frame = film.frames[0].mean(-1)
    assert frame[:50, 40:].mean() > 200 > 120 > frame[70:].mean()  # the top right now


def test_a_range_and_frames_of_odd_size(ask, bundled, tmp_path):
    frames = [plain(200 if k >= 75 else 60, 162, 90) for k in range(150)]
    path = write(
        tmp_path / "a.mp4",
        Picture(frames, [k / 25 for k in range(150)]),
        [Sound(tone(6))],
    )
    run = ask(path)
    clip = read_clip(path, start=2.0, end=4.0, sizing=bundled.sizing)
    record = dataclasses.replace(
        run.record,
        media=clip.facts,
        stages=(),
        grid=dataclasses.replace(run.record.grid, grids=2),
        modality=np.ones(2 * run.record.grid.size, np.int64),
    )
    render_film(record, clip, str(path), tmp_path / "film.mp4")
    film = read_whole(tmp_path / "film.mp4")
    assert film.facts.duration_s == pytest.approx(2.0, abs=0.12)
    light = film.frames.mean((1, 2, 3))
    switch = int(np.argmax(light > 130))
    assert film.frame_times[switch] == pytest.approx(1.0, abs=0.05)


def test_sound_longer_than_the_picture_is_kept(ask, tmp_path):
    path = write(
        tmp_path / "a.mp4",
        Picture([plain(90)] * 25, [k / 25 for k in range(25)]),
        [Sound(tone(3))],
    )
    run = ask(path)
    film = film_of(run, path, tmp_path / "film.mp4")
    assert film.audio_s == pytest.approx(3.0, abs=0.15)


def test_without_sound_and_without_picture(ask, speech, tmp_path):
    path = write(tmp_path / "a.mp4", Picture([plain(90)] * 25, [k / 25 for k in range(25)]))
    run = ask(path)
    assert film_of(run, path, tmp_path / "film.mp4").audio is None
    with pytest.raises(UsageError, match="no"):
        render_film(speech.record, speech.clip, "jfk.wav", tmp_path / "none.mp4")


def test_ordinary_players_find_the_index_first(ask, tmp_path):
    picture = Picture([plain(90, 160, 96)] * 50, [k / 25 for k in range(50)])
    path = write(tmp_path / "a.mp4", picture, [Sound(tone(2))])
    run, target = ask(path), tmp_path / "film.mp4"
    render_film(run.record, run.clip, str(path), target)
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.duration / 1e6 == pytest.approx(2.0, abs=0.1)
