"""Adapter for Qwen2.5-Omni (3B and 7B, and the bundled model)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from seats_cli.families.base import Architecture
from seats_cli.families.registry import QWEN2_5, describe_qwen2_5
from seats_cli.models.mrope import quick_chunks
from seats_cli.models.qwen_omni import QwenOmni


class Qwen25Omni(QwenOmni):
    """Windowed vision encoder, stride-2 audio pooling, dense decoder, 25 audio tokens/s."""

    family = QWEN2_5
    model_types = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    thinker_class = "Qwen2_5OmniThinkerForConditionalGeneration"
    processor_class = "Qwen2_5OmniProcessor"
    audio_statistics_window = 100  # 2 s at 50 encoder positions per second
    audio_pool = 2
    pixel_std = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def describe(cls, config: Any) -> Architecture:
        """Shapes of a `Qwen2_5OmniThinkerConfig` as plain numbers."""
        return describe_qwen2_5(config)

    @property
    def vision_projections(self) -> tuple[nn.Module, ...]:
        """Separate layers for queries and keys."""
        attention: Any = self.vision_attention
        return attention.q, attention.k

    def split_vision(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """They come apart."""
        query, key = projected
        return query, key

    def vision_states(self, attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One layer each."""
        shape = len(hidden), attention.num_heads, -1
        layers = attention.q, attention.k, attention.v
        query, key, value = (layer(hidden).view(shape) for layer in layers)
        return query, key, value

    def vision_raster_order(self, grid_thw: Tensor) -> Tensor | None:
        """The encoder works in the order of its attention windows: undo that permutation."""
        vision = self.config.vision_config
        window_index, _ = get_vision_window_index(
            grid_thw, vision.spatial_merge_size, vision.window_size, vision.patch_size
        )
        return torch.argsort(window_index)

    def quick_positions(self) -> tuple[str, Callable[[Callable[..., Any]], Callable[..., Any]]]:
        """The chunks of two seconds in which picture and sound alternate."""
        return "get_chunked_index", quick_chunks

    @staticmethod
    def audio_positions(mel_frames: int) -> int:
        """One stride-2 convolution."""
        return (mel_frames - 1) // 2 + 1
