"""A stock model is sped up during a run, one that was set up on purpose is not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import pytest
import torch

from seats_cli.engine.prune import prune
from seats_cli.models import optimize
from seats_cli.models.optimize import (
    SEGMENTS,
    SWAPS,
    RunSwaps,
    Speedups,
    default_speedups,
    encoder_attention,
    installed,
    use_for_encoders,
)
from seats_cli.models.registry import adapter_for
from tests.engine import golden
from tests.engine.golden import FAMILIES, Run


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_encoders_and_no_others(family: str) -> None:
    adapter = adapter_for(golden.build(family))
    assert default_speedups(adapter) == Speedups(SEGMENTS, fused_modules=False)  # on a CPU
    with use_for_encoders(adapter, "eager"):
        assert default_speedups(adapter) == Speedups()


@torch.no_grad()
@pytest.mark.parametrize("faster", [True, False])
def test_prune_swaps_it_in_unless_asked_not_to(faster: bool) -> None:
    model = golden.build("qwen2_5")
    adapter, seen = adapter_for(model), []
    adapter.visual.register_forward_hook(lambda *_: seen.append(encoder_attention(adapter)[0]))
    run = Run("qwen2_5", "twelve_ragged", "seats_a")
    with prune(model, golden.plan(run), optimize=faster):
        model(**golden.inputs(run))
    assert seen == [SEGMENTS if faster else "sdpa"]
    assert encoder_attention(adapter) == ("sdpa", "sdpa")


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_mlps_in_pieces_give_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "MLP_ROWS", 7)
    adapter = adapter_for(golden.build(family))
    mlp, rows = adapter.vision_mlps[0], []
    width = next(mlp.parameters()).shape[1]
    hidden = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    whole = mlp(hidden)
    inner = next(part for part in mlp.modules() if isinstance(part, torch.nn.Linear))
    inner.register_forward_hook(lambda _module, args, _output: rows.append(len(args[0])))
    before = mlp.forward
    with optimize.mlps_in_pieces(adapter):
        torch.testing.assert_close(mlp(hidden), whole)
    assert rows == [7, 7, 7, 7, 7, 5]
    assert mlp.forward == before


class TestTheList:
    """`SWAPS`: its order, and what a run takes from it."""

    def entered(self, *, pruned: bool) -> list[str]:
        """Names of the parts that a run enters, in order, if the engine brings all."""
        names: list[str] = []

        def part(name: str) -> AbstractContextManager[None]:
            names.append(name)
            return nullcontext()

        adapter = adapter_for(golden.build("qwen2_5"))
        own = [swap.name for swap in SWAPS if swap.install is None]
        with installed(
            RunSwaps(adapter, pruned, parts={name: partial(part, name) for name in own})
        ):
            pass
        return names

    def test_an_unpruned_run_does_without_what_prunes(self) -> None:
        pruned, unpruned = self.entered(pruned=True), self.entered(pruned=False)
        assert pruned == [swap.name for swap in SWAPS if swap.install is None]
        assert [name for name in pruned if name not in unpruned] == [
            "guards",
            "static_regions",
            "encoder_statistics",
            "pruned_prefill",
            "one_prefill",
        ]

    def test_what_must_lie_in_what(self) -> None:
        place = {swap.name: number for number, swap in enumerate(SWAPS)}
        assert len(place) == len(SWAPS)
        assert (place["guards"], place["timing"]) == (0, 1)
        assert place["static_regions"] < place["encoder_cache"]
        assert place["static_regions"] < place["encoder_statistics"]
        assert place["without_cudnn_sdpa"] < place["decoding"] == len(SWAPS) - 1

    def test_no_other_names(self) -> None:
        with pytest.raises(ValueError, match="magic"):
            RunSwaps(adapter_for(golden.build("qwen2_5")), True, parts={"magic": nullcontext})
