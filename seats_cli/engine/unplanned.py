"""Attention without a plan for every length.

On recent GPUs PyTorch prefers cuDNN's attention, which plans anew for every length that it has not
seen: some 50 ms each on an H100, more than a pruned prefill. A pruned prompt has several lengths,
and an answer a new one with every token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch.backends import cuda

from seats_cli.engine.clock import is_prefill
from seats_cli.exchange import other_forward

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter


@contextmanager
def unplanned_attention(adapter: Adapter, *, prefill: bool) -> Iterator[None]:
    """Let the text model leave cuDNN's attention alone; PyTorch's next best takes its place.

    Parameters
    ----------
    adapter : Adapter
    prefill : bool
        Also for prompts, and not only for the tokens of an answer. A prompt that is not pruned has
        one length, and cuDNN is the fastest for it.
    """

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        def unplanned(*args: Any, **kwargs: Any) -> Any:
            allowed = cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
            if not allowed or (is_prefill(kwargs) and not prefill):
                return forward(*args, **kwargs)
            cuda.enable_cudnn_sdp(False)
            try:
                return forward(*args, **kwargs)
            finally:
                cuda.enable_cudnn_sdp(True)

        return unplanned

    with other_forward(adapter.language_model, wrap):
        yield
