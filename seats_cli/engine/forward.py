"""Another `forward` for one module object, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def other_forward(
    module: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Let a module run `wrap(forward)` inside the block; it is then left as it was found.

    On the object, not its class, as accelerate does: hooks go on working, and what somebody else
    has put on the object is wrapped too and is there again afterwards.

    Parameters
    ----------
    module : nn.Module
    wrap : callable
        Makes the new `forward` from the one there is.
    """
    before = vars(module).get("forward")
    module.forward = wrap(module.forward)
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
