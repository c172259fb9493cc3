"""Weights that do not fit: refused before they are read, and explained where memory runs out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers.core_model_loading
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.cli.runtime import explain
from seats_cli.cost.memory import WeightCounts
from seats_cli.errors import ResourceError
from seats_cli.families.registry import describe_config, named_config
from seats_cli.models import load_model, weight_memory
from seats_cli.models.random_weights import random_model
from seats_cli.models.registry import adapter_class
from seats_cli.models.weight_memory import (
    StoredWeights,
    WeightMemory,
    shortage_on,
    stored_weights,
)
from tests.models.broken_layouts import write_broken
from tests.models.checkpoints import write_checkpoint

ASSETS = Path(__file__).parents[2] / "assets"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16
SHAPES = ("qwen2.5-omni-3b", "qwen2.5-omni-7b", "qwen3-omni-30b-a3b")
Free = Callable[..., None]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Sets what is free on each GPU and the host, in bytes; None where it is not known."""

    def declare(host: float | None, *gpus: float) -> None:
        def available(where: torch.device) -> int | None:
            size = host if where.type == "cpu" else gpus[where.index or 0]
            return None if size is None else int(size)

        monkeypatch.setattr(weight_memory, "available_bytes", available)
        monkeypatch.setattr(weight_memory, "device_name", lambda _where: "NVIDIA A2")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))

    return declare


def of_shape(
    name: str, where: torch.device, dtype: torch.dtype = BFLOAT16, **others: Any
) -> WeightMemory:
    """A published checkpoint as its headers tell it, without the files."""
    shape, _ = describe_config(named_config(name), name)
    counts = WeightCounts.of(shape)
    stored = StoredWeights({"BF16": counts.total}, {"BF16": counts.experts})
    return WeightMemory(name, shape, stored, dtype, where, **others)


def refusal(memory: WeightMemory) -> str:
    with pytest.raises(ResourceError) as caught:
        memory.check()
    assert caught.value.exit_code == 5
    sentence = str(caught.value)
    assert sentence.count(". ") == 0
    assert sentence.endswith(".")
    return sentence


class TestBeforeLoading:
    @pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16])
    @pytest.mark.parametrize("name", SHAPES)
    def test_a_gpu_takes_what_fits_to_the_byte(
        self, name: str, dtype: torch.dtype, free: Free
    ) -> None:
        needed = (
            dtype.itemsize * WeightCounts.of(describe_config(named_config(name), name)[0]).total
        )
        free(None, needed)
        of_shape(name, CUDA, dtype).check()
        free(None, needed - 1)
        word = str(dtype).removeprefix("torch.")
        assert f"need {needed / 1e9:.1f} GB in {word}, and the GPU (NVIDIA A2) has" in refusal(
            of_shape(name, CUDA, dtype)
        )

    def test_what_is_needed_free_and_would_fit(self, free: Free) -> None:
        free(2e9, 15e9)
        assert refusal(of_shape("qwen2.5-omni-7b", CUDA)) == (
            "The weights of 'qwen2.5-omni-7b' need 17.9 GB in bfloat16, and the GPU (NVIDIA A2) "
            "has 15.0 GB free: use `quantize=8bit` or `model=Qwen/Qwen2.5-Omni-3B`."
        )
        free(2e9, 9e9)
        assert "use `quantize=4bit` or `model=Qwen/Qwen2.5-Omni-3B` with `quantize=4bit`." in (
            refusal(of_shape("qwen2.5-omni-7b", CUDA))
        )
        free(2e9, 23e9)
        assert refusal(of_shape("qwen2.5-omni-7b", CUDA, FLOAT32)).endswith(
            "use `dtype=bfloat16` or `quantize=8bit`."
        )
        free(2e9, 1e9)
        assert refusal(of_shape("qwen2.5-omni-3b", CUDA)).endswith(
            "`seats plan --memory` shows what each model takes."
        )

    def test_no_advice_to_quantize_experts(self, free: Free) -> None:
        free(2e9, 47e9)
        assert refusal(of_shape("qwen3-omni-30b-a3b", CUDA)).endswith(
            "use `model=Qwen/Qwen2.5-Omni-7B`."
        )

    @pytest.mark.parametrize(("quantize", "gigabytes"), [("4bit", 8.5), ("8bit", 11.3)])
    def test_quantized_weights_count_with_their_bits(
        self, quantize: str, gigabytes: float, free: Free
    ) -> None:
        shape, _ = describe_config(named_config("qwen2.5-omni-7b"), "")
        needed = WeightCounts.of(shape).bytes_in(int(quantize[0]))
        assert needed / 1e9 == pytest.approx(gigabytes, abs=0.05)
        free(None, needed)
        memory = of_shape("qwen2.5-omni-7b", CUDA, quantize=quantize)
        memory.check()
        free(None, needed - 1)
        said = f"{gigabytes} GB with a {quantize[0]}-bit decoder and the rest in bfloat16"
        assert said in refusal(of_shape("qwen2.5-omni-7b", CUDA, quantize=quantize))

    def test_a_host_maps_what_it_need_not_change(self, free: Free) -> None:
        free(1e9)
        of_shape("qwen2.5-omni-7b", CPU).check()
        assert refusal(of_shape("qwen2.5-omni-7b", CPU, FLOAT32)) == (
            "The weights of 'qwen2.5-omni-7b' need 35.7 GB in float32, and this machine has 1.0 GB "
            "free: use `dtype=bfloat16`."
        )
        # experts are fused, and so copied
        assert "need 58.0 GB in bfloat16" in refusal(of_shape("qwen3-omni-30b-a3b", CPU))
        # of the quantized model, the decoder alone is in memory
        assert "need 3.7 GB with a 4-bit" in (
            refusal(of_shape("qwen2.5-omni-7b", CPU, quantize="4bit"))
        )

    def test_spread(self, free: Free) -> None:
        free(40e9, 15e9, 15e9)
        assert "`device=spread` (the rest goes to other GPUs and the CPU)" in (
            refusal(of_shape("qwen3-omni-30b-a3b", CUDA))
        )
        of_shape("qwen3-omni-30b-a3b", CUDA, spread=True).check()
        free(30e9, 15e9, 15e9)
        sentence = refusal(of_shape("qwen3-omni-30b-a3b", CUDA, spread=True))
        assert "this machine with all its GPUs has 60.0 GB free" in sentence
        assert "spread`" not in sentence
        assert "quantize" not in sentence

    def test_what_is_not_known_refuses_nothing(self, free: Free) -> None:
        free(None)
        of_shape("qwen3-omni-30b-a3b", CPU, FLOAT32).check()
        free(None, 1e9)
        of_shape("qwen3-omni-30b-a3b", CUDA, spread=True).check()
        shape, _ = describe_config(named_config(SHAPES[0]), "")
        WeightMemory("x", shape, None, BFLOAT16, CUDA).check()

    @pytest.mark.parametrize("kind", ["fp8-block", "fp8-channel", "int8"])
    def test_8_bits_are_counted_as_what_they_become(self, tmp_path: Path, kind: str) -> None:
        weights = write_broken(tmp_path, kind)
        assert weights is not None
        stored = stored_weights(tmp_path)
        assert stored is not None
        count = sum(value.numel() for value in weights.values())
        assert stored.bytes_in(BFLOAT16) == pytest.approx(2 * count, rel=0.001)
        small = sum(size for kind, size in stored.values.items() if kind in ("F8_E4M3", "I8"))
        assert stored.host_bytes_in(BFLOAT16) >= 2 * small > 0


@pytest.mark.parametrize("family", ["qwen2_5_omni", "qwen3_omni_moe"])
class TestLoading:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_refused_before_anything_is_read(
        self, tmp_path: Path, family: str, dtype: str, free: Free, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_checkpoint(tmp_path, family)
        stored = stored_weights(tmp_path)
        assert stored is not None
        needed = stored.host_bytes_in(getattr(torch, dtype))
        free(needed)
        load_model(str(tmp_path), device="cpu", dtype=dtype)
        monkeypatch.setattr(adapter_class(family), "load_processor", None)
        free(needed - 1)
        if needed:
            with pytest.raises(ResourceError, match="The weights of"):
                load_model(str(tmp_path), device="cpu", dtype=dtype)

    def test_commands_say_it_with_flags(
        self, tmp_path: Path, family: str, free: Free, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_checkpoint(tmp_path, family)
        free(100)
        arguments = ["ask", str(ASSETS / "jfk.wav"), "What?", "--model", str(tmp_path)]
        arguments += ["--device", "cpu", "--dtype", "float16"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 5
        (sentence,) = done.stderr.strip().splitlines()
        assert sentence.startswith(f"Error: The weights of '{tmp_path}' need")
        monkeypatch.setattr(WeightMemory, "_remedies", "use `dtype=bfloat16` or `quantize=4bit`")
        done = CliRunner().invoke(app, arguments)
        assert done.stderr.endswith("free: use --dtype bfloat16 or --quantize 4bit.\n")

    @pytest.mark.parametrize(
        ("error", "place"),
        [
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 334 GiB."), "GPU"),
            (MemoryError("std::bad_alloc"), "host"),
            (RuntimeError("std::bad_alloc"), "host"),
            (RuntimeError("unable to mmap 9 bytes: Cannot allocate memory (12)"), "host"),
            (ImportError("libx.so: failed to map segment from shared object"), "host"),
            (OSError(12, "Cannot allocate memory"), "host"),
            (Exception("Error: Cannot allocate memory (os error 12)"), "host"),  # of safetensors
        ],
    )
    def test_out_of_memory_while_loading(
        self,
        tmp_path: Path,
        family: str,
        error: Exception,
        place: str,
        free: Free,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def from_pretrained(**_kwargs: Any) -> None:
            raise error

        write_checkpoint(tmp_path, family)
        monkeypatch.setattr(adapter_class(family).model_class(), "from_pretrained", from_pretrained)
        free(1e9)
        with pytest.raises(ResourceError) as caught:
            load_model(str(tmp_path), device="cpu")
        sentence, code = explain(caught.value)
        assert code == 5
        assert re.search(
            rf"Out of memory on the {place} while loading '.*', whose weights need [\d.]+ MB in "
            r"float32 where 1.0 GB were free: .+\.$",
            sentence,
        )
        assert "frames" not in sentence


def test_out_of_memory_while_experts_are_fused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers notes the exception in a log, and raises one that does not say why."""
    write_checkpoint(tmp_path, "qwen3_omni_moe")
    raised: list[Exception] = [torch.OutOfMemoryError("CUDA out of memory. Tried 2.00 GiB.")]

    def convert(*_given: Any, **_named: Any) -> None:
        raise raised[-1]

    monkeypatch.setattr(transformers.core_model_loading.MergeModulelist, "convert", convert)
    for error, place in ((raised[0], "GPU"), (MemoryError(), "host")):
        raised.append(error)
        with pytest.raises(ResourceError, match=f"Out of memory on the {place} while loading"):
            load_model(str(tmp_path), device="cpu")
    raised.append(ValueError("another trouble"))
    with pytest.raises(Exception, match="cannot be read"):
        load_model(str(tmp_path), device="cpu")


def test_the_bundled_model_is_never_refused(free: Free) -> None:
    free(0)
    for dtype in ("float32", "bfloat16", "float16"):
        assert load_model(device="cpu", dtype=dtype).facts.demonstration


def test_random_weights_are_never_mapped(free: Free) -> None:
    free(1e9)
    with pytest.raises(ResourceError, match=r"need 17.9 GB in bfloat16.*use fewer `layers`"):
        random_model("qwen2.5-omni-7b", device="cpu", dtype="bfloat16")
    free(20e9)
    with pytest.raises(ResourceError, match=r"use `dtype=bfloat16` or fewer `layers`"):
        random_model("qwen2.5-omni-7b", device="cpu", dtype="float32")


def test_other_errors_are_not_about_memory() -> None:
    for error in (ValueError("no such key"), KeyError("cpu"), RuntimeError("size mismatch")):
        assert shortage_on(error) is None
