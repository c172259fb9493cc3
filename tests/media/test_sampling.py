"""Frame counts, positions and sizes equal those of the official pipeline."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from seats_cli.errors import MediaError, UsageError
from seats_cli.media import FrameSizing
from seats_cli.media.frame_sampling import effective_fps, frame_count, frame_indices, frame_size

vision = pytest.importorskip("qwen_omni_utils.v2_5.vision_process")
torch = pytest.importorskip("torch")


def test_counts_equal_the_library() -> None:
    totals = [2, 3, 4, 5, 7, 10, 24, 25, 59, 100, 125, 360, 999, 4_321, 172_800]
    rates = [1.0, 10.0, 12.5, 23.976, 24.0, 25.0, 29.97, 30.0, 59.94, 120.0]
    wanted = [0.1, 0.5, 1.0, 2.0, 3.3, 25.0]
    for total, rate, fps, limit in itertools.product(totals, rates, wanted, [2, 5, 32, 768]):
        asked = {"fps": fps, "max_frames": limit}
        assert frame_count(total, rate, fps, limit) == vision.smart_nframes(asked, total, rate)


def test_positions_equal_the_library() -> None:
    for total in range(2, 300):
        for count in range(2, total + 1, 2):
            theirs = torch.linspace(0, total - 1, count).round().long().numpy()
            assert np.array_equal(frame_indices(total, count), theirs)


def test_positions_of_long_videos_differ_from_single_precision_by_a_frame_at_most() -> None:
    rng = np.random.default_rng(0)
    for total in rng.integers(1000, 500_000, 300):
        theirs = torch.linspace(0, int(total) - 1, 768).round().long().numpy()
        assert np.abs(frame_indices(int(total), 768) - theirs).max() <= 1


@pytest.mark.parametrize(("patch", "factor"), [(14, 28), (16, 32)])
def test_sizes_equal_the_library(monkeypatch: pytest.MonkeyPatch, patch: int, factor: int) -> None:
    """Through `fetch_video` itself, with a reader that invents the frames."""
    shape = (0, 0, 0)

    def reader(_: dict[str, Any]) -> tuple[Any, dict[str, Any], float]:
        return torch.empty(1).expand(shape[0], 3, *shape[1:]), {}, 2.0

    def resize(video: Any, size: list[int], **_: object) -> Any:
        return torch.empty(1).expand(video.shape[0], 3, *size)

    monkeypatch.setitem(vision.VIDEO_READER_BACKENDS, "torchvision", reader)
    monkeypatch.setattr(vision, "get_video_reader_backend", lambda: "torchvision")
    monkeypatch.setattr(vision.transforms.functional, "resize", resize)
    sides = [1, 5, 27, 90, 144, 360, 641, 1080, 2160, 4321]
    for height, width in itertools.product(sides, sides):
        for count, limit in itertools.product([2, 10, 300, 768], [None, 200_704]):
            sizing = FrameSizing.for_factor(factor)
            asked: dict[str, Any] = {"video": "x"}
            if limit is not None:
                asked["max_pixels"] = limit
                sizing = FrameSizing(factor, sizing.min_pixels, limit, sizing.total_pixels)
            shape = (count, height, width)
            if max(height, width) > 200 * min(height, width):
                with pytest.raises(MediaError, match="crop"):
                    frame_size(height, width, count, sizing)
                continue
            theirs = tuple(vision.fetch_video(asked, image_patch_size=patch).shape[2:])
            if 0 not in theirs:
                assert frame_size(height, width, count, sizing) == theirs


def test_defaults_are_the_librarys() -> None:
    assert (vision.FPS, vision.FPS_MAX_FRAMES, vision.FPS_MIN_FRAMES) == (2.0, 768, 4)
    assert FrameSizing() == FrameSizing.for_factor(28)


def test_what_the_library_refuses_goes_on() -> None:
    assert frame_count(1, 25.0, 2.0, 768) == 2
    assert frame_indices(1, 2).tolist() == [0, 0]
    assert effective_fps(2, 1, 25.0) == 50.0
    # A thin strip at the smallest size: the library would make a side of 0 pixels.
    assert min(frame_size(10, 1900, 2, FrameSizing(28, 784, 784 * 4, None))) == 28


def test_a_small_maximum_wins_over_the_minimum() -> None:
    height, width = frame_size(1080, 1920, 10, FrameSizing(max_pixels=50_000))
    assert height * width <= 50_000


@pytest.mark.parametrize(("fps", "limit"), [(0, 10), (-1, 10), (float("nan"), 10), (2, 1), (2, 0)])
def test_impossible_requests(fps: float, limit: int) -> None:
    with pytest.raises(UsageError):
        frame_count(100, 25.0, fps, limit)


def test_room_for_no_token() -> None:
    with pytest.raises(UsageError, match="max_pixels"):
        frame_size(100, 100, 2, FrameSizing(max_pixels=700))
