"""A clip of a training batch as the inputs of a model."""

from __future__ import annotations

from typing import Any

import torch

from seats_cli.training.minibatch import TrainingBatch


def clip_inputs(batch: TrainingBatch, ids: torch.Tensor, clip: int) -> dict[str, Any]:
    """Inputs of a prompt, `ids` (S,), about one clip of a batch with picture and sound."""
    pixels, mel = batch.pixel_values, batch.mel
    assert pixels is not None
    assert mel is not None
    patches = len(pixels) // batch.size
    return {
        "input_ids": ids[None],
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        "pixel_values_videos": pixels[clip * patches :][:patches],
        "video_grid_thw": torch.tensor([batch.layout.grid_thw]),
        "video_second_per_grid": torch.tensor([batch.layout.seconds_per_grid]),
        "input_features": mel[clip][None],
        "feature_attention_mask": torch.ones(1, mel.shape[2], dtype=torch.long),
        "use_audio_in_video": True,
    }
