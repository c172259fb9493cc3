"""Frame counts, positions and sizes equal those of the official pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seats_cli.errors import MediaError, UsageError
from seats_cli.media import FrameSizing, ReadOptions
from seats_cli.media.frame_sampling import (
    FRAMES_PER_GRID,
    MAX_ASPECT_RATIO,
    MIN_FRAMES,
    effective_fps,
    frame_count,
    frame_indices,
    frame_size,
)

vision = pytest.importorskip("qwen_omni_utils.v2_5.vision_process")
torch = pytest.importorskip("torch")


COUNTS = st.integers(1, 384).map(lambda pairs: 2 * pairs)
SIDES = st.integers(1, 8192)


@settings(max_examples=500, deadline=None)
@given(st.integers(2, 500_000), st.floats(0.5, 240), st.floats(0.01, 120), st.integers(2, 2000))
def test_counts_equal_the_library(total: int, rate: float, fps: float, limit: int) -> None:
    request = {"fps": fps, "max_frames": limit}
    assert frame_count(total, rate, fps, limit) == vision.smart_nframes(request, total, rate)


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


@settings(max_examples=500, deadline=None)
@given(SIDES, SIDES, st.sampled_from([28, 32]), st.integers(4, 4000), st.integers(4, 4000))
def test_one_frame_has_the_size_of_smart_resize(
    height: int, width: int, factor: int, low: int, high: int
) -> None:
    least, most = sorted((low * factor**2, high * factor**2))
    # Below the bounds on a frame of a video, which `smart_resize` does not know.
    most = min(most, vision.VIDEO_MAX_TOKEN_NUM * factor**2)
    assume(least <= most and max(height, width) <= vision.MAX_RATIO * min(height, width))
    theirs = vision.smart_resize(height, width, factor, least, most)
    assume(0 not in theirs)
    assert frame_size(height, width, 2, FrameSizing(factor, least, most, None)) == theirs


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(COUNTS, SIDES, SIDES),
    st.sampled_from([14, 16]),
    st.none() | st.integers(128 * 32 * 32, 1 << 20),
)
def test_sizes_equal_the_library(
    shape: tuple[int, int, int], patch: int, limit: int | None
) -> None:
    """The budget of a whole video, through `fetch_video` with a reader that invents the frames."""
    count, height, width = shape
    sizing, request = FrameSizing.for_factor(2 * patch), {"video": "x"}
    if limit is not None:
        sizing, request = replace(sizing, max_pixels=limit), {"video": "x", "max_pixels": limit}
    if max(height, width) > vision.MAX_RATIO * min(height, width):
        with pytest.raises(MediaError, match="crop"):
            frame_size(height, width, count, sizing)
        return
    theirs = _size_by_the_library(shape, patch, request)
    assume(0 not in theirs)
    assert frame_size(height, width, count, sizing) == theirs


def _size_by_the_library(
    shape: tuple[int, int, int], patch: int, request: dict[str, Any]
) -> tuple[int, ...]:
    def reader(_: dict[str, Any]) -> tuple[Any, dict[str, Any], float]:
        return torch.empty(1).expand(shape[0], 3, *shape[1:]), {}, 2.0

    def resize(video: Any, size: list[int], **_: object) -> Any:
        return torch.empty(1).expand(video.shape[0], 3, *size)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(vision.VIDEO_READER_BACKENDS, "torchvision", reader)
        patched.setattr(vision, "get_video_reader_backend", lambda: "torchvision")
        patched.setattr(vision.transforms.functional, "resize", resize)
        return tuple(vision.fetch_video(request, image_patch_size=patch).shape[2:])


def test_defaults_are_the_librarys() -> None:
    options = ReadOptions()
    assert (options.fps, options.max_frames) == (vision.FPS, vision.FPS_MAX_FRAMES)
    assert (MIN_FRAMES, FRAMES_PER_GRID) == (vision.FPS_MIN_FRAMES, vision.FRAME_FACTOR)
    assert MAX_ASPECT_RATIO == vision.MAX_RATIO
    area = (14 * vision.SPATIAL_MERGE_SIZE) ** 2
    assert FrameSizing() == FrameSizing.for_factor(14 * vision.SPATIAL_MERGE_SIZE)
    assert FrameSizing().min_pixels == vision.VIDEO_MIN_TOKEN_NUM * area
    assert FrameSizing().max_pixels == vision.VIDEO_MAX_TOKEN_NUM * area
    assert FrameSizing().total_pixels == vision.MODEL_SEQ_LEN * area * 0.9


def test_what_the_library_refuses_is_read() -> None:
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
