"""A row of a batch is the row alone: padding is nobody's question, and no token of its account."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from seats_cli.config import SeatsConfig
from seats_cli.engine.prune import prune
from seats_cli.models.adapter import Adapter
from seats_cli.models.method_weights import note_folder
from seats_cli.models.registry import adapter_for
from seats_cli.selection.method import class_of, options_of
from seats_cli.selection.methods import METHODS
from seats_cli.selection.trace import SelectionTrace
from tests.cost.test_pruned_executed import cost
from tests.engine import test_methods
from tests.engine.conftest import selector_weights, sieve_weights
from tests.selection.test_seats_plus import EVERYTHING

OPTIONS = {"fastv_layer": 3, "contextual_ratio": 0.1, **EVERYTHING, "merging_own": 0.4}
OPTIONS["importance_power"] = 0.5
OPTIONS.pop("allocation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the trained methods, for the small models of the golden runs."""
    path = tmp_path_factory.mktemp("trained")
    adapter: Adapter = adapter_for(test_methods.model("qwen2_5"))
    save_file(sieve_weights(adapter), path / "echoingpixels.safetensors")
    width = adapter.architecture().hidden_size
    selector = {f"compressor.{name}": part for name, part in selector_weights(width, 16, 4).items()}
    save_file(selector, path / "omnisift.safetensors")
    return path


@cache
def padded(prompt: str) -> dict[str, Any]:
    """The prompt between two tokens of padding on the left and three on the right."""
    given = dict(test_methods.inputs("qwen2_5", prompt))
    for name in ("input_ids", "attention_mask"):
        given[name] = torch.nn.functional.pad(given[name], (2, 3))
    return given


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prompt", ["ragged", "text only"])
def test_a_padded_row_is_the_row_alone(prompt: str, method: str, folder: Path) -> None:
    net = test_methods.model("qwen2_5")
    note_folder(net, folder)
    own = {option.name: OPTIONS[option.name] for option in options_of(class_of(METHODS[method]))}
    used = SeatsConfig(method=method, retain_video=0.6, retain_audio=0.7, seed=3, options=own)

    def run(given: dict[str, Any]) -> tuple[SelectionTrace, torch.Tensor, int]:
        with torch.no_grad(), prune(net, used) as pruned:
            logits = net(**given).logits[0, -1]
        assert pruned.method is not None
        assert pruned.trace is not None
        spent = cost(net, given, pruned.trace, pruned.method).selection_flops
        return pruned.trace, logits, spent

    alone, wanted, spent = run(test_methods.inputs("qwen2_5", prompt))
    trace, logits, with_padding = run(padded(prompt))
    assert len(trace.stages) == len(alone.stages)
    for one, other in zip(alone.stages, trace.stages, strict=True):
        assert torch.equal(one.kept + 2, other.kept)
        assert one.text == alone.offered[2]
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)
    assert trace.question == alone.question > 0
    if method != "echoingpixels" or not alone.stages[0].video:
        assert with_padding == spent
    else:
        assert with_padding > spent  # its refiner runs on all that the prompt has
