"""Loading, and one adapter per model family."""

from __future__ import annotations

from seats_cli.families.registry import BUNDLED
from seats_cli.models.inputs import (
    PreparedClip,
    build_inputs,
    inputs_from_messages,
    need_of,
    prepare_clip,
)
from seats_cli.models.load import LoadedModel, load_model
from seats_cli.models.registry import adapter_for

__all__ = [
    "BUNDLED",
    "LoadedModel",
    "PreparedClip",
    "adapter_for",
    "build_inputs",
    "inputs_from_messages",
    "load_model",
    "need_of",
    "prepare_clip",
]
