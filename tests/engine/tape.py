"""A recorder without a GPU that is as forgetful as a CUDA graph.

It notes the operations of a step and repeats just those, on the same tensors: what Python decided
while it was recorded, numbers included, stays as it was.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from seats_cli.engine.cuda_graph import Step


class _Noting(TorchDispatchMode):
    """Keeps every operation with its arguments and what came out."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result


class Tape:
    """A recorded step.

    Parameters
    ----------
    recorder : TapeRecorder
    output : ModelOutput
        Its tensors are overwritten by `replay`.
    operations : list
    """

    def __init__(self, recorder: TapeRecorder, output: Any, operations: list[Any]) -> None:
        self.output = output
        self._recorder = recorder
        self._operations = operations

    def replay(self) -> None:
        self._recorder.replays += 1
        for func, args, kwargs, noted in self._operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(noted), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    def release(self) -> None:
        assert self._operations, "released twice"
        self._recorder.released += 1
        self._operations = []
        self.output.last_hidden_state.fill_(float("nan"))  # memory that is somebody else's now


class TapeRecorder:
    """Counts what is asked of it; a step's first values are spoilt, as a capture computes none."""

    name = "tape"

    def __init__(self) -> None:
        self.rehearsals = self.replays = self.released = 0

    def rehearse(self, step: Step) -> Any:
        self.rehearsals += 1
        return step()

    def record(self, step: Step) -> Tape:
        with _Noting() as noting:
            output = step()
        output.last_hidden_state.fill_(float("nan"))
        return Tape(self, output, noting.operations)
