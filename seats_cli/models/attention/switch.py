"""Which attention the encoders of a model run, set on their configs and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
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

    from seats_cli.models.attention.segments import segment_attention

    AttentionInterface.register(SEGMENTS, segment_attention)
