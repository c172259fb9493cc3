"""Weights of trained methods: tensors of a checkpoint that its model itself does not have.

They lie among the checkpoint's own weights under the method's prefix (as published), or beside them
in a file of the method's name, `omnisift.safetensors`.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from seats_cli.errors import ModelError
from seats_cli.families.checkpoint_folder import find_folder, tensor_headers, weight_files
from seats_cli.models.adapter import Adapter
from seats_cli.selection.method import METHODS, Method, class_of

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
    """Whether a tensor of a checkpoint is of a trained method, and not of the model."""
    prefixes = {class_of(make).weights_prefix for make in METHODS.values()} - {""}
    return any(f".{prefix}" in f".{name}" for prefix in prefixes)


def stored_for(folder: Path, method: str) -> dict[str, tuple[Path, str]]:
    """The weights of a method in a checkpoint's folder; empty without any, or for other methods.

    Returns
    -------
    dict
        Their names behind the prefix, to the file and the name in it.

    Raises
    ------
    ModelError
        If a file cannot be read.
    """
    prefix = class_of(METHODS[method]).weights_prefix
    beside = folder / f"{method}.safetensors"
    found = {}
    if prefix and folder.is_dir():
        files = [beside] if beside.is_file() else [folder / name for name in weight_files(folder)]
        for file in files:
            if file.suffix != ".safetensors" or not file.is_file():
                continue
            try:
                names = list(tensor_headers(file))
            except (OSError, ValueError) as error:
                raise ModelError(
                    f"The weights in '{file}' cannot be read: fetch them again."
                ) from (error)
            for name in names:
                if f".{prefix}" in f".{name}":
                    found[f".{name}".partition(f".{prefix}")[2]] = (file, name)
    return found


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
        method.take_weights(weights, adapter.architecture().hidden_size)
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"The weights for '{name}' beside this model are of another kind or size "
            f"({reason}): use those that were trained with it."
        ) from error
