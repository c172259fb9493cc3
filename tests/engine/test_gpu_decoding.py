"""Decoding by a captured CUDA graph; skipped where there is no CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from seats_cli.config import SeatsConfig
from seats_cli.engine import graph_decode
from seats_cli.engine.answer import ask
from seats_cli.engine.graph_decode import Decoding
from seats_cli.engine.prune import prune
from seats_cli.engine.static_cache import CHUNK, one_query_attention
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import load_model
from seats_cli.models.registry import adapter_for
from tests.engine import golden
from tests.engine.golden import Run
from tests.engine.test_gpu import CASES, on_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NEW = 24
GRAPH = "captured graph"
SAMPLING = {"do_sample": True, "temperature": 1.3, "top_p": 0.95, "top_k": 0}


@cache
def net(family: str, dtype: torch.dtype = torch.float32) -> Any:
    return golden.build(family).to("cuda", dtype)


@pytest.fixture(autouse=True)
def nothing_learnt_stays() -> Iterator[None]:
    graph_decode._unfit.clear()
    yield
    graph_decode._unfit.clear()


def generate(
    model: Any, family: str, kv: str | None, stock: bool, **settings: Any
) -> tuple[list[int], Tensor, str]:
    """Tokens, the last hidden state of each step, and how it ran."""
    adapter, run = adapter_for(model), Run(family, CASES[family], "seats_a")
    inputs = on_gpu(golden.inputs(run), model.dtype)
    pruning: AbstractContextManager[Any] = nullcontext()
    if kv is not None:
        pruning = prune(model, golden.plan(run, kv))
    states: list[Tensor] = []
    handle = adapter.language_model.register_forward_hook(
        lambda _module, _args, output: states.append(output.last_hidden_state[0, -1].clone())
    )
    torch.manual_seed(5)
    try:
        # an answer of one token leaves everything stock
        steps = Decoding(adapter, 1 if stock else NEW).attach()
        with torch.inference_mode(), pruning, steps as decoding:
            output = model.generate(
                **inputs,
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                **{"do_sample": False, **settings},
            )
    finally:
        handle.remove()
    return output[0, inputs["input_ids"].shape[1] :].tolist(), torch.stack(states), decoding.how


@pytest.mark.parametrize("kv", [None, "survivors", "layerwise"])
def test_a_graph_gives_what_single_kernels_do(kv: str | None) -> None:
    model = net("qwen2_5")
    tokens, states, how = generate(model, "qwen2_5", kv, stock=True)
    ours, our_states, our_how = generate(model, "qwen2_5", kv, stock=False)
    assert (how, our_how) == ("dynamic cache", GRAPH)
    assert ours == tokens
    torch.testing.assert_close(our_states, states, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kv", [None, "layerwise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_experts_are_captured_or_left_alone(dtype: torch.dtype, kv: str | None) -> None:
    """Which of the two depends on what transformers runs the experts with."""
    model = net("qwen3", dtype)
    tokens, states, _ = generate(model, "qwen3", kv, stock=True)
    ours, our_states, how = generate(model, "qwen3", kv, stock=False)
    assert how == GRAPH or how.startswith("dynamic cache (not recorded: ")
    assert torch.isfinite(our_states).all()
    if dtype is torch.float32:
        assert ours == tokens
        torch.testing.assert_close(our_states, states, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kv", [None, "layerwise"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_is_as_near_as_its_digits(dtype: torch.dtype, kv: str | None) -> None:
    model = net("qwen2_5", dtype)
    tokens, states, _ = generate(model, "qwen2_5", kv, stock=True)
    ours, our_states, how = generate(model, "qwen2_5", kv, stock=False)
    assert how == GRAPH
    # state k is what token k is chosen from; behind the first other choice nothing is comparable
    pairs = enumerate(zip(tokens, ours, strict=True))
    same = next((number for number, (one, other) in pairs if one != other), NEW - 1)
    scale = states[: same + 1].float().abs().max()
    torch.testing.assert_close(
        our_states[: same + 1].float() / scale,
        states[: same + 1].float() / scale,
        atol=0.05 if dtype is torch.bfloat16 else 0.01,
        rtol=0,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_attention_sums_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query = torch.randn(1, 28, 1, 128, dtype=dtype, device="cuda")
    key, value = torch.randn(2, 1, 4, 8 * CHUNK, 128, dtype=dtype, device="cuda")
    mask = torch.zeros(1, 1, 1, 8 * CHUNK, device="cuda")
    mask[..., 5 * CHUNK + 7 :] = float("-inf")
    found, _ = one_query_attention(torch.nn.Identity(), query, key, value, mask, scaling=0.088)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), mask, scale=0.088, enable_gqa=True
    )
    tolerance = 4e-3 if dtype is torch.bfloat16 else 5e-4
    torch.testing.assert_close(
        found.float(), expected.transpose(1, 2), atol=tolerance, rtol=tolerance
    )


def test_sampling_draws_the_same() -> None:
    model = net("qwen2_5")
    tokens = generate(model, "qwen2_5", "layerwise", stock=True, **SAMPLING)[0]
    ours, _, how = generate(model, "qwen2_5", "layerwise", stock=False, **SAMPLING)
    assert how == GRAPH
    assert ours == tokens


@contextmanager
def waiting(model: Any, when: Any) -> Iterator[None]:
    """A layer that waits for the device in steps of one token, if `when()` says so."""

    def wait(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] == 1 and when():
            hidden.sum().item()

    handle = adapter_for(model).layers[3].register_forward_pre_hook(wait, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("when", ["always", "capturing"])
def test_what_waits_for_the_device_is_not_captured(when: str) -> None:
    """Also where the rehearsal does not notice; the random numbers go on as they would have."""
    model = net("qwen2_5")
    tokens = generate(model, "qwen2_5", "layerwise", stock=True, **SAMPLING)[0]
    asked = torch.cuda.is_current_stream_capturing if when == "capturing" else lambda: True
    with waiting(model, asked):
        ours, _, how = generate(model, "qwen2_5", "layerwise", stock=False, **SAMPLING)
    assert how.startswith("dynamic cache (not recorded: ")
    assert ours == tokens
    assert torch.cuda.get_sync_debug_mode() == 0
    graph_decode._unfit.clear()
    ours, _, how = generate(model, "qwen2_5", "layerwise", stock=False, **SAMPLING)
    assert (how, ours) == (GRAPH, tokens)  # nothing of the failure is left


def test_memory_is_given_back() -> None:
    model = net("qwen2_5")
    generate(model, "qwen2_5", None, stock=False)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        generate(model, "qwen2_5", None, stock=False)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before + 2**16
    torch.cuda.empty_cache()
    reserved = torch.cuda.memory_reserved()
    generate(model, "qwen2_5", None, stock=False)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved + 2**21


@pytest.mark.parametrize("config", [None, SeatsConfig(retain=0.35)], ids=["full", "pruned"])
def test_an_answer_says_so(config: SeatsConfig | None) -> None:
    loaded = load_model("bundled", device="cuda")
    clip = synthetic_clip(4.0, sizing=loaded.sizing)
    answer = ask(loaded, clip, "What?", config=config, max_new_tokens=NEW, min_new_tokens=NEW)
    assert answer.timing.decoding == GRAPH
    assert len(answer.token_ids) == NEW
