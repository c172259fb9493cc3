"""Adapter for Qwen3-Omni (30B-A3B Instruct and Thinking)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from seats_cli.architecture import Architecture, AudioShape, VisionShape
from seats_cli.config import default_layers, default_temperature
from seats_cli.models.adapter import Adapter, rotate_float32


class Qwen3OmniMoe(Adapter):
    """DeepStack vision features, mixture-of-experts decoder, 13 audio tokens/s."""

    family = "qwen3_omni_moe"
    model_types = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
    thinker_class = "Qwen3OmniMoeThinkerForConditionalGeneration"
    processor_class = "Qwen3OmniMoeProcessor"
    audio_statistics_window = 52  # 4 s at 13 positions per second, as in the reference
    audio_pool = 1

    @classmethod
    def describe(cls, config: Any) -> Architecture:
        """Shapes of a `Qwen3OmniMoeThinkerConfig` as plain numbers."""
        text, vision, audio = config.text_config, config.vision_config, config.audio_config
        drop_layers, late_layer = default_layers(cls.family, text.num_hidden_layers)
        deepstack = tuple(vision.deepstack_visual_indexes)
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
                gated_mlp=False,
                deepstack_blocks=deepstack,
            ),
            audio=AudioShape(
                depth=audio.encoder_layers,
                hidden_size=audio.d_model,
                intermediate_size=audio.encoder_ffn_dim,
                num_heads=audio.encoder_attention_heads,
                num_mel_bins=audio.num_mel_bins,
                out_hidden_size=audio.output_dim,
                window_frames=audio.n_window_infer,
                conv_channels=audio.downsample_hidden_size,
                tokens_per_second=13.0,
            ),
            num_experts=text.num_experts,
            experts_per_token=text.num_experts_per_tok,
            moe_intermediate_size=text.moe_intermediate_size,
            deepstack_layers=len(deepstack),
            drop_layers=drop_layers,
            late_layer=late_layer,
            temperature=default_temperature(cls.family),
            max_positions=text.max_position_embeddings,
            layers_from="paper" if text.num_hidden_layers == 48 else "depth",
        )

    @property
    def vision_attention(self) -> nn.Module:
        attention: nn.Module = self.visual.blocks[-1].attn
        return attention

    def vision_query_key(
        self, attention: Any, hidden: Tensor, position_embeddings: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        projected = attention.qkv(hidden).view(hidden.shape[0], 3, attention.num_heads, -1)
        query, key, _ = projected.unbind(1)
        return (
            rotate_float32(query, *position_embeddings),
            rotate_float32(key, *position_embeddings),
        )

    def vision_raster_order(self, grid_thw: Tensor) -> Tensor | None:
        """The encoder already works in raster order."""
        return None

    @staticmethod
    def audio_positions(mel_frames: int) -> int:
        """Three stride-2 convolutions in chunks of 100 frames, 13 positions each."""
        chunks, tail = divmod(mel_frames, 100)
        for _ in range(3):
            tail = (tail + 1) // 2
        return 13 * chunks + tail
