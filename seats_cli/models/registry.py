"""From a `model_type` to the adapter of its family."""

from __future__ import annotations

from typing import Any

from seats_cli.errors import ModelError
from seats_cli.models.adapter import Adapter
from seats_cli.models.qwen2_5_omni import Qwen25Omni
from seats_cli.models.qwen3_omni_moe import Qwen3OmniMoe

ADAPTERS: tuple[type[Adapter], ...] = (Qwen25Omni, Qwen3OmniMoe)


def adapter_class(model_type: str) -> type[Adapter]:
    """The adapter class for a config's `model_type`.

    Raises
    ------
    ModelError
        If no family claims it.
    """
    for candidate in ADAPTERS:
        if model_type in candidate.model_types:
            return candidate
    known = ", ".join(name for adapter in ADAPTERS for name in adapter.model_types)
    raise ModelError(
        f"The model type '{model_type}' is not supported; seats works with {known} "
        "(Qwen2.5-Omni and Qwen3-Omni)."
    )


def adapter_for(model: Any) -> Adapter:
    """Wrap a loaded model, the thinker or the full Omni model around it."""
    return adapter_class(model.config.model_type)(model)
