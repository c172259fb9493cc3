"""A stock thinker of a named shape with random weights: speed without a checkpoint.

Built directly on the device in its dtype. The answers are noise; times, tokens and bytes are
those of the real shapes. Text goes through the bundled tokenizer, whose ids the model is given,
and frames and sound through processors with the family's own sizes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.families.named import named_config
from seats_cli.families.registry import QWEN3
from seats_cli.models.load import (
    BUNDLED_PATH,
    LoadedModel,
    _check_attention,
    _device,
    _device_name,
    _dtype,
    speed_up_encoders,
    speed_up_parts,
    transformers_name,
)
from seats_cli.models.registry import adapter_class
from seats_cli.results import ModelFacts

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter


_SPREAD = 0.02
# Random values drawn once and repeated: drawing each of billions would take minutes on a CPU.
# A prime number, so that the rows of no matrix come out alike.
_DRAWN = 1_000_003


def random_model(
    name: str,
    *,
    layers: int | None = None,
    hidden: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    attention: str = "sdpa",
    seed: int = 0,
) -> LoadedModel:
    """Build a named architecture with random weights.

    Parameters
    ----------
    name : str
        A key of `seats_cli.families.named.NAMED`.
    layers, hidden : int or None
        Scale the decoder (see `named_config`).
    dtype, device, attention : str
        As for `load_model`.
    seed : int
        Of the weights.

    Returns
    -------
    LoadedModel

    Raises
    ------
    UsageError
        If a name or a setting is unknown or impossible here.
    """
    start = time.perf_counter()
    values = named_config(name, layers=layers, hidden=hidden)
    where = _device(device)
    kind = _dtype(dtype, where)
    _check_attention(attention, where)
    family = adapter_class(values["model_type"])
    processor = _processor(family, values)
    net = _build(family, values, processor.tokenizer, where, kind, attention)
    _fill(net, seed)
    adapter = family(net)
    encoders = speed_up_encoders(adapter, attention, where, kind)
    quick = speed_up_parts(adapter, attention, where)
    scaled = [f"{layers} layers"] if layers is not None else []
    scaled += [f"width {hidden}"] if hidden is not None else []
    facts = ModelFacts(
        id=f"{name.lower()} ({', '.join(['random weights', *scaled])})",
        revision=None,
        family=family.family,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        device=_device_name(where),
        dtype=str(kind).removeprefix("torch."),
        attention=attention,
        demonstration=False,
        encoder_attention=encoders,
        quick_parts=quick,
    )
    return LoadedModel(
        net,
        processor,
        adapter,
        adapter.architecture(),
        adapter.sizing(),
        facts,
        time.perf_counter() - start,
    )


def _processor(family: type[Adapter], values: dict[str, Any]) -> Any:
    """The family's processor around the bundled tokenizer and feature extractor."""
    import transformers

    bundled = transformers.Qwen2_5OmniProcessor.from_pretrained(BUNDLED_PATH, local_files_only=True)
    vision = values["vision_config"]
    sizes = {
        "patch_size": vision["patch_size"],
        "temporal_patch_size": vision["temporal_patch_size"],
        "merge_size": vision["spatial_merge_size"],
    }
    return getattr(transformers, family.processor_class)(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes),
        video_processor=transformers.Qwen2VLVideoProcessor(cap_pixels_per_frame=False, **sizes),
        feature_extractor=bundled.feature_extractor,
        tokenizer=bundled.tokenizer,
        chat_template=bundled.chat_template,
    )


def _build(
    family: type[Adapter],
    values: dict[str, Any],
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
) -> Any:
    """The thinker with uninitialised weights; its buffers are computed."""
    import transformers
    from transformers.initialization import no_init_weights

    thinker: Any = getattr(transformers, family.thinker_class)
    settings = {key: value for key, value in values.items() if key != "model_type"}
    config = thinker.config_class(**settings)
    for name, value in _token_ids(tokenizer, family.family).items():
        setattr(config, name, value)
    with torch.device(device), no_init_weights():
        net = thinker._from_config(
            config, dtype=dtype, attn_implementation=transformers_name(attention)
        )
    net.tie_weights()
    net.generation_config.eos_token_id = tokenizer.eos_token_id
    net.generation_config.pad_token_id = tokenizer.pad_token_id
    return net.eval()


def _token_ids(tokenizer: Any, family: str) -> dict[str, int]:
    """The bundled tokenizer's ids under the names of a thinker's config."""
    suffix = "id" if family == QWEN3 else "index"
    roles = {
        f"audio_token_{suffix}": "<|AUDIO|>",
        f"image_token_{suffix}": "<|IMAGE|>",
        f"video_token_{suffix}": "<|VIDEO|>",
        "audio_start_token_id": "<|audio_bos|>",
        "audio_end_token_id": "<|audio_eos|>",
        "vision_start_token_id": "<|vision_bos|>",
        "vision_end_token_id": "<|vision_eos|>",
        "user_token_id": "user",
        "pad_token_id": "<|endoftext|>",
        "eos_token_id": "<|im_end|>",
    }
    return {name: int(tokenizer.convert_tokens_to_ids(text)) for name, text in roles.items()}


@torch.no_grad()
def _fill(net: Any, seed: int) -> None:
    """Small random numbers everywhere; ones in the scales of norms, so that nothing explodes."""
    drawn: dict[torch.device, torch.Tensor] = {}
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        device = parameter.device
        if device not in drawn:
            generator = torch.Generator(device).manual_seed(seed)
            drawn[device] = torch.randn(_DRAWN, generator=generator, device=device) * _SPREAD
        flat = parameter.view(-1)
        values = drawn[device].to(parameter.dtype)
        for begin in range(0, flat.numel(), _DRAWN):
            part = flat[begin : begin + _DRAWN]
            part.copy_(values[: part.numel()])
