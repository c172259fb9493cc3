"""What torch counts while something runs, without the angles of rotary embeddings.

Some versions of transformers work the angles out as a matrix product, others as an outer one. They
are no part of a model's FLOPs, and the counter's formulas know the first kind only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.modules import module as modules
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):
    """The formulas of torch's own `FlopCounterMode`.

    That one asks every operation to take itself apart, in case it is made of products, and looks up
    its module: most of the time of a run. Only in inference mode do composite operations come here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.rotary = 0  # modules of rotary embeddings under way

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func.overloadpacket)
        if formula is None and torch.is_inference_mode_enabled():
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None and not self.rotary:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result

    def enter(self, module: torch.nn.Module, _args: Any) -> None:
        self.rotary += "Rotary" in type(module).__name__

    def leave(self, module: torch.nn.Module, _args: Any, _result: Any) -> None:
        self.rotary -= "Rotary" in type(module).__name__


def counted(call: Callable[[], Any]) -> tuple[int, Any]:
    """FLOPs of a call, and what it returns."""
    counter = Counter()
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for hook in (
            modules.register_module_forward_pre_hook(counter.enter),
            modules.register_module_forward_hook(counter.leave),
        ):
            stack.callback(hook.remove)
        stack.enter_context(counter)
        result = call()
    assert not counter.rotary
    return counter.flops, result
