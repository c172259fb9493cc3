"""Folders that are no plain 16-bit checkpoints: loaded right, or refused with what helps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seats_cli.errors import ModelError
from seats_cli.models import load_model
from tests.models.broken_layouts import write_broken
from tests.models.hub_layouts import UNPICKLED, thinker_parts, write_repository

# Kinds that load, to the bit what their weights stand for.
LOADED = ("fp8-block", "fp8-channel", "int8", "lora-beside", "tied-in-text-config")
# What the sentence about each of the others says: what it is, and what to do.
REFUSED = {
    "int4-packed": ("quantized with compressed-tensors (pack-quantized)", "use the 16-bit"),
    "gptq": ("quantized with GPTQ", "use the 16-bit"),
    "awq": ("quantized with AWQ", "use the 16-bit"),
    "bitsandbytes-4bit": ("quantized with bitsandbytes", "use the 16-bit"),
    "mxfp4": ("quantized with MXFP4", "use the 16-bit"),
    "mlx": ("quantized with MLX", "use the 16-bit"),
    "no-template": ("has no chat template", "copy the files of the tokenizer"),
    "text-template": ("for text alone", "copy the files of the tokenizer"),
    "no-added-tokens": ("no tokens for pictures and sound", "copy the files of the tokenizer"),
    "gguf": ("holds GGUF files", "use the 16-bit"),
    "gguf-alone": ("holds GGUF files", "use the 16-bit"),
    "pickle-only": ("only pickled weights (.bin)", "reads safetensors"),
    "lora": ("is an adapter of Qwen/Qwen2.5-Omni-7B", "use `model="),
    "config-only": ("is not complete (it has no weights)", "what it lacks"),
    "shard-missing": ("model-00002-of-00004.safetensors is missing", "what it lacks"),
    "shard-cut": ("is cut off after", "the others are whole"),
}


@pytest.fixture(params=["omni-7b", "omni3-instruct"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", LOADED)
def test_what_loads_is_what_was_written(kind: str, layout: str, tmp_path: Path) -> None:
    expected = write_broken(tmp_path, kind, layout)
    assert expected is not None
    loaded = load_model(str(tmp_path), device="cpu", dtype="bfloat16")
    for part, tensors in thinker_parts(expected).items():
        state = getattr(loaded.adapter, part).state_dict()
        assert state.keys() == tensors.keys(), part
        assert all(torch.equal(state[name], value) for name, value in tensors.items()), part


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_load_says_what_helps(kind: str, layout: str, tmp_path: Path) -> None:
    write_broken(tmp_path, kind, layout)
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path), device="cpu")
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert all(words in message for words in REFUSED[kind]), message
    assert "fetch it again" not in message
    assert message.endswith(".")
    assert "\n" not in message
    assert not (tmp_path / UNPICKLED).exists()


@pytest.mark.parametrize("kind", ["fp8-block", "fp8-channel", "int8"])
def test_dequantized_weights_are_near_the_original(kind: str, layout: str, tmp_path: Path) -> None:
    """What is expected of such kinds is a model of its own, near the one it was made from."""
    original = write_repository(tmp_path / "good", layout)
    dequantized = write_broken(tmp_path / "small", kind, layout)
    assert dequantized is not None
    changed = 0
    for name, weight in original.items():
        apart = (dequantized[name].float() - weight.float()).norm() / weight.float().norm()
        assert apart < 0.05
        changed += bool(apart)
    assert changed == (42 if layout == "omni-7b" else 6 * (4 + 4 * 3))


def test_an_adapter_beside_the_weights_is_named(layout: str, tmp_path: Path) -> None:
    write_broken(tmp_path, "lora-beside", layout)
    (notice,) = load_model(str(tmp_path), device="cpu").notices
    assert "also holds a LoRA adapter, which is not used" in notice
