"""Adapter for Qwen3-Omni (30B-A3B Instruct and Thinking)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from seats_cli.families.base import Architecture
from seats_cli.families.registry import QWEN3, describe_qwen3
from seats_cli.models.mrope import quick_merge
from seats_cli.models.qwen_omni import QwenOmni


class Qwen3OmniMoe(QwenOmni):
    """DeepStack vision features, mixture-of-experts decoder, 13 audio tokens/s."""

    family = QWEN3
    model_types = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
    thinker_class = "Qwen3OmniMoeThinkerForConditionalGeneration"
    processor_class = "Qwen3OmniMoeProcessor"
    audio_statistics_window = 52  # 4 s at 13 positions per second, as in the reference
    audio_pool = 1
    pixel_std = (0.5, 0.5, 0.5)

    @classmethod
    def describe(cls, config: Any) -> Architecture:
        """Shapes of a `Qwen3OmniMoeThinkerConfig` as plain numbers."""
        return describe_qwen3(config)

    @property
    def vision_projections(self) -> tuple[nn.Module, ...]:
        """One layer for queries, keys and values."""
        attention: Any = self.vision_attention
        return (attention.qkv,)

    def split_vision(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Queries, keys and values lie side by side."""
        query, key, _ = projected[0].chunk(3, dim=-1)
        return query, key

    def vision_states(self, attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One layer for all three."""
        states = attention.qkv(hidden).view(len(hidden), 3, attention.num_heads, -1)
        query, key, value = states.unbind(1)
        return query, key, value

    def quick_positions(self) -> tuple[str, Callable[[Callable[..., Any]], Callable[..., Any]]]:
        """The merge of a picture's and a sound's tokens by time."""
        quick = partial(quick_merge, config=self.config, sound_tokens=self.audio_positions)
        return "get_rope_index", quick

    @staticmethod
    def audio_positions(mel_frames: int) -> int:
        """Three stride-2 convolutions in chunks of 100 frames, 13 positions each."""
        chunks, tail = divmod(mel_frames, 100)
        for _ in range(3):
            tail = (tail + 1) // 2
        return 13 * chunks + tail
