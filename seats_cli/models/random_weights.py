"""A stock model of a named shape with random weights: speed without a checkpoint.

Built directly on the device in its dtype. The answers are noise; times, tokens and bytes are
those of the real shapes. Text goes through the tokenizer of a processor that the family's adapter
makes (for Qwen the bundled one), whose ids the model is given.

`write_random_checkpoint` writes such a model to disk as the hub has it, to measure loading.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seats_cli.cost.memory import WeightCounts
from seats_cli.errors import UsageError
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
    where, kind = checked_settings("cpu" if device == "meta" else device, dtype, attention)
    if device == "meta":  # shapes and positions without memory
        where = torch.device(device)
    family = adapter_class(values["model_type"])
    processor = family.bare_processor(values, BUNDLED_PATH)
    shape, _ = describe_config(values, name)
    counts = WeightCounts.of(shape, tied_embeddings=tied_embeddings(values))
    # of no type in a file, so that none is mapped
    stored = StoredWeights({"": counts.total}, {})
    memory = WeightMemory(name, shape, stored, kind, where, random=True)
    if where.type != "meta":
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
        device = parameter.device
        if device.type == "meta":
            continue
        if device not in drawn:
            generator = torch.Generator(device).manual_seed(seed)
            drawn[device] = torch.randn(_DRAWN, generator=generator, device=device) * _SPREAD
        _fill_one(name, parameter, drawn[device].to(parameter.dtype))


def _fill_one(name: str, values: torch.Tensor, drawn: torch.Tensor) -> None:
    if values.ndim == 1:
        values.fill_(1.0 if name.endswith("weight") else 0.0)
        return
    flat = values.view(-1)
    for begin in range(0, flat.numel(), _DRAWN):
        part = flat[begin : begin + _DRAWN]
        part.copy_(drawn[: part.numel()])


# ------------------------------------------------------------------- checkpoints

KINDS = {"dense": "qwen2.5-omni-7b", "moe": "qwen3-omni-30b-a3b"}  # decoders, by a model with one
# Decoder layers at least, so that no tensor and no layer is a large share of the whole: what is
# read or fused at a time must be as small beside the rest as in the published models.
_LAYERS = 24
_HEAD = 128  # width of an attention head
_EXPERTS = 16
_VOCABULARY_SHARE = {"dense": 0.06, "moe": 0.01}  # of all weights, as published
_SHARDS = 8
_SMALL_ENCODERS: dict[str, dict[str, int]] = {
    "vision_config": {"depth": 4, "hidden_size": 128, "intermediate_size": 256, "num_heads": 2},
    "audio_config": {
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 256,
        "d_model": 128,
    },
}


def write_random_checkpoint(folder: Path, kind: str, size: int, *, seed: int = 0) -> None:
    """Write a checkpoint of small random weights in bfloat16, laid out as on the hub.

    The thinker of a full repository (`thinker.model...`), in several shards with an index, experts
    apart, and the bundled processor. A shard at a time is in memory.

    Parameters
    ----------
    folder : Path
        Is made, and should be empty.
    kind : str
        "dense" (Qwen2.5-Omni) or "moe" (Qwen3-Omni).
    size : int
        Bytes of all weights, about; at least 30 million give proportions like the published ones.
    seed : int
        Of the weights.

    Raises
    ------
    UsageError
        If the kind is unknown.
    """
    if kind not in KINDS:
        raise UsageError(f"Unknown kind of checkpoint '{kind}': use {' or '.join(KINDS)}.")
    adapter, processor = _of_size(kind, size)
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(folder)
    family = adapter.family
    config = {
        "architectures": [f"{type(adapter.model).__name__.partition('Thinker')[0]}Model"],
        "model_type": family.name,
        "enable_audio_output": False,
        family.inner_config: adapter.config.to_dict(),
    }
    _write_json(folder / "config.json", config)
    tensors = {f"{adapter.weights_prefix}{name}": value for name, value in adapter.stored_tensors()}
    _write_shards(folder, tensors, seed)


def _of_size(kind: str, size: int) -> tuple[Adapter, Any]:
    """A model without memory whose weights take about that many bytes, and its processor."""
    layers, width = 1, _HEAD
    for hidden in range(_HEAD, 8 * 1024, _HEAD):
        one, two = (_bytes(_scaled(kind, size, hidden, layers)[0]) for layers in (1, 2))
        found = round(1 + (size - one) / (two - one))
        if found < _LAYERS and hidden > _HEAD:
            break
        layers, width = max(found, 1), hidden
    return _scaled(kind, size, width, layers)


def _scaled(kind: str, size: int, hidden: int, layers: int) -> tuple[Adapter, Any]:
    values = named_config(KINDS[kind], layers=layers, hidden=hidden)
    text = values["text_config"]
    for part, sizes in _SMALL_ENCODERS.items():
        values[part].update(sizes)
    vision = values["vision_config"]
    if kind == "moe":
        text["num_experts"] = _EXPERTS
        values["audio_config"]["downsample_hidden_size"] = 32
        vision["deepstack_visual_indexes"] = [0, 1, 2]
    else:
        vision["fullatt_block_indexes"] = [vision["depth"] - 1]
    family = adapter_class(values["model_type"])
    processor = family.bare_processor(values, BUNDLED_PATH)
    rows = round(_VOCABULARY_SHARE[kind] * size / (2 * hidden))
    text["vocab_size"] = max(rows, len(processor.tokenizer))
    meta = torch.device("meta")
    net = _build(family, values, processor.tokenizer, meta, torch.bfloat16, "sdpa")
    return family(net), processor


def _bytes(adapter: Adapter) -> int:
    return sum(value.nbytes for value in adapter.model.parameters())


def _write_shards(folder: Path, tensors: dict[str, torch.Tensor], seed: int) -> None:
    """Files of about equal size with random values for tensors of these shapes, and the index."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(_DRAWN, generator=generator) * _SPREAD).bfloat16()
    total = sum(value.nbytes for value in tensors.values())
    places: dict[str, str] = {}
    for number, names in enumerate(_shared_out(tensors, total), start=1):
        file = f"model-{number:05d}-of-{_SHARDS:05d}.safetensors"
        part = {name: torch.empty(tensors[name].shape, dtype=torch.bfloat16) for name in names}
        for name, value in part.items():
            _fill_one(name, value, drawn)
        save_file(part, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(names, file))
    index = {"metadata": {"total_size": total}, "weight_map": places}
    _write_json(folder / "model.safetensors.index.json", index)


def _shared_out(tensors: dict[str, torch.Tensor], total: int) -> Iterator[list[str]]:
    """Names for each shard, in order."""
    shards: list[list[str]] = [[] for _ in range(_SHARDS)]
    before = 0
    for name, value in tensors.items():
        shards[min(_SHARDS * before // total, _SHARDS - 1)].append(name)
        before += value.nbytes
    yield from shards


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
