"""The recorded runs on a CUDA device; skipped where there is none."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from seats_cli.engine.choices import cache_argument
from seats_cli.engine.prune import prune
from tests.engine import golden
from tests.engine.golden import FAMILIES, Run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CASES = {"qwen2_5": "twelve_ragged", "qwen3": "long_ragged"}


def on_gpu(inputs: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        name: value.to("cuda", dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_keeps_the_recorded_tokens(family: str) -> None:
    run = Run(family, CASES[family], "seats_a")
    net = golden.build(family).cuda()
    with prune(net, golden.plan(run)) as pruned:
        output = net(**on_gpu(golden.inputs(run), torch.float32))
    kept = golden.expected(run, "final_kept_indices").long()
    assert torch.equal(pruned.trace.stages[-1].kept, kept)
    torch.testing.assert_close(
        output.logits[0, -1].cpu(), golden.expected(run, "logits_last"), atol=2e-3, rtol=0
    )


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_generates(family: str, dtype: torch.dtype, attention: str) -> None:
    if attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    run = Run(family, CASES[family], "seats_a")
    net = golden.build(family, attention).to("cuda", dtype)
    plan, inputs = golden.plan(run, kv="layerwise"), on_gpu(golden.inputs(run), dtype)
    with prune(net, plan) as pruned:
        output = net(**inputs, use_cache=True)
        assert torch.isfinite(output.logits).all()
        name = cache_argument(net)
        token = output.logits[:, -1:].argmax(-1)
        step = net(input_ids=token, use_cache=True, **{name: getattr(output, name)})
        assert torch.isfinite(step.logits).all()
        net.generate(**inputs, max_new_tokens=4, do_sample=False)
    counts = [(stage.video, stage.audio) for stage in pruned.trace.stages]
    assert counts[-1] == (0, 0)
