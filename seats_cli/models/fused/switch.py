"""Which modules of a model run a quick `forward`: set on the objects and on nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from seats_cli.exchange import other_forward
from seats_cli.models.fused import linear, norm
from seats_cli.models.fused.vision import quick_attention

if TYPE_CHECKING:
    from torch import nn

    from seats_cli.models.adapter import Adapter

Exchange = tuple[Any, Callable[[Callable[..., Any]], Callable[..., Any]]]


def exchanges(adapter: Adapter) -> list[Exchange]:
    """The modules concerned, each with what makes its quick `forward` from its stock one."""
    found: list[Exchange] = []
    for block in adapter.visual.blocks:
        found.append((block.attn, partial(quick_attention, adapter, block.attn)))
    for module in adapter.visual.modules():
        found += _products(module)
    for part in (adapter.visual, adapter.language_model):
        for module in part.modules():
            if norm.is_rms_norm(module):
                found.append((module, partial(norm.quick_norm, module)))
    return found


def set_quick_parts(adapter: Adapter) -> None:
    """Let a model run these from now on."""
    for module, quick in exchanges(adapter):
        module.forward = quick(module.forward)


@contextmanager
def quick_parts(adapter: Adapter) -> Iterator[None]:
    """Let a model run these inside the block; it is then left as it was found.

    Worth it on an NVIDIA GPU: there, the vision encoder's rotary embedding is one Triton kernel,
    the encoder's and the decoder's RMSNorms are two kernels each, and the encoder's products have
    aligned shapes. What lies elsewhere runs as ever.
    """
    with ExitStack() as stack:
        for module, quick in exchanges(adapter):
            stack.enter_context(other_forward(module, quick))
        yield


def _products(module: nn.Module) -> list[Exchange]:
    """Projections of an MLP with an unaligned width, or a convolution over patches."""
    if linear.is_patch_convolution(module):
        return [(module, partial(linear.as_product, module))]
    if not linear.is_unaligned_mlp(module):
        return []
    gated: Any = module
    return [
        (gated.gate_proj, partial(linear.widened, gated.gate_proj)),
        (gated.up_proj, partial(linear.widened, gated.up_proj)),
        (gated.down_proj, partial(linear.of_widened, gated.down_proj)),
    ]
