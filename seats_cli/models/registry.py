"""From a `model_type` to the adapter of its family."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from seats_cli.errors import ModelError
from seats_cli.families.registry import family_titles
from seats_cli.models.adapter import Adapter
from seats_cli.models.qwen2_5_omni import Qwen25Omni
from seats_cli.models.qwen3_omni_moe import Qwen3OmniMoe

ADAPTERS: list[type[Adapter]] = [Qwen25Omni, Qwen3OmniMoe]
AdapterClass = TypeVar("AdapterClass", bound=type[Adapter])


def register_adapter(adapter: AdapterClass) -> AdapterClass:
    """Make an adapter known by the model types of its family; usable as a decorator.

    Raises
    ------
    ValueError
        If another adapter claims one of them.
    """
    taken = {kind for other in ADAPTERS for kind in other.family.model_types}
    claimed = taken & set(adapter.family.model_types)
    if claimed:
        raise ValueError(f"there is an adapter for {min(claimed)!r} already")
    ADAPTERS.append(adapter)
    return adapter


def adapter_class(model_type: str) -> type[Adapter]:
    """The adapter class for a config's `model_type`.

    Raises
    ------
    ModelError
        If no family claims it.
    """
    for candidate in ADAPTERS:
        if model_type in candidate.family.model_types:
            return candidate
    known = ", ".join(kind for adapter in ADAPTERS for kind in adapter.family.model_types)
    raise ModelError(
        f"The model type '{model_type}' is not supported; seats works with {known} "
        f"({family_titles()})."
    )


def adapter_for(model: Any) -> Adapter:
    """Wrap a loaded model, or a larger one around it (an Omni model with its talker).

    Raises
    ------
    ModelError
        If it is no model of a supported family.
    """
    kind = type(model).__name__
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ModelError(
            f"A {kind} splits each batch between copies of a model, and pruning works on one "
            "prompt at a time: pass the model inside, `model.module`."
        )
    if isinstance(model, nn.Module) and hasattr(model, "peft_config"):
        model = _without_peft(model)
    if not isinstance(model, nn.Module) and isinstance(getattr(model, "model", None), nn.Module):
        raise ModelError(f"A {kind} is not a model, but holds one: pass its `model`.")
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if not isinstance(model, nn.Module) or not isinstance(model_type, str):
        raise ModelError(f"A {kind} is no model that seats can prune: load {family_titles()}.")
    adapter = adapter_class(model_type)(model)
    adapter.whole = model
    if any(map(_compiled, (model, adapter.model, adapter.language_model))):
        raise ModelError(
            "The model is compiled, and a compiled graph runs without hooks: prune the model that "
            "`torch.compile` was given (`model._orig_mod`), before any `model.compile()`."
        )
    return adapter


def _compiled(model: Any) -> bool:
    """Whether `torch.compile` made a module, or was put inside it or its `forward`."""
    return (
        hasattr(model, "_orig_mod")
        or getattr(model, "_compiled_call_impl", None) is not None
        or hasattr(model.forward, "_torchdynamo_orig_callable")
    )


def _without_peft(model: Any) -> Any:
    """The model inside a PEFT wrapper, whose layers apply the adapter by themselves.

    Raises
    ------
    ModelError
        If the adapter is a prompt, which the wrapper puts before what the model is given.
    """
    configs = model.peft_config
    if any(getattr(config, "is_prompt_learning", False) for config in configs.values()):
        kind = next(iter(configs.values())).peft_type
        raise ModelError(
            f"The adapter of this model is a prompt ({getattr(kind, 'value', kind)}), which PEFT "
            "adds outside of it, where pruning does not see it: use LoRA."
        )
    inside = getattr(model, "get_base_model", None)
    return model if inside is None else inside()
