"""The families, and a model's shapes from its config.json by the family that it belongs to.

The adapters in `seats_cli.models` describe loaded models through the same functions as `seats plan`
does config files, so that both speak of the same model in the same numbers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from seats_cli.errors import ModelError, UsageError
from seats_cli.families import qwen2_5_omni, qwen3_omni_moe
from seats_cli.families.base import Architecture, Checkpoint, Family

BUNDLED = "bundled"
BUNDLED_PATH = Path(__file__).parent.parent / "models" / BUNDLED

FAMILIES: list[Family] = [qwen2_5_omni.FAMILY, qwen3_omni_moe.FAMILY]


def register_family(family: Family) -> Family:
    """Make a family known, for planning and cost accounting; running it needs an adapter too.

    Raises
    ------
    ValueError
        If its name, a model type or a named shape is taken.
    """
    for other in FAMILIES:
        taken = {other.name, *other.model_types, *other.named_shapes} & {
            family.name,
            *family.model_types,
            *family.named_shapes,
        }
        if taken:
            raise ValueError(f"{min(taken)!r} belongs to the family {other.name!r} already")
    FAMILIES.append(family)
    return family


def family_named(name: str) -> Family:
    """The family of that name (`Architecture.family`).

    Raises
    ------
    ModelError
        If there is none.
    """
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ModelError(f"There is no model family '{name}': {family_titles()} are known.")


def family_of(architecture: Architecture) -> Family:
    """The family that an architecture belongs to."""
    return family_named(architecture.family)


def family_titles() -> str:
    """What people call the families, as part of a sentence."""
    titles = [family.title for family in FAMILIES]
    return f"{', '.join(titles[:-1])} and {titles[-1]}"


def checkpoints() -> dict[str, Checkpoint]:
    """Known checkpoints by their hub ids."""
    return {name: found for family in FAMILIES for name, found in family.checkpoints.items()}


def named_shapes() -> dict[str, dict[str, Any]]:
    """config.json values by name: first those of published checkpoints, then made-up ones."""
    found = {name: values for family in FAMILIES for name, values in family.named_shapes.items()}
    published = {checkpoint.shape for checkpoint in checkpoints().values()}
    return dict(sorted(found.items(), key=lambda item: item[0] not in published))


def describe_config(values: dict[str, Any], name: str) -> tuple[Architecture, dict[str, Any]]:
    """Shapes and own settings of a parsed config.json.

    Parameters
    ----------
    values : dict
        Contents of the file, of the model that answers or of a larger one around it.
    name : str
        What to call the model in messages.

    Returns
    -------
    architecture : Architecture
        With the checkpoint's own drop layers, if it names some.
    own : dict
        Its `seats` entry (see `Adapter.own_settings`).

    Raises
    ------
    ModelError
        If the model is of no supported family or a number is missing.
    """
    kind = str(values.get("model_type", ""))
    family = _family_of_type(kind)
    if family is None:
        raise ModelError(
            f"The model type '{kind}' of '{name}' is not supported; seats works with "
            f"{family_titles()}."
        )
    values = values.get(family.inner_config, values)
    try:
        architecture = family.describe(_as_object(values))
    except (AttributeError, TypeError) as error:
        raise ModelError(f"The config of '{name}' is incomplete: {error}.") from error
    own: dict[str, Any] = values.get("seats") or {}
    return with_own_settings(architecture, own), own


def tied_embeddings(values: Mapping[str, Any]) -> bool:
    """Whether a config.json says, at the model's level or its decoder's, that the LM head is tied.

    A config that does not say so is untied, as those of the published checkpoints are.
    """
    family = _family_of_type(str(values.get("model_type", "")))
    inner = values if family is None else values.get(family.inner_config, values)
    return any(
        bool(level.get("tie_word_embeddings")) for level in (inner, inner.get("text_config") or {})
    )


def _family_of_type(model_type: str) -> Family | None:
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def with_own_settings(architecture: Architecture, own: Mapping[str, Any]) -> Architecture:
    """A description with what the checkpoint says of itself (see `Adapter.own_settings`)."""
    if "retention_pairs" in own:
        pairs = tuple((share, video, audio) for share, video, audio in own["retention_pairs"])
        architecture = replace(architecture, retention_pairs=pairs)
    if "drop_layers" in own:
        architecture = replace(
            architecture,
            drop_layers=tuple(own["drop_layers"]),
            late_layer=own.get("late_layer"),
            layers_from="model",
        )
    return architecture


def read_config(folder: Path, name: str, file: str = "config.json") -> dict[str, Any]:
    """The config.json of a checkpoint folder, or another file of settings in it.

    Raises
    ------
    ModelError
        If there is none or it does not hold a JSON object.
    """
    try:
        values = json.loads((folder / file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{name}' has no readable {file}.") from error
    if not isinstance(values, dict):
        raise ModelError(f"The {file} of '{name}' holds no settings.")
    return values


def _as_object(value: Any) -> Any:
    """Nested dicts as objects with attributes; lists stay as they are."""
    if isinstance(value, dict):
        return SimpleNamespace(**{key: _as_object(item) for key, item in value.items()})
    return value


def named_config(
    name: str, *, layers: int | None = None, hidden: int | None = None
) -> dict[str, Any]:
    """Values of a named shape's config.json, possibly scaled.

    Parameters
    ----------
    name : str
        A key of `named_shapes()`, in any case.
    layers : int or None
        Decoder layers instead of the real number.
    hidden : int or None
        Decoder width instead of the real one, a multiple of the head width. Heads and MLP
        follow in proportion; the encoders stay as they are but for their output.

    Returns
    -------
    dict
        A copy that the caller may change.

    Raises
    ------
    UsageError
        If there is no such name or the scaling does not come out even.
    """
    known = named_shapes()
    if name.lower() not in known:
        raise UsageError(f"Unknown architecture '{name}': choose from {', '.join(known)}.")
    values = copy.deepcopy(known[name.lower()])
    if layers is not None:
        if layers < 1:
            raise UsageError(f"`layers` must be at least 1, not {layers}.")
        values.get("text_config", values)["num_hidden_layers"] = layers
    if hidden is not None:
        _widen(values, hidden)
    return values


def _widen(values: dict[str, Any], hidden: int) -> None:
    text = values.get("text_config", values)
    heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
    head = text.get("head_dim") or text["hidden_size"] // heads
    # Qwen3's heads are together wider than the model: keep that proportion.
    wanted = hidden * heads * head // text["hidden_size"] // head
    if hidden < head or hidden % head or wanted < 1:
        raise UsageError(f"`hidden` must be a multiple of the head width {head}, not {hidden}.")
    scale = hidden / text["hidden_size"]
    fewer = max(1, round(groups * scale))
    while wanted % fewer:
        fewer -= 1
    text.update(hidden_size=hidden, num_attention_heads=wanted, num_key_value_heads=fewer)
    for name in ("intermediate_size", "moe_intermediate_size"):
        if name in text:
            text[name] = max(8, round(text[name] * scale / 8) * 8)
    values["vision_config"]["out_hidden_size"] = hidden
    values["audio_config"]["output_dim"] = hidden
