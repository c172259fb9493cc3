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

import torch

from seats_cli.engine.generate_calls import check_call
from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter
from seats_cli.models.patching import replace_forward, replace_method

_Check = Callable[[tuple[Any, ...], dict[str, Any]], None]  # of a call's arguments


@contextmanager
def guarded(adapter: Adapter) -> Iterator[None]:
    """Guard a model inside the block.

    Calls of `generate` and `forward` from several threads wait for each other: `generate` may well
    run in another thread than the one that entered the block, so that its text can be streamed.

    Raises
    ------
    UsageError
        Inside the block: for a deep copy of the model, `labels`, speech about a clip, and what
        `generate_calls` refuses.
    """
    lock = threading.RLock()  # `generate` calls `forward`

    def one_at_a_time(check: _Check, call: Callable[..., Any]) -> Callable[..., Any]:
        # transformers reads the signature of `forward`, which `wraps` hands on.
        @functools.wraps(call)
        def waiting(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            with lock:
                return call(*args, **kwargs)

        return waiting

    generating = [(adapter.model, functools.partial(check_call, adapter.model))]
    if adapter.whole is not adapter.model:
        generating.append((adapter.whole, functools.partial(_refuse_speech, adapter)))
    with ExitStack() as stack:
        for part in _parts(adapter):
            stack.enter_context(_without_deepcopy(part))
        stack.enter_context(
            replace_forward(adapter.model, functools.partial(one_at_a_time, _refuse_labels))
        )
        for model, check in generating:
            if hasattr(model, "generate"):
                stack.enter_context(
                    replace_method(model, "generate", functools.partial(one_at_a_time, check))
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


def _refuse_labels(_args: tuple[Any, ...], arguments: dict[str, Any]) -> None:
    if arguments.get("labels") is not None:
        raise UsageError(
            "Pruning leaves no logits for the labels of dropped tokens: call the model without "
            "`labels`, or compute the loss outside of prune(...)."
        )


def _refuse_speech(adapter: Adapter, args: tuple[Any, ...], arguments: dict[str, Any]) -> None:
    """The talker goes on from the thinker's states of the whole prompt."""
    ids = arguments.get("input_ids", args[0] if args else None)
    media = (adapter.video_token_id, adapter.audio_token_id)
    if not adapter.speaks(arguments) or (
        ids is not None and not torch.isin(ids, torch.tensor(media, device=ids.device)).any()
    ):
        return
    raise UsageError(
        "Speech needs the thinker's states of every token of the prompt, and pruning drops some: "
        'ask for text (`generation_mode="text"`), or call the model outside of prune(...).'
    )
