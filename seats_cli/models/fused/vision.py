"""A vision block's attention around the quick rotary embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from seats_cli import gpu
from seats_cli.models.rotary import rotate_vision

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter


def quick_attention(
    adapter: Adapter, attention: Any, stock: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """A `forward` from the attention's own layers, hooks included, and its attention function.

    Only for functions that take a whole sequence and its borders, as `seats_cli.models.attention`
    and flash-attn do; with others, and off the GPU, the stock one runs.
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
        known = position_embeddings is not None and max_seqlen is not None and "flash" in name
        if not known or attention.training or not gpu.usable(hidden_states.device):
            return stock(
                hidden_states,
                cu_seqlens=cu_seqlens,
                position_embeddings=position_embeddings,
                max_seqlen=max_seqlen,
                **kwargs,
            )
        assert position_embeddings is not None
        query, key, value = adapter.vision_states(attention, hidden_states)
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
