"""RMSNorm in two kernels where transformers launches six."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import rms_norm

from seats_cli import gpu


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is one of transformers' RMSNorms, with a weight and nothing else."""
    names = [name for name, _ in module.named_parameters()]
    return (
        type(module).__name__.endswith("RMSNorm")
        and not hasattr(module, "_hf_hook")  # accelerate moves its weight in and out
        and names == ["weight"]
        and hasattr(module, "variance_epsilon")
    )


def quick_norm(module: nn.Module, stock: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A `forward` with the roundings of the stock one: to the input's dtype, then by the weight.

    Only the order in which squares are summed is the kernel's own.
    """

    def forward(hidden_states: Tensor) -> Tensor:
        if not gpu.on_gpu(hidden_states):
            return stock(hidden_states)
        weight: Tensor = module.weight  # type: ignore[assignment]
        epsilon: float = module.variance_epsilon  # type: ignore[assignment]
        return weight * rms_norm(hidden_states, weight.shape, None, epsilon)

    return forward
