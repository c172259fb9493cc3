"""Animated pictures: read as the video that they are, or one sentence."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from av.stream import Disposition

from seats_cli.errors import MediaError
from seats_cli.media import FrameSizing, container, probe, read_clip
from seats_cli.media.inspection import outline_clip
from tests.media.build import number_of, numbered, plain

Image = pytest.importorskip("PIL.Image")
SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)
NO_SOUND = "The file has no sound track; only the picture is used."
LOSSLESS = {"webp": {"lossless": True}, "avif": {"quality": 95}}


def animation(path: Path, frames: list[np.ndarray], duration: Any, **options: Any) -> Path:
    first, *more = map(Image.fromarray, frames)
    options |= LOSSLESS.get(path.suffix[1:], {})
    first.save(path, save_all=True, append_images=more, duration=duration, **options)
    return path


@pytest.mark.parametrize("suffix", ["webp", "png", "gif", "avif"])
@pytest.mark.parametrize("loop", [0, 1, 3])
def test_every_frame_has_its_time(tmp_path: Path, suffix: str, loop: int) -> None:
    """Once, whatever number of loops it asks for."""
    durations = [100] * 10 + [500] * 6 + [200] * 10
    frames = [numbered(k) for k in range(26)]
    path = animation(tmp_path / f"a.{suffix}", frames, durations, loop=loop)
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert clip.facts.duration_s == pytest.approx(6.0, abs=0.01)
    begins = np.cumsum([0, *durations[:-1]]) / 1000
    on_screen = np.searchsorted(begins, clip.frame_times + 1e-6, side="right") - 1
    assert [number_of(frame) for frame in clip.frames] == on_screen.tolist()
    assert clip.fps == pytest.approx(2.0, rel=0.1)
    assert clip.warnings == (NO_SOUND,)
    part = read_clip(path, sizing=SMALL, start=1.0, end=4.0)
    assert number_of(part.frames[0]) == 10
    assert outline_clip(path, sizing=SMALL).facts.frames_used == len(clip.frames)


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_a_rest_on_the_last_frame_is_part_of_it(tmp_path: Path, suffix: str) -> None:
    frames = [numbered(k) for k in range(20)]
    clip = read_clip(animation(tmp_path / f"a.{suffix}", frames, [100] * 19 + [4100]), sizing=SMALL)
    assert clip.frames is not None
    assert clip.frame_times is not None
    assert clip.frame_times[-1] > 5
    assert [number_of(frame) for frame in clip.frames[-6:]] == [19] * 6
    assert len(clip.frames) / clip.fps == pytest.approx(6.0, abs=0.3)


def test_what_a_webp_says_of_itself(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.webp", [numbered(k) for k in range(4)], 250)
    facts = read_clip(path, sizing=SMALL).facts
    assert (facts.container, facts.video_codec) == ("webp", "webp")
    assert (facts.source_width, facts.source_height) == (96, 64)


def test_only_what_changes_is_in_the_file(tmp_path: Path) -> None:
    """Frames that cover a part, and see-through ones over what was there before."""
    frames = [plain(200)]
    for k in range(1, 6):
        frames.append(frames[-1].copy())
        frames[-1][10:20, 12 * k : 12 * k + 10] = (10, 20, 30)
    path = animation(tmp_path / "a.webp", frames, 500, kmin=9, kmax=20)
    clip = read_clip(path, sizing=FrameSizing(4, 16, 96 * 64, None))
    assert clip.frames is not None
    assert clip.frames.shape == (6, 64, 96, 3)
    assert np.abs(clip.frames.astype(int) - np.stack(frames)).max() <= 1


def test_see_through_parts_are_white(tmp_path: Path) -> None:
    clear = np.zeros((64, 96, 4), np.uint8)
    clear[:, 48:] = (250, 0, 0, 255)
    other = clear[:, ::-1].copy()
    clip = read_clip(animation(tmp_path / "a.webp", [clear, other], 500), sizing=SMALL)
    assert clip.frames is not None
    assert clip.frames[0, 30, 10].tolist() == [255, 255, 255]
    assert clip.frames[1, 30, 10].tolist() == [250, 0, 0]


def test_frames_of_no_length_last_as_in_browsers(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.webp", [numbered(k) for k in range(20)], 0)
    assert read_clip(path, sizing=SMALL).facts.duration_s == pytest.approx(2.0, abs=0.01)


def test_a_webp_that_is_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (10, 64, 96, 3), np.uint8)
    path = animation(tmp_path / "a.webp", list(noise), 500)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    clip = read_clip(path, sizing=SMALL)
    assert clip.facts.frames_used in (4, 6)
    assert [w for w in clip.warnings if w.startswith("The file is cut off")]
    path.write_bytes(data[:300])
    with pytest.raises(MediaError, match=r"animation in a\.webp cannot be decoded"):
        read_clip(path, sizing=SMALL)


def test_a_large_animation_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = animation(tmp_path / "a.webp", [plain(k, 64, 64) for k in range(3)], 100)
    data = bytearray(path.read_bytes())
    data[24:30] = (9000).to_bytes(3, "little") * 2  # the canvas
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"9001 x 9001|cannot be decoded"):
        read_clip(path, sizing=SMALL)
    monkeypatch.setattr(container, "_MAX_VIDEO_BYTES", 2000)
    other = animation(tmp_path / "b.webp", [numbered(k) for k in range(40)], 100)
    with pytest.raises(MediaError, match="too large an animation"):
        read_clip(other, sizing=SMALL)


def test_further_pages_of_a_tiff_are_named(tmp_path: Path) -> None:
    pages = [Image.fromarray(numbered(k)) for k in range(5)]
    path = tmp_path / "a.tiff"
    pages[0].save(path, save_all=True, append_images=pages[1:])
    clip = read_clip(path, sizing=SMALL)
    assert clip.frames is not None
    assert number_of(clip.frames[0]) == 0
    assert clip.warnings == ("The file has 5 pictures; only the first is used.", NO_SOUND)
    pages[0].save(path)
    assert read_clip(path, sizing=SMALL).warnings == (NO_SOUND,)
    pages[0].save(path, big_tiff=True)
    with pytest.raises(MediaError, match="not a picture that can be read"):
        read_clip(path)


def test_a_photo_in_tiles_is_refused() -> None:
    """FFmpeg gives each tile of a phone's HEIC as a stream: one of them is not the photo."""
    tiles: Any = [SimpleNamespace(disposition=Disposition.dependent) for _ in range(48)]
    with pytest.raises(MediaError, match="48 tiles"):
        probe._check_tiles(tiles, "a.heic")
    probe._check_tiles([*tiles, SimpleNamespace(disposition=Disposition.default)], "a.heic")  # type: ignore[list-item]
    probe._check_tiles(tiles[:1], "a.mp4")
