"""The right frames, upright and at the right size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seats_cli.errors import MediaError, UsageError
from seats_cli.media import FrameSizing, read_clip
from seats_cli.media.video import FrameReader
from tests.media.build import Picture, Sound, number_of, numbered, plain, steady, tone, turn, write

SMALL = FrameSizing(28, 28 * 28, 112 * 112, None)


def numbers(frames: np.ndarray | None) -> list[int]:
    assert frames is not None
    return [number_of(frame) for frame in frames]


def official_indices(total: int, fps: float, start: int = 0) -> list[int]:
    vision = pytest.importorskip("qwen_omni_utils.v2_5.vision_process")
    torch = pytest.importorskip("torch")
    count = vision.smart_nframes({"fps": 2.0}, total, fps)
    return torch.linspace(start, start + total - 1, count).round().long().tolist()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.mov"])
@pytest.mark.parametrize("fps", [25, 30])
def test_frames_are_the_official_ones(tmp_path: Path, name: str, fps: int) -> None:
    path = write(tmp_path / name, steady(3 * fps - 2, fps, rate=fps))
    clip = read_clip(path, sizing=SMALL)
    wanted = official_indices(3 * fps - 2, fps)
    assert numbers(clip.frames) == wanted
    assert clip.frame_times == pytest.approx(np.array(wanted) / fps, abs=2e-3)
    assert clip.fps == pytest.approx(len(wanted) / (3 * fps - 2) * fps)


def test_a_range_is_the_official_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(100), [Sound(tone(4))])
    clip = read_clip(path, sizing=SMALL, start=1.0, end=3.0)
    assert numbers(clip.frames) == official_indices(51, 25, start=25)
    assert clip.frame_times is not None
    assert clip.frame_times[0] == 0
    assert clip.audio_s == pytest.approx(2.0, abs=1e-3)
    assert (clip.facts.start_s, clip.facts.end_s) == (1.0, 3.0)


def test_seeking_gives_the_frames_that_decoding_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    plainly = FrameReader._decode

    def counting(reader: FrameReader, packet: Any) -> Any:
        decoded.append(packet)
        return plainly(reader, packet)

    monkeypatch.setattr(FrameReader, "_decode", counting)
    options = {"qp": "8", "preset": "ultrafast", "g": "20", "bf": "2"}
    path = write(tmp_path / "a.mp4", steady(600, options=options))
    clip = read_clip(path, sizing=SMALL, fps=0.3, max_frames=6)
    assert numbers(clip.frames) == [0, 120, 240, 359, 479, 599]
    assert len(decoded) < 250
    decoded.clear()
    late = read_clip(path, sizing=SMALL, start=20.0, end=21.0)
    assert numbers(late.frames) == official_indices(26, 25, start=500)
    assert len(decoded) < 100


def test_more_than_max_frames_lowers_the_rate_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(250), [Sound(tone(10))])
    clip = read_clip(path, sizing=SMALL, max_frames=7)
    assert clip.frames is not None
    assert len(clip.frames) == 6
    assert clip.fps == pytest.approx(0.6)
    assert any("`max_frames`" in w for w in clip.warnings)
    assert read_clip(path, sizing=SMALL).warnings == ()


def test_variable_rate_is_sampled_by_time(tmp_path: Path) -> None:
    # Dense, then one frame a second, then dense again.
    times = (
        [k / 25 for k in range(50)] + [2 + k for k in range(4)] + [6 + k / 25 for k in range(50)]
    )
    frames = [numbered(k) for k in range(len(times))]
    path = write(tmp_path / "a.mkv", Picture(frames, times))
    clip = read_clip(path, sizing=SMALL)
    assert clip.frame_times is not None
    assert clip.fps == pytest.approx(2.0, rel=0.03)
    on_screen = np.searchsorted(np.array(times), clip.frame_times + 2e-3, side="right") - 1
    assert numbers(clip.frames) == on_screen.tolist()
    # Every frame stands near k / fps, where the model will take it to be.
    assert np.abs(clip.frame_times - np.arange(len(clip.frame_times)) / clip.fps).max() < 0.55


def test_a_slow_slide_show_has_its_slides(tmp_path: Path) -> None:
    times = [0.0, 1.0, 2.0, 5.0]
    path = write(tmp_path / "a.mkv", Picture([numbered(k) for k in range(4)], times))
    assert set(numbers(read_clip(path, sizing=SMALL).frames)) == {0, 1, 2, 3}


@pytest.mark.parametrize(("count", "wanted"), [(1, [0, 0]), (2, [0, 1]), (3, [0, 2])])
def test_very_short(tmp_path: Path, count: int, wanted: list[int]) -> None:
    clip = read_clip(write(tmp_path / "a.mp4", steady(count)), sizing=SMALL)
    assert numbers(clip.frames) == wanted
    assert clip.fps == pytest.approx(2 / count * 25)


def test_no_time_stamps_at_all(tmp_path: Path) -> None:
    clip = read_clip(write(tmp_path / "a.h264", steady(50)), sizing=SMALL)
    assert numbers(clip.frames) == official_indices(50, 25)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation(tmp_path: Path, degrees: int) -> None:
    pixels = plain(0, 96, 64)
    pixels[:16, :24] = 255  # top left, as coded
    plainly = write(tmp_path / "a.mp4", Picture([pixels] * 4, [k / 25 for k in range(4)]))
    clip = read_clip(turn(plainly, tmp_path / "b.mp4", degrees), sizing=SMALL)
    assert clip.frames is not None
    frame = clip.frames[0].mean(axis=2)
    # A clockwise turn brings the top left corner to the top right, and so on round.
    corner = [frame[:6, :6], frame[:6, -6:], frame[-6:, -6:], frame[-6:, :6]]
    assert int(np.argmax([c.mean() for c in corner])) == degrees // 90
    assert (frame.shape[0] > frame.shape[1]) == (degrees in (90, 270))
    assert clip.facts.rotation_deg == -degrees % 360


def test_colours_survive(tmp_path: Path) -> None:
    wanted = [(200, 30, 30), (30, 160, 40), (30, 40, 200)]
    picture = Picture(
        [plain(c) for c in wanted for _ in range(4)], [k / 4 for k in range(12)], rate=4
    )
    clip = read_clip(write(tmp_path / "a.mp4", picture), sizing=SMALL, fps=4)
    assert clip.frames is not None
    for pixels, colour in zip(clip.frames[1::4], wanted, strict=True):
        assert np.abs(pixels.reshape(-1, 3).mean(axis=0) - colour).max() < 4


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "width", "height"),
    [
        ("ffv1", "yuv444p", 101, 57),
        ("libx264", "yuv420p10le", 96, 64),
        ("libvpx-vp9", "yuv420p", 98, 66),
        ("mpeg4", "yuv420p", 96, 64),
        ("ffv1", "gray", 96, 64),
    ],
)
def test_codecs_and_odd_sizes(
    tmp_path: Path, codec: str, pix_fmt: str, width: int, height: int
) -> None:
    frames = [numbered(k, width, height) for k in range(10)]
    options = {"crf": "10", "preset": "ultrafast"} if codec == "libx264" else {}
    if codec == "libvpx-vp9":
        options = {"crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "8"}
    picture = Picture(frames, [k / 25 for k in range(10)], codec, options, pix_fmt)
    clip = read_clip(write(tmp_path / "a.mkv", picture), sizing=SMALL)
    assert numbers(clip.frames) == [0, 3, 6, 9]
    assert (clip.facts.source_width, clip.facts.source_height) == (width, height)


def test_a_picture_is_one_repeated_frame(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[:, 30:] = (255, 0, 0, 255)  # the left half is transparent black
    Image.fromarray(pixels).save(tmp_path / "a.png")
    clip = read_clip(tmp_path / "a.png", sizing=SMALL, fps=2.0)
    assert clip.frames is not None
    assert len(clip.frames) == 2
    assert clip.fps == 2.0
    assert clip.frames[0, 5, 5].tolist() == [255, 255, 255]
    assert clip.frames[0, 5, -5].tolist() == [255, 0, 0]


def test_thin_pictures_are_refused(tmp_path: Path) -> None:
    picture = Picture([plain(9, 1000, 4)] * 2, [0, 0.04], "ffv1", {})
    with pytest.raises(MediaError, match="1000 x 4"):
        read_clip(write(tmp_path / "a.mkv", picture))


def test_progress_and_what_is_not_requested(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", steady(50), [Sound(tone(2))])
    calls: list[tuple[str, float]] = []
    clip = read_clip(path, sizing=SMALL, on_progress=lambda what, done: calls.append((what, done)))
    assert {what for what, _ in calls} == {"picture", "sound"}
    assert max(done for _, done in calls) == 1.0
    silent = read_clip(path, sizing=SMALL, audio=False)
    assert silent.audio is None
    assert np.array_equal(silent.frames, clip.frames)
    blind = read_clip(path, video=False)
    assert blind.frames is None
    assert np.array_equal(blind.audio, clip.audio)
    with pytest.raises(UsageError, match="beyond"):
        read_clip(path, end=20)


def test_importing_loads_no_torch() -> None:
    code = "import sys, seats_cli.media; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
