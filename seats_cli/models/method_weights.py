"""Weights of trained methods: tensors of a checkpoint that its model itself does not have.

They lie among the checkpoint's own weights, under the method's prefix or as its authors save them,
or beside them in a file of the method's name, `omnisift.safetensors`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from seats_cli.errors import ModelError
from seats_cli.families.checkpoint_folder import find_folder, tensor_headers, weight_files
from seats_cli.models.adapter import Adapter
from seats_cli.models.optimize import sync_sections
from seats_cli.selection.method import METHODS, Method, class_of

RETYPED = "_compress"  # in the model types of EchoingPixels' authors
_THINKER = "thinker."  # where the names of a whole Omni model begin
_DECODER = "model.language_model."  # transformers' name for what files have as `model.`

# The folder of each model that `load_model` has read, and what methods have been given of it.
_FOLDERS: WeakKeyDictionary[nn.Module, Path] = WeakKeyDictionary()
_READ: WeakKeyDictionary[nn.Module, dict[str, dict[str, Tensor]]] = WeakKeyDictionary()


def note_folder(net: nn.Module, folder: Path) -> None:
    """Remember where a model's checkpoint is."""
    _FOLDERS[net] = folder


def folder_of(adapter: Adapter) -> Path | None:
    """Where a model's checkpoint lies; None for one that was built in memory.

    Of a model that `from_pretrained` has read, it is known by the name that it was given: a folder,
    or a hub id, whose snapshot is that of the main branch where the model does not say which.
    """
    known = _FOLDERS.get(adapter.model)
    if known is not None:
        return known
    for net in (adapter.model, adapter.whole):  # a thinker may have no name inside a larger model
        name = str(getattr(net, "name_or_path", "") or "")
        if name:
            with suppress(ModelError):  # it has been moved, or is no longer in the cache
                return find_folder(name, getattr(net.config, "_commit_hash", None)).path
    return None


def of_a_method(name: str) -> bool:
    """Whether a tensor of a checkpoint is of a trained method, and not of the model.

    It may be named as in the file, or as transformers calls it in a model of its own.
    """
    name = name.replace(_DECODER, "model.", 1) if _DECODER in name else name
    classes = map(class_of, METHODS.values())
    return any(_own_names([name], prefixes) for cls in classes for prefixes in _layouts(cls))


def name_sections(adapter: Adapter, model_type: str) -> tuple[str, ...]:
    """Say how the decoder rotates in a checkpoint that EchoingPixels' authors' code has saved.

    Its config.json does not: their code reads the sections from an environment variable, and takes
    the published ones where there is none. So do we, where no `rope_sections` are named.

    Returns
    -------
    tuple of str
        What a user ought to know of it.
    """
    own = adapter.own_settings()
    if RETYPED not in model_type or "rope_sections" in own:
        return ()
    sections = list(sync_sections(adapter.architecture().head_dim))
    adapter.config.seats = {**own, "rope_sections": sections}
    return (
        f"This checkpoint does not say which rotary sections it was trained with: the published "
        f"ones are used, {sections}. If it was trained with others (MROPE_SECTION), add "
        '"seats": {"rope_sections": [...]} to the thinker_config of its config.json.',
    )


def recipe_notices(folder: Path) -> tuple[str, ...]:
    """What a user ought to know of a checkpoint that a recipe of ours has tuned for a method.

    A decoder that was given nothing but refined states answers worse without them.
    """
    from safetensors import SafetensorError, safe_open

    said = []
    refining = [name for name in METHODS if class_of(METHODS[name]).refines]
    # A recipe's ablations add something to the name of the file, which no method reads then.
    found = [(name, file) for name in refining for file in folder.glob(f"{name}*.safetensors")]
    for name, file in found:
        with suppress(OSError, ValueError, SafetensorError), safe_open(file, "pt") as opened:
            recipe = json.loads((opened.metadata() or {}).get("recipe", "{}"))
            if isinstance(recipe, dict) and recipe.get("plain") == 0.0:
                said.append(
                    f"The decoder of this checkpoint was trained on what '{name}' makes of its "
                    "input and on nothing else: other methods, and the model unpruned, give worse "
                    "answers here."
                )
    return tuple(said)


def _layouts(method: type[Method]) -> list[tuple[str, ...]]:
    """Each way to name a method's weights: what the names begin with."""
    layouts = [(method.weights_prefix,), method.published_prefixes]
    return [layout for layout in layouts if any(layout)]


def _own_names(names: Iterable[str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """Those of `names` that begin with one of `prefixes`: what is behind it, to the whole name.

    A name is compared from its beginning: `model.compressor.` and `compressor.` are two methods'.
    """
    found = {}
    for name in names:
        for prefix in prefixes:
            if name.removeprefix(_THINKER).startswith(prefix):
                found[name.removeprefix(_THINKER).removeprefix(prefix)] = name
    return found


def stored_for(folder: Path, method: str) -> dict[str, tuple[Path, str]]:
    """The weights of a method in a checkpoint's folder; empty without any, or for other methods.

    Returns
    -------
    dict
        Their names behind the prefix, to the file and the name in it. They are those of one
        layout, the method's own if the checkpoint has it.

    Raises
    ------
    ModelError
        If a file cannot be read.
    """
    layouts = _layouts(class_of(METHODS[method]))
    beside = folder / f"{method}.safetensors"
    file_of: dict[str, Path] = {}
    if layouts and folder.is_dir():
        files = [beside] if beside.is_file() else [folder / name for name in weight_files(folder)]
        for file in files:
            if file.suffix != ".safetensors" or not file.is_file():
                continue
            try:
                file_of |= dict.fromkeys(tensor_headers(file), file)
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"The weights in '{file}' cannot be read: fetch them again."
                ) from error
    for prefixes in layouts:
        if found := _own_names(file_of, prefixes):
            return {own: (file_of[name], name) for own, name in found.items()}
    return {}


def weights_for(adapter: Adapter, method: str) -> dict[str, Tensor]:
    """A method's weights on the device of the decoder's first weights.

    In float32, or in the model's precision for methods with `weights_as_model`.
    They are read once for each model.

    Raises
    ------
    ModelError
        If the model's checkpoint has none.
    """
    from safetensors import SafetensorError, safe_open

    net: Any = adapter.model
    known = _READ.setdefault(net, {})
    if method not in known:
        folder = folder_of(adapter)
        places = {} if folder is None else stored_for(folder, method)
        if not places:
            raise ModelError(
                f"The method '{method}' is trained, and this model's checkpoint has no weights for "
                f"it: put {method}.safetensors beside the model's own, or use a model that was "
                "trained with it."
            )
        device = next(adapter.layers.parameters()).device
        as_model = class_of(METHODS[method]).weights_as_model
        kind = net.dtype if as_model else torch.float32
        read = {}
        for own, (file, name) in places.items():
            try:
                with safe_open(file, "pt") as opened:
                    read[own] = opened.get_tensor(name).to(device, kind)
            except (OSError, SafetensorError) as error:
                raise ModelError(
                    f"The weights in '{file}' cannot be read: fetch them again."
                ) from error
        known[method] = read
    return known[method]


def give_weights(method: Method, adapter: Adapter) -> None:
    """Give a trained method, which its plan names, the weights of the model's checkpoint.

    Raises
    ------
    ModelError
        If the checkpoint has none, or they are of another model.
    """
    name = method.plan.config.method
    weights = weights_for(adapter, name)
    try:
        method.take_weights(weights, adapter.architecture())
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"The weights for '{name}' beside this model are of another kind or size "
            f"({_misfit(error)}): use those that were trained with it."
        ) from error
    method.has_weights = True


def _misfit(error: Exception) -> str:
    """What of some weights does not fit, in a few words."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    # torch names the module in the first line, and what is wrong with it in the next ones.
    return next((line for line in lines if line[:1].isspace()), lines[0]).strip().rstrip(".: ")
