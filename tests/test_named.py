"""Named architectures: the published numbers, scaling, and one description for both ways."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from seats_cli.errors import ModelError, UsageError
from seats_cli.families.named import HUB_NAMES, NAMED, named_config
from seats_cli.families.registry import describe_config


def described(name: str, **scaled: Any) -> Any:
    return describe_config(named_config(name, **scaled), name)[0]


def test_decoder_shapes() -> None:
    shapes = {
        name: (a.num_layers, a.hidden_size, a.num_heads, a.num_kv_heads, a.head_dim, a.vocab_size)
        for name, a in ((name, described(name)) for name in NAMED)
    }
    assert shapes == {
        "qwen2.5-omni-3b": (36, 2048, 16, 2, 128, 151936),
        "qwen2.5-omni-7b": (28, 3584, 28, 4, 128, 152064),
        "qwen3-omni-30b-a3b": (48, 2048, 32, 4, 128, 152064),
        "cpu-0.5b": (24, 896, 14, 2, 64, 151936),
    }
    assert set(HUB_NAMES.values()) <= set(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_encoders_end_in_the_width_of_the_decoder(name: str) -> None:
    for shape in (described(name), described(name, layers=6, hidden=512)):
        assert shape.vision.out_hidden_size == shape.audio.out_hidden_size == shape.hidden_size


@pytest.mark.parametrize("name", NAMED)
def test_the_config_class_says_the_same(name: str) -> None:
    from seats_cli.models.registry import adapter_class

    values = named_config(name)
    family = adapter_class(values["model_type"])
    import transformers

    config = getattr(transformers, family.thinker_class).config_class(
        **{key: value for key, value in values.items() if key != "model_type"}
    )
    assert family.describe(config) == described(name)


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
    shape, own = describe_config({"thinker_config": values}, "x")
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
    code = (
        "import sys, seats_cli.families.named, seats_cli.families.registry;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n"
