"""A stock model is sped up during a run, one that was set up on purpose is not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import pytest
import torch

from seats_cli.engine.prune import prune
from seats_cli.errors import ModelError
from seats_cli.models import optimize
from seats_cli.models.optimize import (
    SEGMENTS,
    SWAPS,
    RunSwaps,
    Speedups,
    default_speedups,
    encoder_attention,
    installed,
    sync_sections,
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


class TestSyncRope:
    """Rotary sections that a checkpoint was trained with."""

    @pytest.mark.parametrize(
        ("head_dim", "sections"),
        [(128, (18, 18, 18, 10)), (32, (5, 4, 4, 3)), (64, (9, 9, 9, 5)), (16, (3, 2, 2, 1))],
    )
    def test_sections(self, head_dim: int, sections: tuple[int, ...]) -> None:
        assert sync_sections(head_dim) == sections

    @torch.no_grad()
    @pytest.mark.parametrize("pruned", [True, False])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_angles(self, family: str, pruned: bool) -> None:
        model = golden.build(family)
        adapter = adapter_for(model)
        rotary, head_dim = adapter.language_model.rotary_emb, adapter.architecture().head_dim
        sections = sync_sections(head_dim)
        model.config.seats = {"rope_sections": list(sections)}
        positions = torch.tensor([[[0, 7, 30]], [[0, 2, 5]], [[1, 3, 4]]])  # time, height, width
        states = torch.zeros(1, 3, adapter.architecture().hidden_size)
        before = dict(vars(rotary)), rotary(states, positions)
        with installed(RunSwaps(adapter, pruned)):
            cos, sin = adapter.rotary(states, positions)
            text = torch.arange(3).expand(3, 1, -1)
            of_text = rotary(states, text)
        base = adapter.language_model.config.rope_parameters["rope_theta"]
        rows = [row for row, size in zip((0, 1, 2, 0), sections, strict=True) for _ in range(size)]
        for pair, row in enumerate(rows):
            angle = positions[row, 0] * base ** (-2 * pair / head_dim)
            for channel in (pair, pair + head_dim // 2):
                torch.testing.assert_close(cos[0, :, channel], angle.cos(), atol=1e-5, rtol=0)
                torch.testing.assert_close(sin[0, :, channel], angle.sin(), atol=1e-5, rtol=0)
        # The model is as it was, and text, whose rows are equal, turns as ever.
        assert dict(vars(rotary)) == before[0]
        torch.testing.assert_close(rotary(states, positions), before[1], atol=0, rtol=0)
        assert bool((before[1][0] != cos).any())
        torch.testing.assert_close(of_text, rotary(states, text), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("sections", [[1, 2, 3], [1, 1, 1, 1], "sync", [9, -1, 4, 4]])
    def test_sections_that_are_no_head(self, sections: object) -> None:
        model = golden.build("qwen2_5")
        model.config.seats = {"rope_sections": sections}
        with (
            pytest.raises(ModelError, match="must be four whole numbers that add up to"),
            installed(RunSwaps(adapter_for(model), True)),
        ):
            pass
        model.config.seats = {}
        assert "forward" not in vars(adapter_for(model).language_model.rotary_emb)


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
