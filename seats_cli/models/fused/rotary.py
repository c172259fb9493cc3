"""The vision encoders' rotary embedding in one kernel where transformers launches eleven."""

from __future__ import annotations

from torch import Tensor

from seats_cli import gpu

_WIDEST_HEAD = 256


def rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor] | None:
    """Queries and keys after rotary embedding; None where the plain version has to do it.

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
        from seats_cli.models.fused.rotary_kernel import rotate_both

        return rotate_both(query, key, cos, sin)

    return gpu.attempt(launched, query.device)


def _fit(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> bool:
    width = query.shape[-1]
    return (
        gpu.usable(query.device)
        and query.ndim == 3
        and query.shape == key.shape
        and query.dtype == key.dtype
        and width % 2 == 0
        and width <= _WIDEST_HEAD
        and cos.shape == sin.shape == (len(query), width)
        and not any(tensor.requires_grad for tensor in (query, key, cos, sin))
    )
