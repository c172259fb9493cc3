"""Shapes of a model as plain numbers: all that planning and cost accounting need to know.

An adapter in `seats_cli.models` fills these from a transformers config; nothing here
imports torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VisionShape:
    """The vision encoder.

    Parameters
    ----------
    depth : int
        Number of blocks.
    hidden_size, intermediate_size, num_heads : int
        Width, MLP width and attention heads of a block.
    patch_size : int
        Side of a square patch in pixels.
    temporal_patch_size : int
        Frames per grid (temporal patch).
    merge_size : int
        Side of the merge unit in patches; `merge_size**2` patches become one LLM token.
    in_channels : int
        Colour channels.
    out_hidden_size : int
        Width of the merged tokens, the hidden size of the LLM.
    gated_mlp : bool
        True for SwiGLU (three matrices), False for a plain two-matrix MLP.
    window_size : int | None
        Side of an attention window in pixels, None when all blocks see the whole grid.
    full_attention_blocks : tuple of int
        0-based blocks that see a whole grid although `window_size` is set.
    deepstack_blocks : tuple of int
        0-based blocks whose output is merged again for the first LLM layers (Qwen3).
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int
    temporal_patch_size: int
    merge_size: int
    in_channels: int
    out_hidden_size: int
    gated_mlp: bool
    window_size: int | None = None
    full_attention_blocks: tuple[int, ...] = ()
    deepstack_blocks: tuple[int, ...] = ()


@dataclass(frozen=True)
class AudioShape:
    """The audio encoder.

    Parameters
    ----------
    depth, hidden_size, intermediate_size, num_heads : int
        Blocks, width, MLP width and attention heads.
    num_mel_bins : int
        Mel bands of the input (100 frames per second).
    out_hidden_size : int
        Width of the audio tokens, the hidden size of the LLM.
    window_frames : int
        Mel frames that attend to each other in one segment.
    conv_channels : int
        Channels of the convolutional front end.
    tokens_per_second : float
        LLM tokens per second of sound (25 for Qwen2.5-Omni, 13 for Qwen3-Omni).
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_mel_bins: int
    out_hidden_size: int
    window_frames: int
    conv_channels: int
    tokens_per_second: float


@dataclass(frozen=True)
class Architecture:
    """The LLM (the thinker's decoder), its encoders and the published SEATS constants for it.

    Parameters
    ----------
    family : str
        Adapter name: "qwen2_5_omni" or "qwen3_omni_moe".
    num_layers, hidden_size, intermediate_size : int
        Decoder layers (numbered from 1 everywhere), width, dense MLP width.
    num_heads, num_kv_heads, head_dim : int
        Grouped-query attention.
    vocab_size : int
        Rows of the LM head.
    vision, audio : VisionShape, AudioShape
        The encoders.
    num_experts, experts_per_token, moe_intermediate_size : int
        Mixture of experts; all 0 for a dense MLP.
    deepstack_layers : int
        Number of first decoder layers whose output receives DeepStack features.
    drop_layers : tuple of int
        Default drop layers (1-based: tokens leave after these layers).
    late_layer : int | None
        First layer of the late block: every audio-visual token leaves after `late_layer - 1`.
    temperature : float
        Softmax temperature of the window budgets.
    max_positions : int
        Context length in tokens.
    retention_pairs : tuple of (float, float, float)
        The model's own average retention of video and of audio for overall shares; empty for those
        of its family.
    layers_from : str
        Where the default layers come from: "paper", "depth" (scaled by depth) or "model"
        (stored beside the weights).
    """

    family: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    vision: VisionShape
    audio: AudioShape
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    deepstack_layers: int = 0
    drop_layers: tuple[int, ...] = ()
    late_layer: int | None = None
    temperature: float = 0.1
    max_positions: int = 32768
    retention_pairs: tuple[tuple[float, float, float], ...] = ()
    layers_from: str = "depth"
