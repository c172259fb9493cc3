"""Pixel values beside those of transformers' video processor, bit for bit."""

from __future__ import annotations

import pytest
import torch
import transformers

from seats_cli.models import clip_features
from seats_cli.models.clip_features import pixel_values

PUBLISHED = {"2.5": {"patch_size": 14}, "3": {"patch_size": 16, "image_mean": [0.5] * 3}}


@pytest.mark.parametrize("settings", PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 5, 8])
def test_pixels_equal_the_processors(
    settings: dict[str, object], dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes and floats, an odd number of frames, in pieces and at once."""
    monkeypatch.setattr(clip_features, "_by_processor", None)  # which would be equal anyway
    stock = transformers.Qwen2VLVideoProcessor(cap_pixels_per_frame=False, **settings)
    side = 2 * stock.patch_size
    draw = torch.Generator().manual_seed(count)
    frames = torch.randint(0, 256, (count, 3 * side, 2 * side, 3), generator=draw).byte()
    frames = frames.permute(0, 3, 1, 2)
    for given in (frames, frames + torch.rand(frames.shape, generator=draw)):
        theirs = stock(videos=[given], do_resize=False, do_sample_frames=False, return_tensors="pt")
        for piece in (1, 2**19):
            monkeypatch.setattr(clip_features, "_CPU_PIECE", piece)
            pixels, grid = pixel_values(stock, given, dtype=dtype)
            assert torch.equal(pixels, theirs["pixel_values_videos"].to(dtype))
            assert grid.tolist() == theirs["video_grid_thw"].tolist()


def test_other_settings_are_left_to_the_processor() -> None:
    stock = transformers.Qwen2VLVideoProcessor(cap_pixels_per_frame=False, do_normalize=False)
    frames = torch.randint(0, 256, (2, 3, 28, 56)).byte()
    theirs = stock(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
    pixels, grid = pixel_values(stock, frames)
    assert torch.equal(pixels, theirs["pixel_values_videos"])
    assert grid.tolist() == theirs["video_grid_thw"].tolist()
