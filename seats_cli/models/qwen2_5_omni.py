"""Adapter for Qwen2.5-Omni (3B and 7B, and the bundled model)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from seats_cli.architecture import Architecture, AudioShape, VisionShape
from seats_cli.config import default_layers, default_temperature
from seats_cli.models.adapter import Adapter, rotate_float32


class Qwen25Omni(Adapter):
    """Windowed vision encoder, stride-2 audio pooling, dense decoder, 25 audio tokens/s."""

    family = "qwen2_5_omni"
    model_types = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    thinker_class = "Qwen2_5OmniThinkerForConditionalGeneration"
    processor_class = "Qwen2_5OmniProcessor"
    audio_statistics_window = 100  # 2 s at 50 encoder positions per second
    audio_pool = 2

    @classmethod
    def describe(cls, config: Any) -> Architecture:
        """Shapes of a `Qwen2_5OmniThinkerConfig` as plain numbers."""
        text, vision, audio = config.text_config, config.vision_config, config.audio_config
        drop_layers, late_layer = default_layers(cls.family, text.num_hidden_layers)
        return Architecture(
            family=cls.family,
            num_layers=text.num_hidden_layers,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_heads=text.num_attention_heads,
            num_kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None)
            or text.hidden_size // text.num_attention_heads,
            vocab_size=text.vocab_size,
            vision=VisionShape(
                depth=vision.depth,
                hidden_size=vision.hidden_size,
                intermediate_size=vision.intermediate_size,
                num_heads=vision.num_heads,
                patch_size=vision.patch_size,
                temporal_patch_size=vision.temporal_patch_size,
                merge_size=vision.spatial_merge_size,
                in_channels=vision.in_channels,
                out_hidden_size=vision.out_hidden_size,
                gated_mlp=True,
                window_size=vision.window_size,
                full_attention_blocks=tuple(vision.fullatt_block_indexes),
            ),
            audio=AudioShape(
                depth=audio.encoder_layers,
                hidden_size=audio.d_model,
                intermediate_size=audio.encoder_ffn_dim,
                num_heads=audio.encoder_attention_heads,
                num_mel_bins=audio.num_mel_bins,
                out_hidden_size=audio.output_dim,
                window_frames=2 * audio.n_window,
                conv_channels=audio.d_model,
                tokens_per_second=25.0,
            ),
            drop_layers=drop_layers,
            late_layer=late_layer,
            temperature=default_temperature(cls.family),
            max_positions=text.max_position_embeddings,
            layers_from="paper" if text.num_hidden_layers == 28 else "depth",
        )

    @property
    def vision_attention(self) -> nn.Module:
        attention: nn.Module = self.visual.blocks[-1].attn
        return attention

    def vision_query_key(
        self, attention: Any, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        shape = (hidden.shape[0], attention.num_heads, -1)
        query, key = attention.q(hidden).view(shape), attention.k(hidden).view(shape)
        return (
            rotate_float32(query, *position_embeddings),
            rotate_float32(key, *position_embeddings),
        )

    def vision_raster_order(self, grid_thw: Tensor) -> Tensor | None:
        """The encoder works in the order of its attention windows: undo that permutation."""
        vision = self.config.vision_config
        window_index, _ = get_vision_window_index(
            grid_thw, vision.spatial_merge_size, vision.window_size, vision.patch_size
        )
        return torch.argsort(window_index)

    @staticmethod
    def audio_positions(mel_frames: int) -> int:
        """One stride-2 convolution."""
        return (mel_frames - 1) // 2 + 1
