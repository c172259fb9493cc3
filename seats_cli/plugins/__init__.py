"""Thin entry points for other people's tools: llm, lmms-eval, and clients of MCP.

Nothing is imported before the tool in question asks for it.
"""

from __future__ import annotations

from typing import Any


def lmms_eval_models() -> Any:
    """What the entry point `lmms_eval.models` is: the model `seats`, for tasks with messages."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="seats", chat_class_path="seats_cli.plugins.lmms_eval_model.SeatsModel"
    )
