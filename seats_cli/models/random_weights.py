"""A stock model of a named shape with random weights: speed without a checkpoint.

Built directly on the device in its dtype. The answers are noise; times, tokens and bytes are
those of the real shapes. Text goes through the tokenizer of a processor that the family's adapter
makes (for Qwen the bundled one), whose ids the model is given.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from seats_cli.cost.memory import WeightCounts
from seats_cli.families.registry import (
    BUNDLED_PATH,
    describe_config,
    named_config,
    tied_embeddings,
)
from seats_cli.models.adapter import Adapter
from seats_cli.models.devices import device_name, precision_notices
from seats_cli.models.load import (
    LoadedModel,
    checked_settings,
    ready,
    speedups_for,
    transformers_name,
)
from seats_cli.models.registry import adapter_class
from seats_cli.models.weight_memory import StoredWeights, WeightMemory

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
        A key of `seats_cli.families.registry.named_shapes()`.
    layers, hidden : int or None
        Scale the decoder (see `named_config`).
    dtype, device, attention : str
        As for `load_model`.
    seed : int
        Of the weights.

    Raises
    ------
    UsageError
        If a name or a setting is unknown or impossible here.
    ResourceError
        If the weights do not fit where they are to go.
    """
    start = time.perf_counter()
    values = named_config(name, layers=layers, hidden=hidden)
    where, kind = checked_settings(device, dtype, attention)
    family = adapter_class(values["model_type"])
    processor = family.bare_processor(values, BUNDLED_PATH)
    shape, _ = describe_config(values, name)
    counts = WeightCounts.of(shape, tied_embeddings=tied_embeddings(values))
    # of no type in a file, so that none is mapped
    stored = StoredWeights({"": counts.total}, {})
    memory = WeightMemory(name, shape, stored, kind, where, random=True)
    memory.check()
    with memory.explaining_shortage():
        net = _build(family, values, processor.tokenizer, where, kind, attention)
        _fill(net, seed)
    scaled = [f"{layers} layers"] if layers is not None else []
    scaled += [f"width {hidden}"] if hidden is not None else []
    return ready(
        family(net),
        processor,
        speedups_for(attention, where, kind),
        start,
        id=f"{name.lower()} ({', '.join(['random weights', *scaled])})",
        revision=None,
        device=device_name(where),
        attention=attention,
        demonstration=False,
        notices=precision_notices(where, kind),
    )


def _build(
    family: type[Adapter],
    values: dict[str, Any],
    tokenizer: Any,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
) -> Any:
    """The model with uninitialised weights; its buffers are computed."""
    from transformers.initialization import no_init_weights

    model = family.model_class()
    settings = {key: value for key, value in values.items() if key != "model_type"}
    config = model.config_class(**settings)
    for name, value in family.token_ids(tokenizer).items():
        setattr(config, name, value)
    with torch.device(device), no_init_weights():
        net = model._from_config(
            config, dtype=dtype, attn_implementation=transformers_name(attention)
        )
    net.tie_weights()
    net.generation_config.eos_token_id = tokenizer.eos_token_id
    net.generation_config.pad_token_id = tokenizer.pad_token_id
    return net.eval()


@torch.no_grad()
def _fill(net: Any, seed: int) -> None:
    """Small random numbers everywhere; ones in the scales of norms, so that nothing explodes."""
    drawn: dict[torch.device, torch.Tensor] = {}
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        device = parameter.device
        if device.type == "meta":
            continue
        if device not in drawn:
            generator = torch.Generator(device).manual_seed(seed)
            drawn[device] = torch.randn(_DRAWN, generator=generator, device=device) * _SPREAD
        flat = parameter.view(-1)
        values = drawn[device].to(parameter.dtype)
        for begin in range(0, flat.numel(), _DRAWN):
            part = flat[begin : begin + _DRAWN]
            part.copy_(values[: part.numel()])
