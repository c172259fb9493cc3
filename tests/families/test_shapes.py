"""Families: named shapes and their scaling, one description for both ways, registration."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from seats_cli.errors import ModelError, UsageError
from seats_cli.families.registry import (
    FAMILIES,
    describe_config,
    family_named,
    named_config,
    named_shapes,
    register_family,
)


def described(name: str, **scaled: Any) -> Any:
    return describe_config(named_config(name, **scaled), name)[0]


def test_every_known_checkpoint_has_a_shape_of_its_family() -> None:
    for family in FAMILIES:
        assert {found.shape for found in family.checkpoints.values()} <= set(family.named_shapes)
        for name in family.named_shapes:
            assert described(name).family == family.name


@pytest.mark.parametrize("name", named_shapes())
def test_encoders_end_in_the_width_of_the_decoder(name: str) -> None:
    for shape in (described(name), described(name, layers=6, hidden=512)):
        assert shape.vision.out_hidden_size == shape.audio.out_hidden_size == shape.hidden_size


@pytest.mark.parametrize("name", named_shapes())
def test_the_config_class_says_the_same(name: str) -> None:
    from seats_cli.models.registry import adapter_class

    values = named_config(name)
    adapter = adapter_class(values["model_type"])
    config = adapter.model_class().config_class(
        **{key: value for key, value in values.items() if key != "model_type"}
    )
    assert adapter.family.describe(config) == described(name)


def test_scaling_keeps_the_proportions() -> None:
    half = described("qwen2.5-omni-7b", layers=4, hidden=1792)
    assert (half.num_layers, half.num_heads, half.num_kv_heads) == (4, 14, 2)
    assert (half.head_dim, half.intermediate_size) == (128, 9472)
    narrow = described("qwen3-omni-30b-a3b", hidden=1024)
    assert (narrow.num_heads, narrow.head_dim, narrow.moe_intermediate_size) == (16, 128, 384)


@pytest.mark.parametrize(
    "scaled", [{"layers": 0}, {"hidden": 100}, {"hidden": 0}, {"hidden": 1000}]
)
def test_impossible_scaling(scaled: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        named_config("qwen2.5-omni-7b", **scaled)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match=r"qwen2\.5-omni-7b"):
        named_config("gpt")


def test_own_layers_of_a_checkpoint_win() -> None:
    values = {**named_config("cpu-0.5b"), "seats": {"drop_layers": [3, 5], "late_layer": 9}}
    shape, own = describe_config({"model_type": "qwen2_5_omni", "thinker_config": values}, "x")
    assert (shape.drop_layers, shape.late_layer, shape.layers_from) == ((3, 5), 9, "model")
    assert own["late_layer"] == 9
    assert dataclasses.replace(shape, layers_from="depth") != described("cpu-0.5b")


def test_incomplete_and_foreign_configs() -> None:
    values = named_config("cpu-0.5b")
    del values["audio_config"]["d_model"]
    with pytest.raises(ModelError, match="d_model"):
        describe_config(values, "x")
    with pytest.raises(ModelError, match="llama"):
        describe_config({"model_type": "llama"}, "x")


def test_needs_no_torch() -> None:
    code = "import sys, seats_cli.families.registry;print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("taken", ["name", "model_types", "named_shapes"])
def test_nothing_is_registered_twice(taken: str) -> None:
    known = family_named("qwen2_5_omni")
    free = {"name": "other", "model_types": ("other",), "named_shapes": {}}
    other = dataclasses.replace(known, **{**free, taken: getattr(known, taken)})
    with pytest.raises(ValueError, match="belongs to the family 'qwen2_5_omni' already"):
        register_family(other)
    assert other not in FAMILIES
    with pytest.raises(ModelError, match=r"Qwen2\.5-Omni and Qwen3-Omni are known"):
        family_named("other")
