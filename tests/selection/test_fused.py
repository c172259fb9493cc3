"""The Triton kernels against the plain version, in Triton's interpreter and on a GPU."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from seats_cli.selection import device
from seats_cli.selection.diversity import (
    _greedy_max_min,
    select_diverse_in_windows,
    weighted_distances,
)
from seats_cli.selection.importance import _received, received_attention

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(scope="module")
def interpreted() -> Any:
    """The launching module over kernels that Triton interprets on the CPU."""
    triton = pytest.importorskip("triton")
    if not triton.knobs.runtime.interpret:
        pytest.skip("Triton compiles for the GPU here")
    return importlib.import_module("seats_cli.selection.stage1_kernels")


def random_distances(windows: int, size: int, seed: int, ties: bool) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(windows, size, 6, generator=draw)
    importance = torch.rand(windows, size, generator=draw)
    if ties:  # few values, so that many are equal
        features, importance = features.sign(), importance.round(decimals=1)
    return weighted_distances(features, importance)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_the_greedy_choice_is_the_plain_one(interpreted: Any, data: st.DataObject) -> None:
    windows, size = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 40))
    keep = data.draw(st.integers(1, size - 1))
    seed, ties = data.draw(st.integers(0, 99)), data.draw(st.booleans())
    distance = random_distances(windows, size, seed, ties)
    assert torch.equal(interpreted.greedy_max_min(distance, keep), _greedy_max_min(distance, keep))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("size", "heads", "width"), [(5, 2, 4), (70, 3, 20), (130, 1, 80)])
def test_received_attention_is_the_plain_one(
    interpreted: Any, size: int, heads: int, width: int, dtype: torch.dtype
) -> None:
    # windows that do not touch, in tensors that are not contiguous
    both = torch.randn(3 * size + 5, heads, 2, width, generator=torch.manual_seed(size)).to(dtype)
    query, key = both.unbind(2)
    starts = torch.tensor([0, size, 2 * size + 5])
    found = interpreted.received_in_windows(query, key, starts, size)
    plain = _received(query, key, starts.unsqueeze(1) + torch.arange(size))
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-5)


def test_the_cpu_is_left_to_the_plain_version() -> None:
    assert not device.usable(CPU)
    assert device.greedy_max_min(torch.rand(1, 4, 4), 2) is None
    noise = torch.rand(8, 1, 4)
    assert device.received_in_windows(noise, noise, torch.tensor([0]), 8) is None


def test_what_cannot_be_built_is_said_once_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device._Switch, "on", True)
    monkeypatch.setattr(device, "usable", lambda _device: device._Switch.on)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: pytest.MonkeyPatch.context())
    calls: list[int] = []

    def refuse(*_args: Any) -> Tensor:
        calls.append(1)
        raise RuntimeError("no compiler")

    pytest.importorskip("triton")
    monkeypatch.setattr("seats_cli.selection.stage1_kernels.greedy_max_min", refuse)
    distance = random_distances(1, 9, 0, ties=False)
    with pytest.warns(RuntimeWarning, match="without Triton kernels.*no compiler"):
        first = _greedy_max_min(distance, 4)
    assert torch.equal(first, _greedy_max_min(distance, 4))
    assert len(calls) == 1


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("windows", "size", "keep"), [(30, 460, 130), (3, 1536, 700), (1, 2, 1)])
def test_the_greedy_choice_on_a_gpu(windows: int, size: int, keep: int, ties: bool) -> None:
    distance = random_distances(windows, size, 1, ties).cuda()
    chosen = device.greedy_max_min(distance, keep)
    assert chosen is not None
    with device.plain():
        assert torch.equal(chosen, _greedy_max_min(distance, keep))
    assert torch.equal(chosen.cpu(), _greedy_max_min(distance.cpu(), keep))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("size", "heads", "width"), [(1840, 16, 80), (100, 20, 64), (333, 2, 72)])
def test_received_attention_on_a_gpu(size: int, heads: int, width: int, dtype: torch.dtype) -> None:
    draw = torch.Generator("cuda").manual_seed(size)
    shape = (4 * size + 7, heads, width)
    query, key = (torch.randn(shape, device="cuda", generator=draw).to(dtype) for _ in range(2))
    found = received_attention(query, key, size)
    assert device.usable(query.device)
    with device.plain():
        plain = received_attention(query, key, size)
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)
    assert torch.equal(found, received_attention(query, key, size))


@pytest.mark.gpu
@needs_gpu
def test_the_whole_of_stage_one_on_a_gpu() -> None:
    draw = torch.Generator("cuda").manual_seed(0)
    features = torch.randn(2300, 64, device="cuda", generator=draw)
    importance = torch.rand(2300, device="cuda", generator=draw)
    kept = select_diverse_in_windows(features, importance, 460, 0.3)
    with device.plain():
        assert torch.equal(kept, select_diverse_in_windows(features, importance, 460, 0.3))


@pytest.mark.gpu
@needs_gpu
def test_stage_one_does_not_wait_for_the_gpu() -> None:
    query, key = torch.randn(2, 2300, 4, 16, device="cuda", dtype=torch.float16)
    features = torch.randn(2300, 64, device="cuda")

    def both() -> Tensor:
        importance = received_attention(query, key, 920)
        return select_diverse_in_windows(features, importance, 460, 0.3)

    expected = both()  # the kernels are compiled in here
    torch.cuda.set_sync_debug_mode("error")
    try:
        kept = both()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(kept, expected)
