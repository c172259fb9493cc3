"""LoRA adapters as PEFT saves them, on a model that is already loaded.

An adapter names modules as they were called where it was trained: in the full Omni model or in the
thinker, by a version of transformers that kept the decoder elsewhere. Here each of its tensors is
brought to the one module that it belongs to. PEFT by itself goes by the ends of names: `q_proj`
would also match the audio encoder's, and names that match nothing are left out without a word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seats_cli.errors import ModelError
from seats_cli.families.checkpoint_folder import ADAPTER_CONFIG, find_folder
from seats_cli.families.registry import read_config
from seats_cli.models.weight_memory import UNUSED_PARTS

if TYPE_CHECKING:
    from seats_cli.models.adapter import Adapter

_WEIGHTS, _PICKLED = "adapter_model.safetensors", "adapter_model.bin"
_NAME = "default"  # of the adapter, inside PEFT
_LORA = re.compile(r"(?P<module>.+)\.(?P<part>lora_\w+)(?P<rest>\.weight|\.bias)?")
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")
_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")  # tasks whose models give no text
# Settings that change more than the weights of single modules.
_UNSUPPORTED = (
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
    "alora_invocation_tokens",
)


@dataclass(frozen=True)
class LoraFolder:
    """An adapter that has been found, and whose settings can be used."""

    path: Path
    name: str  # as the user named it, or its hub id
    config: dict[str, Any]  # its adapter_config.json

    @property
    def trained_on(self) -> str:
        """What its base was, as the end of a sentence; "" if it does not say."""
        base = self.config.get("base_model_name_or_path")
        return f"; it was trained on {base}" if base else ""


def find_adapter(name: str, *, offline: bool = False) -> LoraFolder:
    """Find an adapter and check what can be checked before its base is loaded.

    Parameters
    ----------
    name : str
        A folder, or a hub id in the local Hugging Face cache.
    offline : bool
        Whether the user wants no network; only for messages.

    Raises
    ------
    ModelError
        If it is not here, is no LoRA adapter, has no safetensors, or PEFT is not installed.
    """
    if util.find_spec("peft") is None:
        raise ModelError("`adapter` needs the package peft: pip install 'seats-cli[adapter]'.")
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(f"There is no adapter folder '{name}'.")
    found = find_folder(name, offline=offline)
    values = read_config(found.path, found.name, ADAPTER_CONFIG)
    kind = values.get("peft_type")
    if kind != "LORA":
        raise ModelError(f"The adapter '{found.name}' is of the kind {kind}; seats takes LoRA.")
    task = values.get("task_type")
    if task in _HEADS:
        raise ModelError(
            f"The adapter '{found.name}' makes a classifier of its base ({task}), which gives no "
            "text."
        )
    other = [key for key in _UNSUPPORTED if values.get(key)]
    if other:
        raise ModelError(
            f"The adapter '{found.name}' sets {other[0]}, which seats does not support."
        )
    if not (found.path / _WEIGHTS).is_file():
        pickled = (found.path / _PICKLED).is_file()
        held = f"only pickled weights ({_PICKLED})" if pickled else f"no {_WEIGHTS}"
        raise ModelError(f"The adapter '{found.name}' has {held}; seats reads safetensors.")
    return LoraFolder(found.path, found.name, values)


def apply_adapter(adapter: Adapter, lora: LoraFolder, *, merge: bool) -> None:
    """Put a LoRA adapter on a model, in place.

    Parameters
    ----------
    adapter : Adapter
        Of the model; its modules are changed.
    lora : LoraFolder
    merge : bool
        Whether to add it to the weights, which then are those of PEFT's own `merge_and_unload`.
        Otherwise its layers stay beside them, as is right for quantized weights, which adding
        would round once more.

    Raises
    ------
    ModelError
        If it was trained on another base: the model has not all of its modules, or in other sizes.
    """
    from peft import LoraConfig, PeftModel

    net = adapter.model
    pairs, whole = _sorted_out(adapter, lora)
    for parameter, value in whole:
        parameter.data.copy_(value)
    if not pairs:
        return
    config = LoraConfig.from_pretrained(str(lora.path))
    _target(config, pairs)
    wrapped = PeftModel(net, config, adapter_name=_NAME)
    state = {
        _inside_peft(module, part, rest): value
        for module, pair in pairs.items()
        for (part, rest), value in pair.tensors.items()
    }
    result = net.load_state_dict(state, strict=False)
    lacking = [key for key in result.missing_keys if ".lora_" in key]
    if result.unexpected_keys or lacking:
        first = [*result.unexpected_keys, *lacking][0]
        raise ModelError(
            f"The tensors of the adapter '{lora.name}' are not those that its settings announce, "
            f"the first being {first}."
        )
    if merge:
        wrapped.merge_and_unload(safe_merge=False)
        vars(net).pop("peft_config", None)
    net.requires_grad_(False)


@dataclass
class _Pair:
    """What an adapter has for one module."""

    stored: str  # the module's name in the adapter
    tensors: dict[tuple[str, str], Tensor]  # by part ("lora_A") and the rest of its name

    @property
    def rank(self) -> int:
        """Rows of A."""
        first = next(value for (part, _), value in self.tensors.items() if part.endswith("_A"))
        return first.shape[0]


Whole = tuple[nn.Parameter, Tensor]


def _sorted_out(adapter: Adapter, lora: LoraFolder) -> tuple[dict[str, _Pair], list[Whole]]:
    """The tensors of an adapter by the full name of their module; and those that replace weights.

    Raises
    ------
    ModelError
        If one belongs nowhere or has another size.
    """
    net = adapter.model
    modules = dict(net.named_modules())
    parameters = dict(net.named_parameters(remove_duplicate=False))
    uses = Counter(map(id, parameters.values()))
    pairs: dict[str, _Pair] = {}
    whole: list[Whole] = []
    for key, value in _tensors(lora):
        stored = _WRAPPERS.sub("", key.replace(f".{_NAME}.", ".").removesuffix(f".{_NAME}"))
        while stored.startswith("base_model.model."):
            stored = stored.removeprefix("base_model.model.")
        if stored.startswith(UNUSED_PARTS):
            continue  # an adapter of the full Omni model may have some for the talker, too
        found = _LORA.fullmatch(stored)
        if found is not None:
            name = _full_name(adapter, found["module"], modules)
            if name is None:
                raise _misfit(lora, f"this model has no {found['module']}")
            pair = pairs.setdefault(name, _Pair(found["module"], {}))
            pair.tensors[found["part"], found["rest"] or ""] = value
            continue
        module, _, kind = stored.rpartition(".")
        owner = _full_name(adapter, module, modules)
        parameter = parameters.get(f"{owner}.{kind}")
        if parameter is None:
            raise _misfit(lora, f"this model has no {stored}")
        if parameter.shape != value.shape:
            raise _misfit(lora, f"{stored} is {_shape(value)} there, {_shape(parameter)} here")
        if torch.equal(value.to(parameter), parameter):
            continue  # PEFT saves embeddings that it only might have changed
        if uses[id(parameter)] > 1:
            raise _tied(lora, stored)
        whole.append((parameter, value))
    if not pairs and not whole:
        raise _misfit(lora, "it has no tensors for this model")
    for name, pair in pairs.items():
        _check_sizes(modules[name], pair, lora)
        if uses[id(modules[name].weight)] > 1:
            raise _tied(lora, pair.stored)
    return pairs, whole


def _tensors(lora: LoraFolder) -> Iterator[tuple[str, Tensor]]:
    from safetensors.torch import load_file

    try:
        yield from sorted(load_file(lora.path / _WEIGHTS).items())
    except Exception as error:  # the safetensors library raises nothing more special
        raise ModelError(
            f"The file {_WEIGHTS} of the adapter '{lora.name}' is damaged or cut off: copy or "
            "download it again."
        ) from error


def _full_name(adapter: Adapter, stored: str, modules: dict[str, nn.Module]) -> str | None:
    """Name of the module that an adapter calls `stored`; None if the model has none such."""
    plain = stored.removeprefix(adapter.weights_prefix)
    inner = plain
    while inner.startswith("model."):
        inner = inner.removeprefix("model.")
    names = {module: name for name, module in modules.items()}
    parts = {
        "language_model": adapter.language_model,
        "visual": adapter.visual,
        "audio_tower": adapter.audio_tower,
        "lm_head": adapter.lm_head,
    }
    first, _, rest = inner.partition(".")
    part, within = (parts[first], rest) if first in parts else (adapter.language_model, inner)
    for candidate in (".".join(filter(None, (names[part], within))), plain):
        if candidate in modules:
            return candidate
    return None


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """Output and input size of what LoRA can be put on; None of other modules."""
    named = ("out_features", "in_features"), ("out_channels", "in_channels")
    for pair in (*named, ("embedding_dim", "num_embeddings")):
        found = [getattr(module, name, None) for name in pair]
        if all(isinstance(size, int) for size in found):
            return found[0], found[1]  # type: ignore[return-value]
    return None


def _check_sizes(module: nn.Module, pair: _Pair, lora: LoraFolder) -> None:
    """See to it that A reads what the module reads, and B writes what it writes."""
    sizes = _sizes(module)
    if sizes is None:
        raise _misfit(lora, f"{pair.stored} is a {type(module).__name__} here")
    kind = "lora_embedding_" if isinstance(module, nn.Embedding) else "lora_"
    given = [
        value
        for end in "AB"
        for (part, rest), value in pair.tensors.items()
        if part == f"{kind}{end}" and rest != ".bias"
    ]
    if len(given) != 2:
        raise _misfit(lora, f"it has only one half of what {pair.stored} needs")
    read, write = given
    if read.ndim < 2 or write.ndim < 2 or read.shape[0] != write.shape[1]:
        raise _misfit(lora, f"{pair.stored} has halves that do not fit each other")
    if (write.shape[0], read.shape[1]) != sizes:
        there, here = f"{write.shape[0]} x {read.shape[1]}", f"{sizes[0]} x {sizes[1]}"
        raise _misfit(lora, f"{pair.stored} is {there} there and {here} here")


def _target(config: Any, pairs: dict[str, _Pair]) -> None:
    """Make a LoraConfig be of exactly these modules, each with its own rank and alpha."""
    from peft.utils.other import get_pattern_key

    ranks, alphas = {}, {}
    for name, pair in pairs.items():
        ranks[re.escape(name)] = pair.rank
        key = get_pattern_key(config.alpha_pattern.keys(), pair.stored)
        alphas[re.escape(name)] = config.alpha_pattern.get(key, config.lora_alpha)
    config.target_modules = set(pairs)
    config.rank_pattern, config.alpha_pattern = ranks, alphas
    config.exclude_modules = config.layers_to_transform = config.layers_pattern = None
    config.modules_to_save, config.bias = None, "none"  # both are copied
    config.task_type, config.inference_mode = None, True


def _inside_peft(module: str, part: str, rest: str) -> str:
    """The name of a tensor in the model that PEFT has put its layers into."""
    if part == "lora_magnitude_vector":
        rest = ".weight"  # it is saved without
    return f"{module}.{part}.{_NAME}{rest}"


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape))


def _tied(lora: LoraFolder, stored: str) -> ModelError:
    """The error that a change would reach a second place, which PEFT leaves to chance."""
    return ModelError(
        f"The adapter '{lora.name}' changes {stored}, which this model uses twice (tied "
        "embeddings): merge it into its base first (peft: merge_and_unload)."
    )


def _misfit(lora: LoraFolder, what: str) -> ModelError:
    """The error that an adapter does not belong to this model."""
    return ModelError(
        f"The adapter '{lora.name}' does not fit this model ({what}){lora.trained_on}."
    )
