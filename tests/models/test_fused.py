"""Fused modules compute what the stock ones do, and leave the model as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from seats_cli import bench
from seats_cli.bench.__main__ import parsed
from seats_cli.models import fused_modules
from seats_cli.models.adapter import Adapter
from seats_cli.models.fused_modules import rotate_float32, rotated
from seats_cli.models.optimize import fused_forwards, use_for_encoders, use_fused_modules
from seats_cli.models.registry import adapter_for
from seats_cli.selection import device
from tests.engine.golden import FAMILIES, build

GRIDS = ((2, 10, 6), (1, 8, 12))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module", params=FAMILIES)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    return adapter_for(build(request.param))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything runs fused on the CPU, in float32, Triton's kernels interpreted."""
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton compiles for the GPU here")
    monkeypatch.setattr(device, "usable", lambda _device: device._Switch.on)
    monkeypatch.setattr(device, "on_gpu", lambda _tensor: True)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: nullcontext())
    monkeypatch.setattr(fused_modules, "_HALF", (torch.float32,))
    monkeypatch.setattr(fused_modules, "_FEWEST_ROWS", 1)
    yield
    assert device._Switch.on, "a kernel could not be built"


def vision(adapter: Adapter) -> Tensor:
    config, grid = adapter.config.vision_config, torch.tensor(GRIDS)
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(int(grid.prod(1).sum()), values, generator=draw)
    return adapter.visual(pixels, grid_thw=grid).last_hidden_state


@torch.no_grad()
def test_the_vision_encoder(adapter: Adapter, as_on_a_gpu: None) -> None:
    stock, calls = vision(adapter), []
    block: Any = adapter.visual.blocks[-1]
    handles = [
        layer.register_forward_hook(lambda *_: calls.append("projection"))
        for layer in adapter.vision_projections
    ]
    handles.append(block.attn.register_forward_hook(lambda *_: calls.append("attention")))
    try:
        with use_for_encoders(adapter), use_fused_modules(adapter):
            fused = vision(adapter)
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(fused, stock, atol=1e-5, rtol=1e-5)
    assert calls == ["projection"] * len(adapter.vision_projections) + ["attention"]


@torch.no_grad()
def test_the_decoder(adapter: Adapter, as_on_a_gpu: None) -> None:
    embeddings = torch.randn(1, 9, adapter.config.text_config.hidden_size)
    stock = adapter.language_model(inputs_embeds=embeddings).last_hidden_state
    with use_fused_modules(adapter):
        fused = adapter.language_model(inputs_embeds=embeddings).last_hidden_state
    torch.testing.assert_close(fused, stock, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attention_that_takes_one_segment_at_a_time_is_stock(
    adapter: Adapter, as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = vision(adapter)
    monkeypatch.setattr(type(adapter), "vision_states", lambda *_: pytest.fail("not stock"))
    with use_fused_modules(adapter):
        torch.testing.assert_close(vision(adapter), stock, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_on_a_cpu_everything_is_stock(adapter: Adapter) -> None:
    stock = vision(adapter)
    with use_fused_modules(adapter):
        assert torch.equal(vision(adapter), stock)


def test_the_model_is_left_as_it_was_found(adapter: Adapter) -> None:
    modules = [module for module, _ in fused_forwards(adapter)]
    names = {type(module).__name__ for module in modules}
    assert {"Conv3d"} <= names
    assert any(name.endswith("RMSNorm") for name in names)
    assert any(name.endswith("VisionAttention") for name in names)
    with pytest.raises(KeyboardInterrupt), use_fused_modules(adapter):
        raise KeyboardInterrupt
    assert not any("forward" in vars(module) for module in modules)


def test_every_rms_norm_is_found(adapter: Adapter) -> None:
    for part in (adapter.visual, adapter.language_model):
        for module in part.modules():
            if isinstance(module, nn.LayerNorm | nn.Linear | nn.Embedding):
                assert not fused_modules.is_rms_norm(module)
            if "RMSNorm" in type(module).__name__:
                assert fused_modules.is_rms_norm(module)


class Gated(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(6, width, bias)
        self.up_proj = nn.Linear(6, width, bias)
        self.down_proj = nn.Linear(width, 6, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        gate = nn.functional.silu(self.gate_proj(hidden))
        return self.down_proj(gate * self.up_proj(hidden))


@given(width=st.integers(1, 40), rows=st.integers(1, 9), bias=st.booleans())
@torch.no_grad()
def test_padding_an_mlp_changes_nothing(width: int, rows: int, bias: bool) -> None:
    module, hidden = Gated(width, bias), torch.randn(rows, 6)
    stock = module(hidden)
    assert fused_modules.is_unaligned_mlp(module) == (width % 8 > 0)
    if not fused_modules.is_unaligned_mlp(module):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "on_gpu", lambda _tensor: True)
        patch.setattr(fused_modules, "_HALF", (torch.float32,))
        patch.setattr(fused_modules, "_FEWEST_ROWS", 5)
        for part in (module.gate_proj, module.up_proj):
            part.forward = fused_modules.widened(part, part.forward)
        seen = module.up_proj(hidden)
        assert seen.shape[1] == (width if rows < 5 else -(-width // 8) * 8)
        module.down_proj.forward = fused_modules.of_widened(
            module.down_proj, module.down_proj.forward
        )
        torch.testing.assert_close(module(hidden), stock, atol=1e-5, rtol=1e-5)


def test_weights_that_move_are_left_alone() -> None:
    """accelerate brings them in around the stock `forward`."""
    module = Gated(12, bias=True)
    module.up_proj._hf_hook = object()
    assert not fused_modules.is_unaligned_mlp(module)
    convolution = nn.Conv3d(3, 4, (2, 5, 5), (2, 5, 5))
    assert fused_modules.is_patch_convolution(convolution)
    convolution._hf_hook = object()
    assert not fused_modules.is_patch_convolution(convolution)


@pytest.mark.parametrize("change", [{"stride": (1, 5, 5)}, {"padding": 1}, {"groups": 2}])
def test_other_convolutions_are_left_alone(change: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"kernel_size": (2, 5, 5), "stride": (2, 5, 5)}
    assert not fused_modules.is_patch_convolution(nn.Conv3d(4, 4, **{**usual, **change}))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 11),
    heads=st.integers(1, 3),
    half=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_rotation_is_bit_for_bit_the_stock_one(
    rows: int, heads: int, half: int, dtype: torch.dtype
) -> None:
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton compiles for the GPU here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "usable", lambda _device: True)
        patch.setattr(torch.cuda, "device", lambda _device: nullcontext())
        # side by side with the values, as one layer gives all three
        query, key, _ = torch.randn(rows, 3, heads, 2 * half).to(dtype).unbind(1)
        cos, sin = torch.randn(2, rows, 2 * half)
        found = rotated(query, key, cos, sin)
    assert found is not None
    for one, other in zip(found, (query, key), strict=True):
        assert one.is_contiguous()
        assert torch.equal(one, rotate_float32(other, cos, sin))


def test_rotation_off_the_gpu_is_left_to_the_plain_version() -> None:
    assert rotated(*torch.randn(2, 3, 1, 4), *torch.randn(2, 3, 4)) is None


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rotation_on_a_gpu(dtype: torch.dtype) -> None:
    query, key, _ = torch.randn(517, 3, 16, 80, device="cuda").to(dtype).unbind(1)
    cos, sin = torch.randn(2, 517, 80, device="cuda")
    found = rotated(query, key, cos, sin)
    assert found is not None
    assert torch.equal(found[0], rotate_float32(query, cos, sin))
    assert torch.equal(found[1], rotate_float32(key, cos, sin))


@pytest.mark.gpu
@needs_gpu
@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_encoder_of_a_7b_on_a_gpu(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # in the stock convolution
    given = ["--dtype", dtype, "--seconds", "4", "--size", "280x196"]
    options = parsed(["modules", "qwen2.5-omni-7b", *given, "--repeats", "1"])
    rows = bench.modules(options)
    limit = 1e-4 if dtype == "float32" else 0.05
    assert len(rows) == 4
    assert all(row["difference"] < limit for row in rows)


@pytest.mark.gpu
@needs_gpu
@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_on_a_gpu(dtype: torch.dtype, adapter: Adapter) -> None:
    """At most one rounding apart: squares are summed in another order."""
    module = adapter.language_model.norm.to("cuda", dtype)
    hidden = torch.randn(2, 40, module.weight.numel(), device="cuda", dtype=dtype)
    fused = fused_modules.norm(module, lambda _hidden: pytest.fail("not fused"))(hidden)
    tolerance = 1e-6 if dtype is torch.float32 else 2**-7
    torch.testing.assert_close(fused, module(hidden), atol=tolerance, rtol=tolerance)
