"""Everything that makes a stock model faster without changing what it computes, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from seats_cli.gpu import is_nvidia
from seats_cli.models.attention.switch import (
    best_for_encoders,
    encoder_attention,
    use_for_encoders,
)
from seats_cli.models.fused.switch import quick_parts

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter

_STOCK = ("sdpa", "sdpa")


@contextmanager
def quick_model(adapter: Adapter) -> Iterator[None]:
    """Let a stock model run as `load_model` sets one up; it is then left as it was found.

    A model whose encoders do not run transformers' `sdpa` has been set up by somebody who meant it,
    and stays as it is.
    """
    weight = next(adapter.visual.parameters())
    with ExitStack() as stack:
        if encoder_attention(adapter) == _STOCK:
            own = best_for_encoders(weight.device, weight.dtype)
            stack.enter_context(use_for_encoders(adapter, own))
            if is_nvidia(weight.device):
                stack.enter_context(quick_parts(adapter))
        yield
