"""Loading a model and its processor: the bundled model, a folder, or a cached hub model."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seats_cli.errors import ModelError, UsageError
from seats_cli.families.base import Architecture, FrameSizing
from seats_cli.families.checkpoint_folder import check_files, find_folder, folder_config
from seats_cli.families.generation import (
    ROOM_TO_THINK,
    USUAL,
    Sampling,
    is_captioner,
    read_sampling,
)
from seats_cli.families.registry import BUNDLED, BUNDLED_PATH, describe_config
from seats_cli.models.adapter import Adapter, devices_of
from seats_cli.models.checkpoint import (
    adapter_notices,
    check_loaded,
    tie_missing_head,
    without_adapter,
)
from seats_cli.models.dequantization import weights_source
from seats_cli.models.devices import (
    SPREAD,
    device_name,
    device_named,
    dtype_named,
    precision_notices,
    returning_freed_memory,
)
from seats_cli.models.lora import apply_adapter, find_adapter
from seats_cli.models.method_weights import RETYPED, name_sections, note_folder, recipe_notices
from seats_cli.models.optimize import STOCK, Speedups, best_for_encoders, encoder_attention
from seats_cli.models.quantization import (
    Scheme,
    check_quantize,
    parameter_count,
    quantized_as,
    quantizing,
    readable_scheme,
    without_cpu_packing,
)
from seats_cli.models.registry import adapter_class
from seats_cli.models.weight_memory import WeightMemory, shortage_on, stored_weights
from seats_cli.results import ModelFacts
from seats_cli.selection.device import is_nvidia

STOCK_SDPA = "stock-sdpa"
ATTENTION = ("sdpa", STOCK_SDPA, "flash_attention_2", "eager")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model ready to answer."""

    # Of an Omni model, the thinker. In eval mode and stock: what makes it faster is swapped in for
    # each run.
    model: Any
    processor: Any  # tokenizer, video processor and feature extractor of the checkpoint
    adapter: Adapter
    architecture: Architecture
    sizing: FrameSizing  # how large frames may be for it
    facts: ModelFacts
    load_s: float  # seconds that loading took
    speedups: Speedups = STOCK  # what `ask` swaps to make it faster
    notices: tuple[str, ...] = ()  # what a user ought to know of how it was loaded
    sampling: Sampling = USUAL  # what the checkpoint asks for where a user asks for nothing
    captions: bool = False  # whether it describes what it is given without a question

    @property
    def thinks(self) -> bool:
        """Whether the checkpoint is meant to reason before it answers: it leaves room for that."""
        return self.sampling.max_new_tokens >= ROOM_TO_THINK and not self.captions


def load_model(
    model: str | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    attention: str = "sdpa",
    revision: str | None = None,
    offline: bool = False,
    quantize: str | None = None,
    adapter: str | None = None,
) -> LoadedModel:
    """Load a model (of an Omni model, the thinker) from safetensors, without running remote code.

    Parameters
    ----------
    model : str or None
        A folder, or a hub id that is in the local Hugging Face cache; None for "bundled", the
        demonstration model.
    dtype : str
        "auto" (bfloat16 on GPUs that compute in it, else float32), "float32", "float16" or
        "bfloat16".
    device : str
        "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", "mps", or "spread" over all GPUs
        and, where they do not suffice, the CPU.
    attention : str
        "sdpa" (its encoders with one call for all segments, see `seats_cli.models.optimize`),
        "stock-sdpa" (all as transformers does it), "flash_attention_2" or "eager".
    revision : str or None
        Branch, tag or commit of a hub model.
    offline : bool
        Do not contact the hub at all.
    quantize : str or None
        "4bit" (NF4) or "8bit": the decoder of a dense model is quantized with bitsandbytes while
        it is read.
    adapter : str or None
        Folder or cached hub id of a LoRA adapter as PEFT saves it. It is merged into the weights;
        beside quantized ones it stays apart.

    Raises
    ------
    ModelError
        If the model is not there, is of no supported family, or cannot be read; and if the adapter
        belongs to another model.
    UsageError
        If a setting is unknown or impossible here.
    ResourceError
        If the weights do not fit where they are to go.
    """
    start = time.perf_counter()
    name = model or BUNDLED
    where, kind = checked_settings(device, dtype, attention)
    found = find_folder(name, revision, offline=offline)
    folder, name = found.path, found.name
    config = folder_config(found)
    family = adapter_class(str(config.get("model_type", "")))
    if quantize is not None:
        check_quantize(quantize, family, device, where)
    lora = None if adapter is None else find_adapter(adapter, offline=offline)
    check_files(found)
    stored = stored_weights(folder)
    scheme = readable_scheme(folder, config, name, stored.dtypes if stored else ())
    spread = device == SPREAD
    if stored is not None:
        kind = dtype_named(dtype, where, stored.elements)
    shape, _ = describe_config(config, name)
    memory = WeightMemory(name, shape, stored, kind, where, spread=spread, quantize=quantize)
    if folder != BUNDLED_PATH:  # which is there to be tried anywhere
        memory.check()
    with memory.explaining_shortage():
        place = "auto" if spread else where
        processor, net = _read(
            family, folder, name, kind, attention, place, scheme, quantize, config
        )
        # Buffers follow the weights; quantized ones are on their device, and must not be cast.
        net = net.eval() if spread or quantize else net.to(where).eval()
        without_cpu_packing(net)
        if lora is not None:
            apply_adapter(family(net), lora, merge=quantize is None)
            net.eval()
    wrapped = family(net)
    wrapped.check_processor(processor, name)
    note_folder(wrapped.model, folder)
    loaded = ready(
        wrapped,
        processor,
        speedups_for(attention, where, kind),
        start,
        id=name,
        revision=found.revision,
        device=_spread_name(net) if spread else device_name(where),
        attention=attention,
        demonstration=folder == BUNDLED_PATH,
        notices=(
            *precision_notices(where, kind),
            *adapter_notices(folder, name, lora.path if lora else None),
            *name_sections(wrapped, str(config.get("model_type", ""))),
            *recipe_notices(folder),
        ),
        quantization=quantized_as(quantize, scheme, kind),
        adapter=lora.name if lora else "",
    )
    sampling, captions = read_sampling(folder), is_captioner(name, folder)
    return replace(loaded, sampling=sampling, captions=captions)


def outline_model(
    model: str | None = None, *, revision: str | None = None, offline: bool = False
) -> LoadedModel:
    """A model without its weights: enough to build prompts and to size clips, not to answer.

    Its parameters are on the meta device, so the size of a checkpoint does not matter; the weights
    need not even be here.

    Parameters
    ----------
    model, revision, offline
        As for `load_model`.

    Raises
    ------
    ModelError
        As from `load_model`.
    """
    from transformers.initialization import no_init_weights

    start = time.perf_counter()
    found = find_folder(model or BUNDLED, revision, offline=offline)
    folder, name = found.path, found.name
    family = adapter_class(str(folder_config(found).get("model_type", "")))
    model_class = family.model_class()
    try:
        processor = family.load_processor(folder)
        config = _config_of(family, folder, folder_config(found))
        with torch.device("meta"), no_init_weights():
            net = model_class._from_config(config, dtype=torch.float32).eval()
    except Exception as error:  # as in `_read`
        raise error if isinstance(error, ModelError) else _unreadable(name, error) from error
    wrapped = family(net)
    wrapped.check_processor(processor, name)
    outline = ready(
        wrapped,
        processor,
        STOCK,
        start,
        id=name,
        revision=found.revision,
        device="meta",
        attention="sdpa",
        demonstration=folder == BUNDLED_PATH,
    )
    sampling, captions = read_sampling(folder), is_captioner(name, folder)
    return replace(outline, sampling=sampling, captions=captions)


def ready(
    adapter: Adapter,
    processor: Any,
    speedups: Speedups,
    start: float,
    /,
    *,
    notices: tuple[str, ...] = (),
    **known: Any,
) -> LoadedModel:
    """A model in eval mode with all facts about it; loading it began at `start`."""
    net = adapter.model
    if not adapter.packed_attentions:
        speedups = STOCK  # they are for encoders that take packed segments
    facts = ModelFacts(
        **known,
        family=adapter.family.name,
        parameters=parameter_count(net),
        dtype=str(net.dtype).removeprefix("torch."),
        encoder_attention=speedups.encoder_attention or encoder_attention(adapter)[0],
        quick_parts=speedups.fused_modules,
    )
    architecture, sizing = adapter.architecture(), adapter.sizing()
    seconds = time.perf_counter() - start
    return LoadedModel(
        net, processor, adapter, architecture, sizing, facts, seconds, speedups, notices
    )


def _read(
    family: type[Adapter],
    folder: Path,
    name: str,
    dtype: torch.dtype,
    attention: str,
    where: torch.device | str,
    scheme: Scheme | None,
    quantize: str | None,
    values: dict[str, Any],
) -> tuple[Any, Any]:
    """Processor and model of a checkpoint folder; `where` is a device or "auto" for several."""
    model_class, prefix = family.model_class(), family.weights_prefix
    try:
        processor = family.load_processor(folder)
        config = _config_of(family, folder, values)
        source: dict[str, Any] = {"config": config}
        if scheme is not None:
            source = weights_source(model_class, folder, scheme, name, dtype, prefix)
        if quantize is not None:
            source |= quantizing(quantize, family, dtype)
        tie_missing_head(source["config"], values, folder)
        with returning_freed_memory(), without_adapter(folder) as plain:
            if scheme is None:
                source["pretrained_model_name_or_path"] = plain
            net, info = model_class.from_pretrained(
                **source,
                dtype=dtype,
                attn_implementation=transformers_name(attention),
                device_map=_device_map(where, needed=quantize is not None),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are listed, and refused below
            )
    except Exception as error:  # the tokenizers library raises nothing more special
        if isinstance(error, ModelError) or shortage_on(error) is not None:
            raise
        raise _unreadable(name, error) from error
    check_loaded(info, family, name)
    return processor, net


def _config_of(family: type[Adapter], folder: Path, values: dict[str, Any]) -> Any:
    """The transformers config of the model that answers."""
    made = family.model_class().config_class
    inner: dict[str, Any] = values.get(family.family.inner_config, values)
    if RETYPED not in str(inner.get("model_type", "")):
        return made.from_pretrained(folder, local_files_only=True)
    # Of another type, transformers would not find the part of a larger model's config, and take
    # the sizes of the 7B without a word.
    text = {**inner["text_config"], "model_type": made.sub_configs["text_config"].model_type}
    return made.from_dict({**inner, "model_type": made.model_type, "text_config": text})


def _device_map(where: torch.device | str, *, needed: bool) -> dict[str, torch.device] | str | None:
    """Where transformers puts each tensor as soon as it is read.

    Without a map it would read and fuse all of them in host memory, which is right only for a
    model that stays there, unless it is quantized (`needed`).
    """
    if isinstance(where, str):
        return where
    return None if where.type == "cpu" and not needed else {"": where}


def checked_settings(device: str, dtype: str, attention: str) -> tuple[torch.device, torch.dtype]:
    """Where a model begins and in what it computes; refuses what is impossible here."""
    where = device_named(device)
    _check_attention(attention, where)
    return where, dtype_named(dtype, where)


def _spread_name(net: Any) -> str:
    """The devices of a model that lies on several."""
    return " + ".join(dict.fromkeys(device_name(device) for device in devices_of(net)))


def _check_attention(attention: str, where: torch.device) -> None:
    if attention not in ATTENTION:
        raise UsageError(f"Unknown attention '{attention}': use {', '.join(ATTENTION)}.")
    if attention == "flash_attention_2":
        if where.type != "cuda":
            raise UsageError("flash_attention_2 needs a CUDA device: use `attention=sdpa`.")
        if importlib.util.find_spec("flash_attn") is None:
            raise UsageError("The package flash-attn is not installed: use `attention=sdpa`.")


def transformers_name(attention: str) -> str:
    """An attention of `ATTENTION` under its transformers name."""
    return "sdpa" if attention == STOCK_SDPA else attention


def speedups_for(attention: str, where: torch.device, dtype: torch.dtype) -> Speedups:
    """What `ask` swaps in a model that was loaded with an attention of `ATTENTION`."""
    encoders = best_for_encoders(where, dtype) if attention == "sdpa" else None
    return Speedups(encoders, is_nvidia(where) and attention != STOCK_SDPA)


def _unreadable(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"The checkpoint '{name}' cannot be read ({_first_sentence(error)}); "
        "a missing or cut-off file is the usual cause: fetch it again."
    )


def _first_sentence(error: Exception) -> str:
    line = str(error).strip().split("\n", 1)[0].split(". ", 1)[0]
    return line[:200].rstrip(".:") or type(error).__name__
