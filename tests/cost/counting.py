"""What torch counts while something runs, without the angles of rotary embeddings.

Some versions of transformers work the angles out as a matrix product, others as an outer one. They
are no part of a model's FLOPs, and the counter knows the first kind only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counted(call: Callable[[], Any]) -> tuple[int, Any]:
    """FLOPs of a call, and what it returns."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        result = call()
    angles = sum(
        sum(operations.values())
        for module, operations in counter.get_flop_counts().items()
        if module.rpartition(".")[2].startswith("rotary")
    )
    return counter.get_total_flops() - angles, result
