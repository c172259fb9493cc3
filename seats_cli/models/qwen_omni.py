"""What Qwen2.5-Omni and Qwen3-Omni have in common: the thinker's parts, M-RoPE, DeepStack."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from seats_cli.models.adapter import Adapter, SideTensors
from seats_cli.models.fused_modules import rotate_vision
from seats_cli.selection.device import on_device
from seats_cli.selection.static_regions import positions

if TYPE_CHECKING:
    from seats_cli.selection.static_regions import Packing

_DEEPSTACK = "deepstack"


class QwenOmni(Adapter):
    """A thinker (`...ThinkerForConditionalGeneration`), alone or inside the full Omni model."""

    def __init__(self, model: nn.Module) -> None:
        thinker: Any = getattr(model, "thinker", model)
        inner: Any = thinker.model
        # transformers up to 5.17 keeps the encoders on the thinker and the decoder in
        # `.model`; later versions put all three into `.model`.
        nested = hasattr(inner, "language_model")
        self.model = thinker
        self.core = inner if nested else thinker
        self.language_model = inner.language_model if nested else inner
        self.visual = self.core.visual
        self.audio_tower = self.core.audio_tower
        self.lm_head = thinker.lm_head
        self.config = thinker.config

    @property
    def merge_unit(self) -> int:
        """A square of patches."""
        return int(self.config.vision_config.spatial_merge_size) ** 2

    @property
    def video_token_id(self) -> int:
        """Placeholder id of a video token."""
        return _token_id(self.config, "video")

    @property
    def audio_token_id(self) -> int:
        """Placeholder id of an audio token."""
        return _token_id(self.config, "audio")

    # ------------------------------------------------------------ encoders

    @property
    def vision_attention(self) -> nn.Module:
        """The last block's."""
        attention: nn.Module = self.visual.blocks[-1].attn
        return attention

    @abstractmethod
    def split_vision(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Queries and keys before rotation, each (N, D), from `vision_projections` of N patches."""

    def vision_query_key(
        self, projected: Sequence[Tensor], arguments: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Split into heads and rotated."""
        heads = self.config.vision_config.num_heads
        query, key = (part.view(len(part), heads, -1) for part in self.split_vision(projected))
        return rotate_vision(query, key, *arguments["position_embeddings"])

    def vision_grids(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The argument `grid_thw`."""
        grids: Tensor = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        return grids

    @property
    def packed_attentions(self) -> list[nn.Module]:
        """Of all blocks."""
        return [block.attn for block in self.visual.blocks]

    def packed_vision_arguments(self, grid_thw: Tensor, packing: Packing) -> dict[str, Any]:
        """Places, borders of segments and windows, and positions where they are learned (Qwen3)."""
        visual, device = self.visual, grid_thw.device
        chosen = positions(packing.chosen, self.merge_unit).to(device)
        merge = self.config.vision_config.spatial_merge_size
        arguments: dict[str, Any] = {
            "position_ids": get_vision_position_ids(grid_thw, merge)[chosen],
            "cu_seqlens": packing.full.borders.to(device),
        }
        if hasattr(self.config.vision_config, "window_size"):
            arguments["window_index"] = torch.arange(len(packing.chosen), device=device)
            arguments["cu_window_seqlens"] = packing.windowed.borders.to(device)
        if hasattr(visual, "pos_embed"):
            indices, weights = get_vision_interpolation_indices_and_weights(
                grid_thw,
                num_grid_per_side=visual.num_grid_per_side,
                mode=visual.interpolation_mode,
                align_corners=visual.interpolation_align_corners,
                spatial_merge_size=merge,
            )
            arguments["interp_indices"] = indices[chosen]
            arguments["interp_weights"] = weights[chosen]
        return arguments

    @property
    def audio_attention(self) -> nn.Module:
        """The last layer's."""
        attention: nn.Module = self.audio_tower.layers[-1].self_attn
        return attention

    @property
    def audio_projections(self) -> tuple[nn.Module, ...]:
        """One layer each."""
        attention: Any = self.audio_attention
        return attention.q_proj, attention.k_proj

    def audio_query_key(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Split into heads; positions are part of the states."""
        heads = self.config.audio_config.encoder_attention_heads
        query, key = (part.view(len(part), heads, -1) for part in projected)
        return query, key

    def mel_frames(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
        """The argument `feature_lens`."""
        lengths = kwargs["feature_lens"] if "feature_lens" in kwargs else args[1]
        return [int(frames) for frames in lengths.tolist()]

    # ------------------------------------------------------------- decoder

    def positions(self, given: Tensor | None, embeddings: Tensor) -> Tensor:
        """M-RoPE positions (3, B, S): time, height and width.

        `generate` puts a row of text positions in front. It is left out: after pruning its gaps
        would be read as borders between packed sequences.
        """
        if given is not None and given.ndim == 3:
            return given[-3:]
        return super().positions(given, embeddings).expand(3, len(embeddings), -1)

    def position_arguments(self, positions: Tensor) -> dict[str, Any]:
        """Three rows are never read as packed sequences."""
        return {"position_ids": positions, "attention_mask": None}

    def take_side_tensors(
        self, arguments: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, SideTensors]]:
        """DeepStack features (Qwen3), for the visual tokens only."""
        features = arguments.get("deepstack_visual_embeds")
        if features is None:
            return arguments, {}
        places = arguments["visual_pos_masks"][0].cpu().nonzero()[:, 0]
        taken = {**arguments, "deepstack_visual_embeds": None, "visual_pos_masks": None}
        return taken, {_DEEPSTACK: SideTensors(tuple(features), places)}

    def after_layer(self, hidden: Tensor, number: int, sides: dict[str, SideTensors]) -> Tensor:
        """DeepStack: each of the first layers' outputs gets features of its own."""
        deep = sides.get(_DEEPSTACK)
        if deep is None or number > len(deep.tensors):
            return hidden
        assert deep.places is not None
        hidden = hidden.clone()
        where = on_device(deep.places, hidden.device)
        hidden[0, where] += deep.tensors[number - 1].to(hidden.device, hidden.dtype)
        return hidden

    @abstractmethod
    def quick_positions(self) -> tuple[str, Callable[[Callable[..., Any]], Callable[..., Any]]]:
        """Name of the method that interleaves positions token by token, and what replaces it."""

    def quick_methods(self) -> list[tuple[Any, str, Callable[..., Any]]]:
        """M-RoPE positions; which part computes them depends on the version of transformers."""
        name, quick = self.quick_positions()
        parts = {id(part): part for part in (self.model, self.core)}.values()
        return [(part, name, quick) for part in parts]


def _token_id(config: Any, modality: str) -> int:
    """Placeholder token id under its newer (`_id`) or older (`_index`) config name."""
    value = getattr(config, f"{modality}_token_id", None)
    return int(getattr(config, f"{modality}_token_index") if value is None else value)
