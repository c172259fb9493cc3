"""Temporarily replace a method of one object; the only place that swaps and restores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


@contextmanager
def replace_method(target: Any, name: str, wrap: Wrap) -> Iterator[None]:
    """Let an object run `wrap(method)` inside the block; it is then left as it was found.

    On the object, not its class, as accelerate does with `forward`: what somebody else has put on
    the object is wrapped too and is there again afterwards.

    Parameters
    ----------
    target : object
    name : str
        Of the method.
    wrap : callable
        Makes the new method from the one there is.
    """
    before = vars(target).get(name)
    setattr(target, name, wrap(getattr(target, name)))
    try:
        yield
    finally:
        if before is None:
            delattr(target, name)
        else:
            setattr(target, name, before)


def replace_forward(module: Any, wrap: Wrap) -> AbstractContextManager[None]:
    """`other_method` for the `forward` of a module, whose hooks go on working."""
    return replace_method(module, "forward", wrap)
