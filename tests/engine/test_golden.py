"""Every end-to-end run recorded from the authors' code, reproduced by hooks on stock models."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from seats_cli.engine.generate import cache_argument
from seats_cli.engine.prune import prune
from tests.engine import golden
from tests.engine.golden import Run

LOGITS = {"atol": 1e-4, "rtol": 0.0}


@cache
def model(family: str, attention: str = "sdpa") -> Any:
    return golden.build(family, attention)


@torch.no_grad()
@pytest.mark.parametrize("run", golden.runs(), ids=lambda run: f"{run.family}-{run.key}")
def test_run_equals_reference(run: Run) -> None:
    net = model(run.family)
    plan = golden.plan(run)
    with prune(net, plan) as pruned:
        output = net(**golden.inputs(run), use_cache=True)
        stages = {stage.after_layer: stage for stage in pruned.trace.stages}

        kept = golden.expected(run, "stage1_keep_mask").nonzero()[:, 0]
        assert torch.equal(stages[0].kept, kept)
        acting = [*plan.drop_layers, *([plan.late_layer - 1] if plan.late_layer else [])]
        recorded = [n for n in range(len(acting)) if golden.has(run, f"drop{n}_kept_indices")]
        for number in recorded:
            stage = stages[acting[number]]
            assert torch.equal(
                stage.kept, golden.expected(run, f"drop{number}_kept_indices").long()
            )
            if golden.has(run, f"drop{number}_scores"):
                torch.testing.assert_close(
                    stage.scores, golden.expected(run, f"drop{number}_scores"), atol=2e-6, rtol=0
                )
        assert torch.equal(
            pruned.trace.stages[-1].kept, golden.expected(run, "final_kept_indices").long()
        )
        torch.testing.assert_close(
            output.logits[0, -1], golden.expected(run, "logits_last"), **LOGITS
        )
        if golden.has(run, "logits_tail"):
            torch.testing.assert_close(
                output.logits[0, -4:], golden.expected(run, "logits_tail"), **LOGITS
            )

        name = cache_argument(net)
        cache = output[name]
        for step, token in enumerate(golden.expected(run, "decode_tokens").tolist()):
            output = net(input_ids=torch.tensor([[token]]), use_cache=True, **{name: cache})
            torch.testing.assert_close(
                output.logits[0, -1], golden.expected(run, "decode_logits")[step], **LOGITS
            )
