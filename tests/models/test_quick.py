"""A stock model is sped up for a while, one that somebody has set up is not."""

from __future__ import annotations

import pytest
import torch

from seats_cli.engine.prune import prune
from seats_cli.models.optimize import SEGMENTS, encoder_attention, optimized, use_for_encoders
from seats_cli.models.registry import adapter_for
from tests.engine import golden
from tests.engine.golden import FAMILIES, Run


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_encoders_and_no_others(family: str) -> None:
    adapter = adapter_for(golden.build(family))
    with optimized(adapter):
        assert encoder_attention(adapter) == (SEGMENTS, SEGMENTS)
    assert encoder_attention(adapter) == ("sdpa", "sdpa")
    with use_for_encoders(adapter, "eager"), optimized(adapter):
        assert encoder_attention(adapter) == ("eager", "eager")


@torch.no_grad()
@pytest.mark.parametrize("quick", [True, False])
def test_prune_borrows_it_unless_told_not_to(quick: bool) -> None:
    model = golden.build("qwen2_5")
    adapter, seen = adapter_for(model), []
    adapter.visual.register_forward_hook(lambda *_: seen.append(encoder_attention(adapter)[0]))
    run = Run("qwen2_5", "twelve_ragged", "seats_a")
    with prune(model, golden.plan(run), quick=quick):
        model(**golden.inputs(run))
    assert seen == [SEGMENTS if quick else "sdpa"]
    assert encoder_attention(adapter) == ("sdpa", "sdpa")
