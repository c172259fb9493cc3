"""Replacements that make a stock model faster without changing what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.backends import cuda

from seats_cli.engine.timing import is_prefill
from seats_cli.models import fused_modules
from seats_cli.models.fused_modules import quick_attention
from seats_cli.models.patching import replace_forward, replace_method
from seats_cli.selection.device import is_nvidia

if TYPE_CHECKING:
    from torch import nn

    from seats_cli.models.adapter import Adapter


# transformers hands a whole sequence and its borders to an attention whose name contains
# "flash", and one segment at a time to every other (`is_flash_attention_requested`).
SEGMENTS = "seats_segments_as_flash"
_OWN = "seats_"  # how names of attentions registered here begin
FLASH = "flash_attention_2"
HALF = (torch.float16, torch.bfloat16)


def best_for_encoders(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest attention for encoders: flash-attn where it is installed and can run."""
    from transformers.utils import is_flash_attn_2_available

    if device.type == "cuda" and dtype in HALF and is_flash_attn_2_available():
        return FLASH
    return SEGMENTS


def encoder_attention(adapter: Adapter) -> tuple[str, str]:
    """Names of the attention that the vision and the audio encoder run now."""
    vision, audio = (str(config._attn_implementation) for config in _configs(adapter))
    return vision, audio


def set_for_encoders(adapter: Adapter, name: str) -> None:
    """Let both encoders run the attention of that name, from now on.

    Parameters
    ----------
    adapter : Adapter
        Of a loaded model.
    name : str
        `SEGMENTS`, or a name that transformers knows.

    Raises
    ------
    ImportError, ValueError
        From transformers, if that attention cannot run here.
    """
    if not name.startswith(_OWN):
        for encoder in (adapter.visual, adapter.audio_tower):
            encoder.set_attn_implementation(name)
        return
    _register()
    # `set_attn_implementation` would look for a package behind every name with "flash" in it.
    for config in _configs(adapter):
        config._attn_implementation = name


@contextmanager
def use_for_encoders(adapter: Adapter, name: str = SEGMENTS) -> Iterator[None]:
    """`set_for_encoders` for the length of a block; the model is then left as it was found."""
    before = [config._attn_implementation for config in _configs(adapter)]
    try:
        set_for_encoders(adapter, name)
        yield
    finally:
        for config, found in zip(_configs(adapter), before, strict=True):
            config._attn_implementation = found


def _configs(adapter: Adapter) -> tuple[Any, Any]:
    """The configs that the attention of both encoders reads."""
    vision: Any = adapter.vision_attention
    audio: Any = adapter.audio_attention
    return vision.config, audio.config


def _register() -> None:
    from transformers import AttentionInterface

    from seats_cli.models.encoder_attention import segment_attention

    AttentionInterface.register(SEGMENTS, segment_attention)


Exchange = tuple[Any, Callable[[Callable[..., Any]], Callable[..., Any]]]


def exchanges(adapter: Adapter) -> list[Exchange]:
    """The modules concerned, each with what makes its quick `forward` from its stock one."""
    found: list[Exchange] = []
    for attention in adapter.packed_attentions:
        found.append((attention, partial(quick_attention, adapter, attention)))
    for module in adapter.visual.modules():
        found += _products(module)
    for part in (adapter.visual, adapter.language_model):
        for module in part.modules():
            if fused_modules.is_rms_norm(module):
                found.append((module, partial(fused_modules.quick_norm, module)))
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
            stack.enter_context(replace_forward(module, quick))
        yield


def _products(module: nn.Module) -> list[Exchange]:
    """Projections of an MLP with an unaligned width, or a convolution over patches."""
    if fused_modules.is_patch_convolution(module):
        return [(module, partial(fused_modules.as_product, module))]
    if not fused_modules.is_unaligned_mlp(module):
        return []
    gated: Any = module
    return [
        (gated.gate_proj, partial(fused_modules.widened, gated.gate_proj)),
        (gated.up_proj, partial(fused_modules.widened, gated.up_proj)),
        (gated.down_proj, partial(fused_modules.of_widened, gated.down_proj)),
    ]


_STOCK = ("sdpa", "sdpa")


@contextmanager
def optimized(adapter: Adapter) -> Iterator[None]:
    """Let a stock model run as `load_model` sets one up; it is then left as it was found.

    A model whose encoders do not run transformers' `sdpa` has been set up by somebody who meant it,
    and stays as it is.
    """
    weight = next(adapter.visual.parameters())
    with ExitStack() as stack:
        if encoder_attention(adapter) == _STOCK:
            own = best_for_encoders(weight.device, weight.dtype)
            stack.enter_context(use_for_encoders(adapter, own))
            if is_nvidia(weight.device):
                stack.enter_context(quick_parts(adapter))
        yield


@contextmanager
def without_cudnn_sdpa(adapter: Adapter, *, prefill: bool) -> Iterator[None]:
    """Let the text model leave cuDNN's attention alone; PyTorch's next best takes its place.

    Parameters
    ----------
    adapter : Adapter
    prefill : bool
        Also for prompts, and not only for the tokens of an answer. A prompt that is not pruned has
        one length, and cuDNN is the fastest for it.
    """

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        def unplanned(*args: Any, **kwargs: Any) -> Any:
            allowed = cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
            if not allowed or (is_prefill(kwargs) and not prefill):
                return forward(*args, **kwargs)
            cuda.enable_cudnn_sdp(False)
            try:
                return forward(*args, **kwargs)
            finally:
                cuda.enable_cudnn_sdp(True)

        return unplanned

    with replace_forward(adapter.language_model, wrap):
        yield


@contextmanager
def vectorized_mrope(adapter: Adapter) -> Iterator[None]:
    """Let a model find its prompt's positions quickly inside the block; results are the same."""
    with ExitStack() as stack:
        for part, name, quick in adapter.quick_methods():
            stack.enter_context(replace_method(part, name, quick))
        yield
