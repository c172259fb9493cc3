"""Which calls of the text model may use cuDNN's attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.backends import cuda

from seats_cli.engine.prune import prune
from seats_cli.models.optimize import without_cudnn_sdpa
from seats_cli.models.registry import adapter_for
from tests.engine import golden
from tests.engine.golden import FAMILIES, Run


@pytest.fixture(autouse=True)
def allowed() -> Any:
    before = cuda.cudnn_sdp_enabled()
    cuda.enable_cudnn_sdp(True)
    yield
    assert cuda.cudnn_sdp_enabled()  # as it was found
    cuda.enable_cudnn_sdp(before)


def noting(model: Any) -> tuple[list[bool], Any]:
    seen: list[bool] = []

    def note(*_: Any) -> None:
        seen.append(cuda.cudnn_sdp_enabled())

    return seen, adapter_for(model).layers[0].register_forward_hook(note)


def case(family: str) -> Run:
    name = {"qwen2_5": "twelve_ragged", "qwen3": "long_ragged"}[family]
    return Run(family, name, "seats_a")


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_an_unpruned_prompt_may_and_the_answer_may_not(family: str) -> None:
    model = golden.build(family)
    seen, _ = noting(model)
    with without_cudnn_sdpa(adapter_for(model), prefill=False):
        model.generate(**golden.inputs(case(family)), max_new_tokens=3, do_sample=False)
    assert seen == [True, False, False]
    assert "forward" not in vars(adapter_for(model).language_model)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_run_may_not(family: str) -> None:
    model = golden.build(family)
    seen, _ = noting(model)
    with prune(model, golden.plan(case(family))):
        model.generate(**golden.inputs(case(family)), max_new_tokens=3, do_sample=False)
    assert seen == [False] * 3


def test_an_error_leaves_it_allowed() -> None:
    model = golden.build("qwen2_5")

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    adapter_for(model).layers[0].register_forward_hook(fail)
    with (
        pytest.raises(KeyboardInterrupt),
        without_cudnn_sdpa(adapter_for(model), prefill=True),
    ):
        model(**golden.inputs(case("qwen2_5")))


@torch.no_grad()
def test_what_is_off_stays_off() -> None:
    model = golden.build("qwen2_5")
    cuda.enable_cudnn_sdp(False)
    try:
        with without_cudnn_sdpa(adapter_for(model), prefill=True):
            model(**golden.inputs(case("qwen2_5")))
        assert not cuda.cudnn_sdp_enabled()
    finally:
        cuda.enable_cudnn_sdp(True)
