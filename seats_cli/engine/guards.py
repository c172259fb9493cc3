"""What a pruned model refuses, or lets wait, while it is inside `prune(...)`.

Two threads would mix one prompt's encoder statistics with another's tokens, a copy of the model
would keep hooks that belong to the original, and a loss would compare labels with the logits of the
tokens that are left. None of this fails by itself; all of it gives wrong numbers.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import replace_forward, replace_method


@contextmanager
def guarded(adapter: Adapter) -> Iterator[None]:
    """Guard a model inside the block.

    Calls of `generate` and `forward` from several threads wait for each other: `generate` may well
    run in another thread than the one that entered the block, so that its text can be streamed.

    Raises
    ------
    UsageError
        Inside the block: for a deep copy of the model, `labels`, and `generate` without a cache.
    """
    lock = threading.RLock()  # `generate` calls `forward`

    def one_at_a_time(
        check: Callable[[dict[str, Any]], None], call: Callable[..., Any]
    ) -> Callable[..., Any]:
        # transformers reads the signature of `forward`, which `wraps` hands on.
        @functools.wraps(call)
        def waiting(*args: Any, **kwargs: Any) -> Any:
            check(kwargs)
            with lock:
                return call(*args, **kwargs)

        return waiting

    check_cache = functools.partial(_refuse_no_cache, adapter.model)
    with ExitStack() as stack:
        for part in _parts(adapter):
            stack.enter_context(_without_deepcopy(part))
        stack.enter_context(
            replace_forward(adapter.model, functools.partial(one_at_a_time, _refuse_labels))
        )
        if hasattr(adapter.model, "generate"):
            stack.enter_context(
                replace_method(
                    adapter.model, "generate", functools.partial(one_at_a_time, check_cache)
                )
            )
        yield


def _parts(adapter: Adapter) -> Iterator[Any]:
    """The modules that carry hooks and swaps, each once."""
    modules = (adapter.model, adapter.core, adapter.language_model, adapter.visual)
    yield from {id(part): part for part in (*modules, adapter.audio_tower)}.values()


@contextmanager
def _without_deepcopy(module: Any) -> Iterator[None]:
    """Let `copy.deepcopy` of a module, or of anything around it, end in one sentence."""

    def refuse(_memo: dict[int, Any]) -> NoReturn:
        raise UsageError("The model is inside prune(...): copy it before or after the block.")

    vars(module)["__deepcopy__"] = refuse
    try:
        yield
    finally:
        del vars(module)["__deepcopy__"]


def _refuse_labels(arguments: dict[str, Any]) -> None:
    if arguments.get("labels") is not None:
        raise UsageError(
            "Pruning leaves no logits for the labels of dropped tokens: call the model without "
            "`labels`, or compute the loss outside of prune(...)."
        )


def _refuse_no_cache(model: Any, arguments: dict[str, Any]) -> None:
    """Without a cache every token would be a prompt of its own, whose media were not encoded."""
    config = arguments.get("generation_config") or getattr(model, "generation_config", None)
    if arguments.get("use_cache", getattr(config, "use_cache", None)) is False:
        raise UsageError("Pruned generation needs the KV cache: leave out use_cache=False.")
