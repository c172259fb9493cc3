"""Checkpoints with quantized weights: loaded as what they stand for, or refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from seats_cli.errors import ModelError
from seats_cli.models import load_model
from seats_cli.models.dequantization import dequantize, multipliers
from seats_cli.models.quantization import base_of
from tests.models.broken_layouts import write_broken
from tests.models.hub_layouts import thinker_parts, write_shards

FLOAT8, BLOCK = torch.float8_e4m3fn, 128
Repository = Callable[[str], Path]

# As their tools write them, at the root of config.json unless the name says otherwise.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
        "GPTQ",
    ),
    "awq": (
        {
            "quant_method": "awq",
            "bits": 4,
            "group_size": 128,
            "version": "gemm",
            "zero_point": True,
            "modules_to_not_convert": ["visual", "audio_tower"],
        },
        "AWQ",
    ),
    "auto-round": (
        {
            "quant_method": "auto-round",
            "packing_format": "auto_round:auto_gptq",
            "bits": 4,
            "group_size": 128,
            "sym": True,
            "block_name_to_quantize": "thinker.model.layers",
        },
        "AutoRound",
    ),
    "packed int4": (
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}
            },
            "ignore": ["thinker.lm_head"],
        },
        r"compressed-tensors \(pack-quantized\)",
    ),
    "nvfp4": (
        {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
        r"compressed-tensors \(nvfp4-pack-quantized\)",
    ),
    "rotated": (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "transform_config": {"config_groups": {"u": {"type": "hadamard"}}},
        },
        "compressed-tensors",
    ),
    "modelopt fp4": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
        r"ModelOpt \(NVFP4\)",
    ),
    "modelopt mixed": ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "ModelOpt"),
    "bitsandbytes 4": (
        {
            "_load_in_4bit": True,
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "quant_method": "bitsandbytes",
        },
        "bitsandbytes",
    ),
    "bitsandbytes old": ({"load_in_8bit": True, "llm_int8_threshold": 6.0}, "bitsandbytes"),
    "mxfp4": ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, "MXFP4"),
    "fp4 experts": ({"quant_method": "fp8", "expert_dtype": "fp4"}, "FP8"),
    "torchao": (
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
        "torchao",
    ),
    "hqq": (
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
        "HQQ",
    ),
    "tomorrow's": ({"quant_method": "new-thing"}, "new-thing"),
}


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture
def copied(hub_repository: Repository, tmp_path: Path) -> Callable[[str], Path]:
    def copy(layout: str) -> Path:
        return Path(shutil.copytree(hub_repository(layout), tmp_path / layout))

    return copy


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder), device="cpu")
    assert caught.value.exit_code == 4
    assert "fetch it again" not in str(caught.value)
    return str(caught.value)


class TestRefusals:
    @pytest.mark.parametrize("scheme", REFUSED)
    def test_at_the_root(self, scheme: str, copied: Repository) -> None:
        folder, (entry, title) = copied("omni-7b"), REFUSED[scheme]
        edit_config(folder, lambda values: values.update(quantization_config=entry))
        with pytest.raises(ModelError, match=f"is quantized with {title}.*use the 16-bit"):
            load_model(str(folder), device="cpu")
        assert "does not read" in refusal(folder)

    @pytest.mark.parametrize("part", ["thinker_config", "text_config"])
    def test_in_a_part(self, part: str, copied: Repository) -> None:
        def change(values: dict[str, Any]) -> None:
            thinker = values["thinker_config"]
            place = thinker if part == "thinker_config" else thinker["text_config"]
            place["quantization_config"] = REFUSED["awq"][0]

        folder = copied("omni3-instruct")
        edit_config(folder, change)
        assert "quantized with AWQ" in refusal(folder)

    def test_of_the_thinker_alone(self, copied: Repository) -> None:
        folder = copied("thinker-3")
        entry = REFUSED["packed int4"][0]
        edit_config(folder, lambda values: values.update(compression_config=entry))
        assert "compressed-tensors (pack-quantized)" in refusal(folder)

    def test_mlx_says_it_twice(self, copied: Repository) -> None:
        folder = copied("omni-7b")
        entry = {"group_size": 64, "bits": 4, "mode": "affine"}
        edit_config(
            folder, lambda values: values.update(quantization=entry, quantization_config=entry)
        )
        assert "quantized with MLX" in refusal(folder)
        edit_config(folder, lambda values: values.pop("quantization_config"))
        assert "quantized with MLX" in refusal(folder)

    def test_in_a_file_beside_the_config(self, copied: Repository) -> None:
        folder = copied("omni-7b")
        entry = {
            "producer": {"name": "modelopt", "version": "0.41.0"},
            "quantization": {"quant_algo": "NVFP4", "group_size": 16},
        }
        beside = folder / "hf_quant_config.json"
        beside.write_text(json.dumps(entry))
        assert "quantized with ModelOpt (NVFP4)" in refusal(folder)
        beside.rename(folder / "quantize_config.json")
        (folder / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": 128}))
        assert "quantized with GPTQ" in refusal(folder)

    def test_names_the_base(self, copied: Repository, tmp_path: Path) -> None:
        folder = copied("omni-7b").rename(tmp_path / "Qwen2.5-Omni-7B-AWQ")
        entry = REFUSED["awq"][0]
        edit_config(folder, lambda values: values.update(quantization_config=entry))
        assert refusal(folder).endswith(
            "use the 16-bit checkpoint Qwen/Qwen2.5-Omni-7B (about 22 GB)."
        )
        card = "---\nlicense: apache-2.0\nbase_model:\n- someone/Their-Omni\ntags: []\n---\n# A\n"
        (folder / "README.md").write_text(card)
        assert refusal(folder).endswith("use the 16-bit checkpoint someone/Their-Omni.")
        assert base_of("my-model", tmp_path) is None

    @pytest.mark.parametrize("entry", [None, {}])
    def test_an_empty_entry_is_none(self, entry: Any, copied: Repository) -> None:
        folder = copied("thinker-2.5")
        edit_config(folder, lambda values: values.update(quantization_config=entry))
        assert load_model(str(folder), device="cpu").facts.quantization == ""


# ------------------------------------------------------- values times scales


def quantized_block(
    value: Tensor, block: tuple[int, int] = (BLOCK, BLOCK)
) -> tuple[Tensor, Tensor]:
    """FP8 values and `weight_scale_inv` of a matrix, as DeepSeek's tools make them."""
    grid = tuple(-(-size // step) for size, step in zip(value.shape, block, strict=True))
    values, scale = torch.empty(value.shape, dtype=FLOAT8), torch.empty(grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            place = (
                slice(row * block[0], (row + 1) * block[0]),
                slice(column * block[1], (column + 1) * block[1]),
            )
            scale[row, column] = value[place].float().abs().max() / 448
            values[place] = (value[place].float() / scale[row, column]).to(FLOAT8)
    return values, scale


def quantized_rows(value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Values and `weight_scale` of a matrix, one for each row."""
    top = 448 if dtype == FLOAT8 else 127
    scale = value.float().abs().amax(1, keepdim=True) / top
    values = value.float() / scale
    return (values if dtype == FLOAT8 else values.round()).to(dtype), scale


def compressed(kind: str, bits: str) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": bits, "strategy": "channel", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "quantization_status": "compressed",
        "ignore": ["thinker.lm_head", "re:.*visual.*"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [64, 32]}
SCALED: dict[str, tuple[dict[str, Any], Callable[[Tensor], tuple[Tensor, Tensor]], str]] = {
    "blocks": (BLOCKS, lambda value: quantized_block(value, (64, 32)), "weight_scale_inv"),
    "inverse blocks": (
        BLOCKS,
        lambda value: (
            quantized_block(value, (64, 32))[0],
            1 / quantized_block(value, (64, 32))[1],
        ),
        "weight_scale_inv",
    ),
    "float rows": (
        compressed("float-quantized", "float"),
        lambda value: quantized_rows(value, FLOAT8),
        "weight_scale",
    ),
    "integer rows": (
        compressed("int-quantized", "int"),
        lambda value: quantized_rows(value, torch.int8),
        "weight_scale",
    ),
    "naive rows": (
        compressed("naive-quantized", "int"),
        lambda value: quantized_rows(value, torch.int8),
        "weight_scale",
    ),
    "whole tensors": (
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
        lambda value: (quantized_block(value, (999, 999))[0], value.float().abs().max() / 448),
        "weight_scale",
    ),
}


def write_scaled(folder: Path, scheme: str) -> dict[str, Tensor]:
    """Quantize the decoder's projections in place; what the thinker must hold then."""
    entry, quantize, suffix = SCALED[scheme]
    edit_config(folder, lambda values: values.update(quantization_config=entry))
    stored = {}
    for file in sorted(folder.glob("*.safetensors")):
        stored |= load_file(file)
        file.unlink()
    written, expected = {}, {}
    for name, value in stored.items():
        inner = name.removeprefix("thinker.")
        written[name] = expected[inner] = value
        if not re.fullmatch(r"(model|talker\.model)\.layers\..*proj\.weight", inner):
            continue
        values, scale = quantize(value)
        stem = name.removesuffix("weight")
        written |= {name: values, f"{stem}{suffix}": scale}
        if scheme == "whole tensors":  # of 8-bit kernels and of an 8-bit KV cache
            written |= {f"{stem}input_scale": 2 * scale, f"{stem}k_scale": 3 * scale}
        factors = 1 / scale if scheme == "inverse blocks" else scale
        if suffix == "weight_scale_inv":
            rows, columns = (torch.arange(size) for size in values.shape)
            factors = factors[rows[:, None] // 64, columns // 32]
        expected[inner] = values.float() * factors
    write_shards(folder, written)
    spoken = ("talker.", "token2wav.", "code2wav.")
    return {name: value for name, value in expected.items() if not name.startswith(spoken)}


@pytest.mark.parametrize("layout", ["omni-7b", "omni3-instruct", "thinker-3"])
@pytest.mark.parametrize("scheme", SCALED)
def test_weights_are_values_times_scales(scheme: str, layout: str, copied: Repository) -> None:
    original = copied(layout)
    expected = write_scaled(original, scheme)
    loaded = load_model(str(original), device="cpu", dtype="float32")
    for part, tensors in thinker_parts(expected).items():
        state = getattr(loaded.adapter, part).state_dict()
        assert state.keys() == tensors.keys()
        for name, value in tensors.items():
            assert torch.equal(state[name], value.float()), (part, name)
    title = {"blocks": "FP8", "inverse blocks": "FP8", "whole tensors": "ModelOpt (FP8)"}
    assert loaded.facts.quantization.endswith("dequantized to float32")
    assert loaded.facts.quantization.startswith(title.get(scheme, "compressed-tensors"))
    assert loaded.facts.parameters == sum(p.numel() for p in loaded.model.parameters())


@pytest.mark.parametrize("layout", ["omni-7b", "omni3-instruct", "thinker-3"])
@pytest.mark.parametrize("kind", ["fp8-block", "fp8-channel", "int8"])
def test_published_kinds_of_8_bits(kind: str, layout: str, tmp_path: Path) -> None:
    expected = write_broken(tmp_path, kind, layout)
    assert expected is not None
    loaded = load_model(str(tmp_path), device="cpu", dtype="bfloat16")
    for part, tensors in thinker_parts(expected).items():
        state = getattr(loaded.adapter, part).state_dict()
        assert all(torch.equal(state[name], value) for name, value in tensors.items())


@pytest.mark.parametrize("layout", ["omni-7b", "omni3-instruct"])
@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("int4-packed", "compressed-tensors (pack-quantized)"),
        ("gptq", "GPTQ"),
        ("awq", "AWQ"),
        ("bitsandbytes-4bit", "bitsandbytes"),
        ("mxfp4", "MXFP4"),
        ("mlx", "MLX"),
    ],
)
def test_published_kinds_that_are_refused(
    kind: str, title: str, layout: str, tmp_path: Path
) -> None:
    write_broken(tmp_path, kind, layout)
    assert f"is quantized with {title}, which seats does not read" in refusal(tmp_path)


@pytest.mark.parametrize("layout", ["omni-7b", "omni3-instruct"])
@pytest.mark.parametrize("kind", ["fp8-block", "int8", "gptq", "awq", "bitsandbytes-4bit", "mlx"])
def test_undeclared_ones_are_refused(kind: str, layout: str, tmp_path: Path) -> None:
    def forget(values: dict[str, Any]) -> None:
        for entry in ("quantization_config", "quantization"):
            values.pop(entry, None)

    write_broken(tmp_path, kind, layout)
    edit_config(tmp_path, forget)
    assert "config.json does not say how: use the 16-bit checkpoint" in refusal(tmp_path)


def test_what_was_quantized_is_close_to_the_original(
    copied: Repository, hub_repository: Repository
) -> None:
    folder = copied("omni3-instruct")
    write_scaled(folder, "blocks")
    state = load_model(str(folder), device="cpu", dtype="bfloat16").adapter.language_model
    original = load_model(str(hub_repository("omni3-instruct")), device="cpu", dtype="bfloat16")
    stock = original.adapter.language_model.state_dict()
    assert original.model.generation_config.to_dict() == (
        load_model(str(folder), device="cpu").model.generation_config.to_dict()
    )
    for name, value in state.state_dict().items():
        assert torch.allclose(value, stock[name], rtol=0.08, atol=0.02), name


def test_missing_scales_are_named(copied: Repository) -> None:
    folder = copied("omni-7b")
    write_scaled(folder, "float rows")
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    gone = [name for name in weights if "layers.3" in name and name.endswith("_scale")]
    write_shards(folder, {name: value for name, value in weights.items() if name not in gone})
    assert "the scales of 7 weights are not in its files" in refusal(folder)


class TestProducts:
    def test_blocks_may_reach_beyond_the_matrix(self) -> None:
        value = torch.randn(1500, 200, generator=torch.Generator().manual_seed(0))
        values, scale = quantized_block(value)
        assert scale.shape == (12, 2)
        found = dequantize(values, scale, torch.float32, (BLOCK, BLOCK))
        rows, columns = torch.arange(1500)[:, None] // BLOCK, torch.arange(200) // BLOCK
        assert torch.equal(found, values.float() * scale[rows, columns])

    def test_groups_in_a_row_and_zero_points(self) -> None:
        values = torch.arange(-12, 12, dtype=torch.int8).reshape(4, 6)
        scale, less = torch.arange(1.0, 9).reshape(4, 2), torch.arange(8.0).reshape(4, 2)
        found = dequantize(values, scale, torch.float32, offset=less)
        wide = [part.repeat_interleave(3, 1) for part in (scale, less)]
        assert torch.equal(found, (values.float() - wide[1]) * wide[0])

    def test_fused_experts(self) -> None:
        value = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))
        parts = [quantized_block(one, (32, 32)) for one in value]
        values, scale = (torch.stack(part) for part in zip(*parts, strict=True))
        found = dequantize(values, scale, torch.bfloat16, (32, 32))
        apart = [dequantize(*part, torch.bfloat16, (32, 32)) for part in parts]
        assert torch.equal(found, torch.stack(apart))

    def test_scales_that_do_not_fit(self) -> None:
        with pytest.raises(ValueError, match="scales of shape 5 x 1"):
            dequantize(torch.zeros(64, 64, dtype=torch.int8), torch.ones(5, 1), torch.float32)

    def test_inverse_scales_are_recognised(self) -> None:
        scale = torch.tensor([[1e-4, 3e-3], [2e-5, 4e-2]])
        assert torch.equal(multipliers(scale), scale)
        assert torch.allclose(multipliers(1 / scale), scale)
