"""Watching for results that are no numbers."""

from __future__ import annotations

from typing import Any

import torch

from seats_cli.errors import ModelError


def refuse_nan(_module: Any, _args: Any, logits: torch.Tensor) -> None:
    """A forward hook for the LM head: stop where generation would go on with nonsense.

    transformers takes token 0 as the likeliest of all NaN, again and again, and the answer
    looks like one.

    Raises
    ------
    ModelError
        If a score is NaN or infinite.
    """
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(
            "The model's output is not a number: float16 may be too narrow for it (use --dtype "
            "bfloat16 or float32), or its weights are damaged (fetch them again)."
        )
