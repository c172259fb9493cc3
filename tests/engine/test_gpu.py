"""The recorded runs on a CUDA device; skipped where there is none."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.profiling import run_profile
from seats_cli.engine.prune import prune
from seats_cli.engine.timing import Clock, EventMarks, marks_for
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import load_model
from seats_cli.models.adapter import devices_of
from seats_cli.results import STAGES, RunSpec
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


def test_events_see_the_work_and_the_waiting_of_the_stream() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    clock = Clock([device])
    assert isinstance(marks_for([device]), EventMarks)
    matrix = torch.randn(4096, 4096, device=device)
    start = clock.now()
    with clock.stage("both"):
        with clock.stage("work"):
            for _ in range(20):
                matrix = (matrix @ matrix).clamp(-1, 1)
        with clock.stage("waiting"):
            torch.cuda.synchronize(device)
            time.sleep(0.02)
    whole = clock.now() - start
    seconds = clock.seconds
    assert seconds["work"] > 0
    assert seconds["waiting"] >= 0.019
    assert seconds["both"] == pytest.approx(seconds["work"] + seconds["waiting"], rel=0.05)
    assert seconds["both"] <= whole


def test_profile_by_events() -> None:
    loaded = load_model("bundled", device="cuda")
    assert len(devices_of(loaded.model)) == 1
    clip = synthetic_clip(4.0, sizing=loaded.sizing)
    settings = (RunSpec("seats 25%", SeatsConfig(retain=0.25)),)
    found = run_profile(loaded, lambda: clip, "What?", settings, repeats=2, new_tokens=2)
    assert found.clock == "CUDA events"
    for run in found.runs:
        # Stages are read off the device and their sum off the host: none may be lost or doubled.
        assert all(run.times[name].median_s >= 0 for name in STAGES)
        parts = sum(run.times[name].median_s for name in STAGES)
        assert parts == pytest.approx(run.times["first_token"].median_s, rel=1e-6)
        layers = sum(segment.time.median_s for segment in run.segments)
        assert 0 < layers <= run.times["prefill"].median_s
    assert found.pruned[0].times["stage2"].median_s > 0


def test_profile_goes_on_where_the_unpruned_run_does_not_fit() -> None:
    loaded = load_model("bundled", device="cuda")
    clip = synthetic_clip(4.0, sizing=loaded.sizing)
    lengths: list[int] = []

    def exhaust(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        hidden = kwargs.get("hidden_states", args[0] if args else None)
        lengths.append(hidden.shape[1])
        if hidden.shape[1] == max(lengths):
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")

    handle = loaded.adapter.layers[1].register_forward_pre_hook(exhaust, with_kwargs=True)
    try:
        settings = (RunSpec("seats 10%", SeatsConfig(retain=0.1)),)
        found = run_profile(loaded, lambda: clip, "What?", settings, repeats=1, new_tokens=2)
    finally:
        handle.remove()
    assert found.full is None
    assert [(run.label, run.error) for run in found.failed] == [
        ("full", "Out of memory on the GPU in the warm-up.")
    ]
    assert [run.label for run in found.runs] == ["seats 10%"]
