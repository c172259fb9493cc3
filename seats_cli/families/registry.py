"""From a model's configuration to its shapes, without importing torch or transformers.

The adapters in `seats_cli.models` describe loaded models through this module, and `seats plan`
describes a config.json, so that both speak of the same model in the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from seats_cli.errors import ModelError
from seats_cli.families.base import Architecture, AudioShape, VisionShape
from seats_cli.families.published import default_layers, default_temperature

QWEN2_5, QWEN3 = "qwen2_5_omni", "qwen3_omni_moe"


def describe_qwen2_5(config: Any) -> Architecture:
    """Shapes of a `Qwen2_5OmniThinkerConfig`, or of an object with the same attributes."""
    vision, audio = config.vision_config, config.audio_config
    return Architecture(
        vision=VisionShape(
            **_vision(vision),
            gated_mlp=True,
            window_size=vision.window_size,
            full_attention_blocks=tuple(vision.fullatt_block_indexes),
        ),
        audio=AudioShape(
            **_audio(audio),
            window_frames=2 * audio.n_window,
            conv_channels=audio.d_model,
            tokens_per_second=25.0,
        ),
        **_decoder(QWEN2_5, config.text_config, published_depth=28),
    )


def describe_qwen3(config: Any) -> Architecture:
    """Shapes of a `Qwen3OmniMoeThinkerConfig`, or of an object with the same attributes."""
    text, vision, audio = config.text_config, config.vision_config, config.audio_config
    deepstack = tuple(vision.deepstack_visual_indexes)
    return Architecture(
        vision=VisionShape(**_vision(vision), gated_mlp=False, deepstack_blocks=deepstack),
        audio=AudioShape(
            **_audio(audio),
            window_frames=audio.n_window_infer,
            conv_channels=audio.downsample_hidden_size,
            tokens_per_second=13.0,
        ),
        num_experts=text.num_experts,
        experts_per_token=text.num_experts_per_tok,
        moe_intermediate_size=text.moe_intermediate_size,
        deepstack_layers=len(deepstack),
        **_decoder(QWEN3, text, published_depth=48),
    )


def describe_config(values: dict[str, Any], name: str) -> tuple[Architecture, dict[str, Any]]:
    """Shapes and own settings of a parsed config.json, of a thinker or of the model around it.

    Parameters
    ----------
    values : dict
        Contents of the file.
    name : str
        What to call the model in messages.

    Returns
    -------
    architecture : Architecture
        With the checkpoint's own drop layers, if it names some.
    own : dict
        Its `seats` entry (see `Adapter.own_settings`).

    Raises
    ------
    ModelError
        If the model is of no supported family or a number is missing.
    """
    values = values.get("thinker_config", values)
    kind = str(values.get("model_type", "")).removesuffix("_thinker")
    describe = {QWEN2_5: describe_qwen2_5, QWEN3: describe_qwen3}.get(kind)
    if describe is None:
        raise ModelError(
            f"The model type '{kind}' of '{name}' is not supported; seats works with "
            "Qwen2.5-Omni and Qwen3-Omni."
        )
    try:
        architecture = describe(_as_object(values))
    except (AttributeError, TypeError) as error:
        raise ModelError(f"The config of '{name}' is incomplete: {error}.") from error
    own: dict[str, Any] = values.get("seats") or {}
    return with_own_settings(architecture, own), own


def with_own_settings(architecture: Architecture, own: Mapping[str, Any]) -> Architecture:
    """A description with what the checkpoint says of itself (see `Adapter.own_settings`)."""
    if "retention_pairs" in own:
        pairs = tuple((share, video, audio) for share, video, audio in own["retention_pairs"])
        architecture = replace(architecture, retention_pairs=pairs)
    if "drop_layers" in own:
        architecture = replace(
            architecture,
            drop_layers=tuple(own["drop_layers"]),
            late_layer=own.get("late_layer"),
            layers_from="model",
        )
    return architecture


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The config.json of a checkpoint folder.

    Raises
    ------
    ModelError
        If there is none or it is no JSON object.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{name}' has no readable config.json.") from error
    if not isinstance(values, dict):
        raise ModelError(f"The config.json of '{name}' holds no settings.")
    return values


def _decoder(family: str, text: Any, published_depth: int) -> dict[str, Any]:
    drop_layers, late_layer = default_layers(family, text.num_hidden_layers)
    return {
        "family": family,
        "num_layers": text.num_hidden_layers,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_heads": text.num_attention_heads,
        "num_kv_heads": text.num_key_value_heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        "vocab_size": text.vocab_size,
        "drop_layers": drop_layers,
        "late_layer": late_layer,
        "temperature": default_temperature(family),
        "max_positions": text.max_position_embeddings,
        "layers_from": "paper" if text.num_hidden_layers == published_depth else "depth",
    }


def _vision(vision: Any) -> dict[str, Any]:
    return {
        "depth": vision.depth,
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_heads": vision.num_heads,
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "in_channels": vision.in_channels,
        "out_hidden_size": vision.out_hidden_size,
    }


def _audio(audio: Any) -> dict[str, Any]:
    return {
        "depth": audio.encoder_layers,
        "hidden_size": audio.d_model,
        "intermediate_size": audio.encoder_ffn_dim,
        "num_heads": audio.encoder_attention_heads,
        "num_mel_bins": audio.num_mel_bins,
        "out_hidden_size": audio.output_dim,
    }


def _as_object(value: Any) -> Any:
    """Nested dicts as objects with attributes; lists stay as they are."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: _as_object(item) for key, item in value.items()})
    return value
