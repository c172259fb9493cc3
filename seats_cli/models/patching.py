"""Swapping something on one object for the length of a block; the only place that does it.

No class is touched. What another library has put on an object (accelerate its own `forward`) is
wrapped as well, and is there again afterwards. Everything is put back after an exception, too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch.utils.hooks import RemovableHandle

from seats_cli.errors import UsageError

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]

# Blocks that use each attention registered here; transformers' registry is shared by all models.
_users: Counter[str] = Counter()


class _Block:
    """Who has swapped something on a model."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: int | None = None


_blocks: WeakKeyDictionary[Any, _Block] = WeakKeyDictionary()
_blocks_lock = threading.Lock()


@contextmanager
def exclusive(model: Any) -> Iterator[None]:
    """Have a model to oneself inside the block; other threads wait for its end.

    Raises
    ------
    UsageError
        If the same thread has it already: what is swapped twice could not be told apart.
    """
    with _blocks_lock:
        block = _blocks.setdefault(model, _Block())
    if block.thread == threading.get_ident():
        raise UsageError("The model is inside prune(...) already: leave that block first.")
    with block.lock:
        block.thread = threading.get_ident()
        try:
            yield
        finally:
            block.thread = None


def is_swapped(model: Any) -> bool:
    """Whether some thread is inside `exclusive(model)`."""
    block = _blocks.get(model)
    return block is not None and block.thread is not None


@contextmanager
def replace_method(target: Any, name: str, wrap: Wrap) -> Iterator[None]:
    """Replace a method of an object inside the block by `wrap(method)`.

    Parameters
    ----------
    name : str
        Of the method.
    wrap : callable
        Makes the new method from the present one.
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
    """`replace_method` for the `forward` of a module; its hooks still run around it."""
    return replace_method(module, "forward", wrap)


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Keep hooks registered inside the block.

    Parameters
    ----------
    handles : iterable of RemovableHandle
        A generator that registers a hook whenever it is asked for the next handle leaves nothing
        behind if it fails midway.
    """
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


@contextmanager
def use_attention(
    models: Sequence[Any], name: str, function: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Let parts of a model run another attention inside the block.

    Parameters
    ----------
    models : sequence of transformers PreTrainedModel
        The attention reads the `_attn_implementation` of their configs.
    name : str
        Of the attention.
    function : callable, optional
        What the name stands for, with the signature of transformers' `AttentionInterface`; it is
        registered inside the block. None for a name that transformers knows.

    Raises
    ------
    ImportError, ValueError
        From transformers, if it does not know the name, or the attention cannot run here.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = [model.config._attn_implementation for model in models]
    if function is not None:
        # Counted, because blocks of two models may overlap without one lying in the other.
        _users[name] += 1
        ALL_ATTENTION_FUNCTIONS[name] = function
    try:
        for model in models:
            if function is None:
                model.set_attn_implementation(name)
            else:
                # `set_attn_implementation` looks for a package behind names with "flash" in them.
                model.config._attn_implementation = name
        yield
    finally:
        for model, found in zip(models, before, strict=True):
            model.config._attn_implementation = found
        if function is not None:
            _users[name] -= 1
            if not _users[name]:
                del ALL_ATTENTION_FUNCTIONS[name]
