"""The interface between a model family and the engine.

An adapter finds the parts of a stock transformers model and exposes the few computations
that selection needs from them. It never changes the model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from seats_cli.families.base import Architecture
from seats_cli.families.registry import with_own_settings
from seats_cli.media.clip import FrameSizing
from seats_cli.models.fused_modules import rotate, rotate_vision

# Bytes of a GPU that the processor needs for each byte of the frames: float32 pixels in three
# copies and once in the model's precision, and as much again to be on the safe side.
_PROCESSOR_SHARE = 24


def devices_of(model: torch.nn.Module) -> tuple[torch.device, ...]:
    """Devices that hold weights of a model, each once, in the order in which they are met."""
    found = dict.fromkeys(parameter.device for parameter in model.parameters())
    return tuple(device for device in found if device.type != "meta")


def free_bytes(device: torch.device) -> int:
    """What can still be allocated on a CUDA device, with what PyTorch holds there unused."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def processor_device(device: torch.device, frames: int, free: int) -> torch.device | None:
    """Where the processor turns frames into pixel values; None leaves it on the CPU.

    On a GPU it takes milliseconds, and bytes travel instead of float32 values.

    Parameters
    ----------
    device : torch.device
        Where the model begins.
    frames : int
        Bytes of the frames.
    free : int
        Bytes that are free there (`free_bytes`).
    """
    return device if device.type == "cuda" and free >= _PROCESSOR_SHARE * frames else None


class Adapter(ABC):
    """One loaded model of a family.

    Parameters
    ----------
    model : nn.Module
        The thinker (`...ThinkerForConditionalGeneration`) or the full Omni model around it.
    """

    family: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    thinker_class: ClassVar[str]  # names in transformers
    processor_class: ClassVar[str]
    audio_statistics_window: ClassVar[int]  # encoder positions per softmax of the importance
    audio_pool: ClassVar[int]  # encoder positions averaged into one LLM token
    pixel_std: ClassVar[tuple[float, float, float]]  # by which the processor divides colours

    def __init__(self, model: nn.Module) -> None:
        thinker: Any = getattr(model, "thinker", model)
        inner: Any = thinker.model
        # transformers up to 5.17 keeps the encoders on the thinker and the decoder in
        # `.model`; later versions put all three into `.model`.
        nested = hasattr(inner, "language_model")
        self.thinker: Any = thinker
        self.core: Any = inner if nested else thinker
        self.language_model: Any = inner.language_model if nested else inner
        self.visual: Any = self.core.visual
        self.audio_tower: Any = self.core.audio_tower
        self.config: Any = thinker.config

    @property
    def layers(self) -> nn.ModuleList:
        """Decoder layers, in order."""
        layers: nn.ModuleList = self.language_model.layers
        return layers

    @property
    def merge_unit(self) -> int:
        """Vision patches merged into one LLM token."""
        return int(self.config.vision_config.spatial_merge_size) ** 2

    @property
    def video_token_id(self) -> int:
        """Placeholder id of a video token."""
        return _token_id(self.config, "video")

    @property
    def audio_token_id(self) -> int:
        """Placeholder id of an audio token."""
        return _token_id(self.config, "audio")

    def architecture(self) -> Architecture:
        """Shapes of this model as plain numbers, with its own SEATS settings if it has some."""
        return with_own_settings(self.describe(self.config), self.own_settings())

    def own_settings(self) -> dict[str, Any]:
        """The `seats` entry of the checkpoint's config.json.

        Optional keys: `drop_layers`, `late_layer` and `retention_pairs` (lists of an overall share
        and the average retentions of video and audio it stands for), all measured for this
        model, and `min_pixels`, `max_pixels` (of a frame).
        """
        settings: dict[str, Any] = getattr(self.config, "seats", None) or {}
        return settings

    @classmethod
    @abstractmethod
    def describe(cls, config: Any) -> Architecture:
        """Shapes of a thinker config as plain numbers."""

    def sizing(self) -> FrameSizing:
        """Frame sizes: 128 to 768 merged tokens as officially, or the checkpoint's own."""
        vision, own = self.config.vision_config, self.own_settings()
        official = FrameSizing.for_factor(vision.patch_size * vision.spatial_merge_size)
        limits = {name: own[name] for name in ("min_pixels", "max_pixels") if name in own}
        return replace(official, **limits)

    @property
    def vision_attention(self) -> nn.Module:
        """The last vision block's attention."""
        attention: nn.Module = self.visual.blocks[-1].attn
        return attention

    @property
    @abstractmethod
    def vision_projections(self) -> tuple[nn.Module, ...]:
        """The layers of `vision_attention` whose outputs contain its queries and keys."""

    @abstractmethod
    def split_vision(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Queries and keys before rotation, each (N, D), from those outputs for N patches."""

    @abstractmethod
    def vision_states(self, attention: Any, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of N patches from a vision block's attention, by its own layers.

        Parameters
        ----------
        attention : nn.Module
        hidden : Tensor, shape (N, D)

        Returns
        -------
        query, key, value : Tensor, each (N, heads, head_dim), before rotation
        """

    def vision_query_key(
        self, projected: Sequence[Tensor], position_embeddings: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Rotated queries and keys, each (N, heads, head_dim), of N patches."""
        heads = self.config.vision_config.num_heads
        query, key = (part.view(len(part), heads, -1) for part in self.split_vision(projected))
        return rotate_vision(query, key, *position_embeddings)

    @abstractmethod
    def vision_raster_order(self, grid_thw: Tensor) -> Tensor | None:
        """LongTensor (n,) that brings merged tokens from encoder to raster order, or None."""

    @property
    def audio_attention(self) -> nn.Module:
        """The last audio layer's attention."""
        attention: nn.Module = self.audio_tower.layers[-1].self_attn
        return attention

    @property
    def audio_projections(self) -> tuple[nn.Module, ...]:
        """The layers of `audio_attention` that give its queries and keys."""
        attention: Any = self.audio_attention
        return attention.q_proj, attention.k_proj

    def audio_query_key(self, projected: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Queries and keys, each (N, heads, head_dim), of N encoder positions."""
        heads = self.config.audio_config.encoder_attention_heads
        query, key = (part.view(len(part), heads, -1) for part in projected)
        return query, key

    @staticmethod
    @abstractmethod
    def audio_positions(mel_frames: int) -> int:
        """Encoder positions of a sound of that many mel frames."""

    @abstractmethod
    def quick_positions(self) -> tuple[str, Callable[[Callable[..., Any]], Callable[..., Any]]]:
        """Name of the model's method that interleaves positions token by token, and its exchange.

        The exchange makes a quick method from the stock one, with the same results
        (`seats_cli.models.mrope`).
        """

    def relevance_query_key(
        self, layer: Any, hidden: Tensor, rotary: tuple[Tensor, Tensor], query_index: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Query of one token (or of some) and keys of all, from states of the sequence.

        The layer's own input norm, projections (with their norms, where the family has them)
        and rotary embedding are applied (arXiv 2605.20035, Stage II).

        Parameters
        ----------
        layer : decoder layer
        hidden : Tensor, shape (n, D)
        rotary : two Tensors (cos, sin), each (n, head_dim)
        query_index : int, or LongTensor of shape (q,)
            Which tokens ask.

        Returns
        -------
        query : Tensor, shape (heads, head_dim), or (q, heads, head_dim)
        key : Tensor, shape (kv_heads, n, head_dim)
        """
        attention = layer.self_attn
        cos, sin = rotary
        normed = layer.input_layernorm(hidden)
        asking = attention.q_proj(normed[query_index])
        query = asking.view(*asking.shape[:-1], -1, attention.head_dim)
        key = attention.k_proj(normed).view(len(hidden), -1, attention.head_dim)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        query = rotate(query, cos[query_index].unsqueeze(-2), sin[query_index].unsqueeze(-2))
        key = rotate(key, cos[:, None], sin[:, None])
        return query, key.transpose(0, 1)


def _token_id(config: Any, modality: str) -> int:
    """Placeholder token id under its newer (`_id`) or older (`_index`) config name."""
    value = getattr(config, f"{modality}_token_id", None)
    return int(getattr(config, f"{modality}_token_index") if value is None else value)
