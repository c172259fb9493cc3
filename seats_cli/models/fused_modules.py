"""Norms, rotary embeddings and aligned products that a GPU computes in fewer kernels.

Each function makes a `forward` for one module object from its present one, and leaves the input to
that one wherever it cannot do better: off the GPU, in other dtypes, for other shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, rms_norm

from seats_cli.models.adapter import rotate
from seats_cli.selection import device

Forward = Callable[[Tensor], Tensor]

# Values in a row of a half-precision matrix that lie on 16 bytes, as tensor cores are fed.
ALIGNED = 8
# With fewer rows, copying the weights takes more than the product gains.
_FEWEST_ROWS = 512
_HALF = (torch.float16, torch.bfloat16)


def missing(size: int) -> int:
    """Values that a row lacks to be aligned."""
    return -size % ALIGNED


def is_unaligned_mlp(module: nn.Module) -> bool:
    """Whether a module is an MLP of plain gate, up and down projections with an unaligned width."""
    parts = [getattr(module, f"{name}_proj", None) for name in ("gate", "up", "down")]
    if not all(type(part) is nn.Linear and not hasattr(part, "_hf_hook") for part in parts):
        return False
    return bool(missing(parts[2].in_features))  # type: ignore[union-attr]


def widened(module: nn.Linear, stock: Forward) -> Forward:
    """A gate's or up projection's `forward` with columns of zeros up to an aligned width.

    The weights are padded for each call: beside the product that takes no time, and no second
    copy of them is kept.
    """
    extra = missing(module.out_features)

    def forward(hidden: Tensor) -> Tensor:
        # Few rows are left to the stock product, half precision is what tensor cores align.
        rows = hidden.numel() // module.in_features
        if not device.on_gpu(hidden) or hidden.dtype not in _HALF or rows < _FEWEST_ROWS:
            return stock(hidden)
        bias = None if module.bias is None else pad(module.bias, (0, extra))
        return linear(hidden, pad(module.weight, (0, 0, 0, extra)), bias)

    return forward


def of_widened(module: nn.Linear, stock: Forward) -> Forward:
    """The down projection's `forward` for the outputs of `widened` ones.

    The activation of the zeros is zero, and so are the padded rows of the weights.
    """
    extra = missing(module.in_features)

    def forward(hidden: Tensor) -> Tensor:
        if hidden.shape[-1] != module.in_features + extra:
            return stock(hidden)
        return linear(hidden, pad(module.weight, (0, extra)), module.bias)

    return forward


def is_patch_convolution(module: nn.Module) -> TypeGuard[nn.Conv3d]:
    """Whether a convolution reads every value once: a stride as wide as its kernel, no padding."""
    return (
        type(module) is nn.Conv3d
        and not hasattr(module, "_hf_hook")
        and module.kernel_size == module.stride
        and module.groups == 1
        and all(size == 0 for size in module.padding)
        and all(size == 1 for size in module.dilation)
    )


def as_product(module: nn.Conv3d, stock: Forward) -> Forward:
    """Its `forward` on single patches, (N, channels, *kernel_size), as one matrix product."""

    def forward(patches: Tensor) -> Tensor:
        if not device.on_gpu(patches) or patches.shape[2:] != module.kernel_size:
            return stock(patches)
        out = linear(patches.flatten(1), module.weight.flatten(1), module.bias)
        return out[:, :, None, None, None]

    return forward


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is one of transformers' RMSNorms, with a weight and nothing else."""
    names = [name for name, _ in module.named_parameters()]
    return (
        type(module).__name__.endswith("RMSNorm")
        and not hasattr(module, "_hf_hook")  # accelerate moves its weight in and out
        and names == ["weight"]
        and hasattr(module, "variance_epsilon")
    )


def norm(module: nn.Module, stock: Forward) -> Forward:
    """An RMSNorm's `forward`, rounded as the stock one: to the input's dtype, then by the weight.

    Only the order in which squares are summed is the kernel's own.
    """

    def forward(hidden_states: Tensor) -> Tensor:
        if not device.on_gpu(hidden_states):
            return stock(hidden_states)
        weight: Tensor = module.weight  # type: ignore[assignment]
        epsilon: float = module.variance_epsilon  # type: ignore[assignment]
        # Not with its `weight` argument: that would multiply before rounding to the input's dtype.
        return weight * rms_norm(hidden_states, weight.shape, None, epsilon)

    return forward


_WIDEST_HEAD = 256


def rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor] | None:
    """Queries and keys after rotary embedding in one kernel; None where that cannot run.

    Parameters
    ----------
    query, key : Tensor, shape (N, heads, d), any strides
        Of the same floating dtype. Computed in float32 and rounded once, as transformers does.
    cos, sin : Tensor, shape (N, d)

    Returns
    -------
    query, key : Tensor, shape (N, heads, d), contiguous
    """
    if not _fit(query, key, cos, sin):
        return None

    def launched() -> tuple[Tensor, Tensor]:
        from seats_cli.models.rotary_kernel import rotate_both

        return rotate_both(query, key, cos, sin)

    return device.attempt(launched, query.device)


def _fit(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> bool:
    width = query.shape[-1]
    return (
        device.usable(query.device)
        and query.ndim == 3
        and query.shape == key.shape
        and query.dtype == key.dtype
        and width % 2 == 0
        and width <= _WIDEST_HEAD
        and cos.shape == sin.shape == (len(query), width)
        # The kernel has no backward pass.
        and not any(tensor.requires_grad for tensor in (query, key, cos, sin))
    )


def rotate_vision(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotated queries and keys (N, heads, d) of the vision encoders; cos and sin (N, d)."""
    both = rotated(query, key, cos, sin)
    return both or (rotate_float32(query, cos, sin), rotate_float32(key, cos, sin))


def rotate_float32(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`rotate` in float32 as the vision encoders do it; x (N, heads, d), cos and sin (N, d)."""
    return rotate(x.float(), cos[:, None].float(), sin[:, None].float()).to(x.dtype)


def vision_attention(
    vision_states: Callable[[Any, Tensor], tuple[Tensor, Tensor, Tensor]],
    attention: Any,
    stock: Callable[..., Tensor],
) -> Callable[..., Tensor]:
    """A vision attention's `forward` from its own layers, hooks included, and its function.

    Only for functions that take a whole sequence and its borders, as those of
    `seats_cli.models.encoder_attention` and flash-attn do; with others, and off the GPU, the
    stock one runs.

    Parameters
    ----------
    vision_states : callable
        `Adapter.vision_states`.
    attention : nn.Module
        Of a vision block.
    stock : callable
        Its present `forward`.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def forward(
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        name: str = attention.config._attn_implementation
        # Attentions with "flash" in their name take whole sequences and their borders.
        known = position_embeddings is not None and max_seqlen is not None and "flash" in name
        if not known or attention.training or not device.usable(hidden_states.device):
            return stock(
                hidden_states,
                cu_seqlens=cu_seqlens,
                position_embeddings=position_embeddings,
                max_seqlen=max_seqlen,
                **kwargs,
            )
        assert position_embeddings is not None
        # What the stock one does, but with both rotations in one kernel.
        query, key, value = vision_states(attention, hidden_states)
        query, key = rotate_vision(query, key, *position_embeddings)
        attended, _ = ALL_ATTENTION_FUNCTIONS[name](
            attention,
            *(states.transpose(0, 1)[None] for states in (query, key, value)),
            attention_mask=None,
            scaling=attention.scaling,
            dropout=0.0,
            cu_seq_lens_q=cu_seqlens,
            cu_seq_lens_k=cu_seqlens,
            max_length_q=max_seqlen,
            max_length_k=max_seqlen,
            is_causal=False,
            **kwargs,
        )
        projected: Tensor = attention.proj(attended.reshape(len(hidden_states), -1))
        return projected

    return forward
