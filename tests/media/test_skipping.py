"""Unwanted frames without references are skipped, and the wanted ones come out the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from seats_cli.media import FrameSizing, read_clip
from seats_cli.media import reader as reading_module
from seats_cli.media import video as decoding_module
from seats_cli.media.video import FrameReader
from tests.media.build import Picture, Sound, number_of, steady, tone, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
PYRAMID = "bframes=5:b-adapt=0:b-pyramid=normal:scenecut=0:ref=4"
REFERRING = {"qp": "24", "preset": "fast", "x264-params": PYRAMID}
OPEN = {**REFERRING, "x264-params": f"{PYRAMID}:open-gop=1:keyint=30"}


def moving(count: int, fps: float = 25.0, **options: Any) -> Picture:
    """Noise that drifts, so that frames refer to each other and an error would show."""
    random = np.random.default_rng(0)
    ground = random.integers(0, 256, (64, 400, 3), dtype=np.uint8)
    glow = random.integers(0, 40, count, dtype=np.uint8)
    frames = [ground[:, k : k + 96] // 2 + glow[k] for k in range(count)]
    return Picture(frames, [k / fps for k in range(count)], **options)


def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode every frame from here on."""
    for module in (decoding_module, reading_module):
        monkeypatch.setattr(module, "can_skip_nonref", lambda *_: False)


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Stamps of the frames that come out of the decoder from here on."""
    stamps: list[int | None] = []
    settle = FrameReader._settle

    def noting(reader: FrameReader, frame: av.VideoFrame) -> Any:
        stamps.append(frame.pts)
        return settle(reader, frame)

    monkeypatch.setattr(FrameReader, "_settle", noting)
    return stamps


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
@pytest.mark.parametrize("fps", [0.5, 2.0, 7.0])
@pytest.mark.parametrize(
    "options",
    [
        REFERRING,
        {**REFERRING, "g": "12"},
        {**REFERRING, "x264-params": f"{PYRAMID}:open-gop=1:keyint=30"},
    ],
)
def test_the_same_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fps: float, options: dict[str, str]
) -> None:
    path = write(tmp_path / name, moving(150, options=options))
    skipping = read_clip(path, sizing=SMALL, fps=fps)
    everything(monkeypatch)
    whole = read_clip(path, sizing=SMALL, fps=fps)
    assert skipping.frames is not None
    assert np.array_equal(skipping.frames, whole.frames)
    assert np.array_equal(skipping.frame_times, whole.frame_times)
    assert skipping.warnings == whole.warnings


def test_a_part_of_the_frames_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", moving(250, options=REFERRING))
    stamps = decoded(monkeypatch)
    read_clip(path, sizing=SMALL)
    skipping = len(stamps)
    everything(monkeypatch)
    stamps.clear()
    read_clip(path, sizing=SMALL)
    assert skipping < 0.8 * len(stamps)


def test_damage_is_found_in_unwanted_frames_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged wanted frame makes the reader decode everything: the warning counts all."""
    path = write(tmp_path / "a.mp4", moving(150, options=REFERRING), [Sound(tone(6))])
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    for at in range(start + 2000, len(data) * 2 // 3, 4000):
        data[at : at + 300] = bytes(300)
    path.write_bytes(data)
    skipping = read_clip(path, sizing=SMALL)
    everything(monkeypatch)
    whole = read_clip(path, sizing=SMALL)
    assert skipping.warnings == whole.warnings
    # Pictures are not compared: with threads, a damaged film comes out otherwise every time.


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Of an interlaced film nothing is skipped: half a frame could be lost."""
    options = {**REFERRING, "x264-params": f"{PYRAMID}:tff=1"}
    path = write(tmp_path / name, moving(100, options=options))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    stamps = decoded(monkeypatch)
    skipping = read_clip(path, sizing=SMALL)
    assert len(stamps) >= 97
    everything(monkeypatch)
    whole = read_clip(path, sizing=SMALL)
    assert np.array_equal(skipping.frames, whole.frames)
    assert skipping.warnings == whole.warnings


def test_other_codecs_decode_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", steady(50, codec="mpeg4", options={"bf": "2"}))
    stamps = decoded(monkeypatch)
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert [number_of(frame) for frame in clip.frames] == [0, 16, 33, 49]
    assert len(stamps) >= 49
