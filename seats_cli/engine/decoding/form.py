"""Which calls of the text model are one token of one sequence, and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from seats_cli.engine.arguments import cache_of
from seats_cli.engine.decoding.layer import PreallocatedLayer

CACHE_NAMES = ("cache", "past_key_values")
TENSORS = ("inputs_embeds", "position_ids")
_FLAGS = (*CACHE_NAMES, "attention_mask", "use_cache", "return_dict")
_LAYERS = (DynamicLayer, PreallocatedLayer)

Form = tuple[tuple[str, torch.Size, torch.dtype, torch.device], ...]


def one_token_form(args: tuple[Any, ...], kwargs: dict[str, Any], layers: int) -> Form | None:
    """Shapes and types of a call for one token; None for every other call.

    Parameters
    ----------
    args, kwargs
        Arguments of the text model's `forward`.
    layers : int
        How many it has.

    Returns
    -------
    tuple or None
        Equal for calls that differ in the values of their tensors only.
    """
    tensors = {name: kwargs.get(name) for name in TENSORS}
    if args or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        return None
    if kwargs["inputs_embeds"].shape[:2] != (1, 1) or not _is_filled(cache_of(kwargs), layers):
        return None
    others = [value for name, value in kwargs.items() if name not in (*TENSORS, *_FLAGS)]
    if not all(value is None or value is False for value in others):
        return None
    mask, whole = kwargs.get("attention_mask"), kwargs.get("return_dict", True) is not False
    prepared = mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2)
    if prepared or not whole or not kwargs.get("use_cache"):
        return None
    return tuple(
        (name, tensor.shape, tensor.dtype, tensor.device)
        for name, tensor in tensors.items()
        if tensor is not None
    )


def sees_everything(kwargs: dict[str, Any]) -> bool:
    """Whether a padding mask hides nothing; waits for the device."""
    mask = kwargs.get("attention_mask")
    return mask is None or bool(mask.all())


def _is_filled(cache: Any, layers: int) -> bool:
    """Whether every layer of the decoder has a cache that grows, with something in it."""
    held = getattr(cache, "layers", ())
    return (
        len(held) == layers
        and not getattr(cache, "offloading", False)
        and all(type(layer) in _LAYERS and layer.get_seq_length() > 0 for layer in held)
    )
