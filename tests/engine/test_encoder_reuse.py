"""Encoder reuse in stock models of both families."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from seats_cli.config import SeatsConfig
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.encoder_reuse import EncoderReuse
from seats_cli.engine.prune import prune
from seats_cli.models import adapter_for
from seats_cli.models.optimize import use_for_encoders
from seats_cli.selection.alike_units import Likeness
from tests.engine import golden
from tests.engine.golden import Run

CASES = {"qwen2_5": "four_windows", "qwen3": "long_ragged"}
CONFIG = SeatsConfig(retain_video=0.6, retain_audio=0.7)
GRIDS = torch.tensor([[5, 6, 10], [1, 4, 4], [3, 4, 6]])  # ragged windows, and a picture
UNITS = torch.tensor([5 * 15, 4, 3 * 6])


@pytest.fixture(scope="module", params=["qwen2_5", "qwen3"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str) -> Any:
    return golden.build(family, "sdpa")


@pytest.fixture(scope="module")
def prompt(family: str) -> dict[str, Any]:
    return golden.inputs(Run(family, CASES[family], ""))


def pixels(model: Any, *, seed: int = 3) -> Tensor:
    """Of the clips of `GRIDS`."""
    side = adapter_for(model).architecture().vision.patch_size
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(int(GRIDS.prod(1).sum()), 6 * side**2, generator=draw)


def repeating(model: Any) -> Tensor:
    """Every clip repeats its first grid."""
    given = pixels(model).split(GRIDS.prod(1).tolist())
    return torch.cat(
        [
            part.view(t, h * w, -1)[:1].expand(t, -1, -1).flatten(0, 1)
            for part, (t, h, w) in zip(given, GRIDS.tolist(), strict=True)
        ]
    )


def encoded(
    model: Any, given: Tensor, likeness: Likeness, tolerance: float | None = None
) -> tuple[Any, EncoderReuse]:
    adapter = adapter_for(model)
    reuse = EncoderReuse(adapter, tolerance, likeness)
    with torch.no_grad(), reuse.attach():
        return adapter.visual(given, grid_thw=GRIDS), reuse


def features(output: Any) -> list[Tensor]:
    deep = getattr(output, "deepstack_features", None) or []
    return [output.pooler_output, *deep, output.last_hidden_state]


def stock(model: Any, given: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return features(adapter_for(model).visual(given, grid_thw=GRIDS))


@pytest.mark.parametrize("tolerance", [None, 0.0])
@pytest.mark.parametrize("likeness", [Likeness(1.0), Likeness(share=1.0)], ids=["cosine", "share"])
def test_nothing_alike_changes_no_bit(
    model: Any, likeness: Likeness, tolerance: float | None
) -> None:
    given = pixels(model)
    output, reuse = encoded(model, given, likeness, tolerance)
    for found, wanted in zip(features(output), stock(model, given), strict=True):
        assert torch.equal(found, wanted)
    facts = reuse.call_facts
    assert facts is not None
    assert facts.carried_tokens == facts.tokens == int(UNITS.sum())
    assert facts.saved_flops <= 0  # the comparison


@pytest.mark.parametrize("tolerance", [None, 0.0])
def test_everything_alike_gets_the_features_of_the_first_grid(
    model: Any, tolerance: float | None
) -> None:
    given = repeating(model)
    output, reuse = encoded(model, given, Likeness(0.999), tolerance)
    for found, wanted in zip(features(output), stock(model, given), strict=True):
        assert found.shape == wanted.shape
        assert torch.allclose(found, wanted, atol=1e-5)
    for tokens, (times, _, _) in zip(
        output.pooler_output.split(UNITS.tolist()), GRIDS.tolist(), strict=True
    ):
        grids = tokens.view(times, -1, tokens.shape[-1])
        assert torch.equal(grids, grids[:1].expand_as(grids))
    facts = reuse.call_facts
    assert facts is not None
    assert facts.carried_tokens == 15 + 4 + 6
    assert facts.compared_tokens == (97 if tolerance is None else 25)


@pytest.mark.parametrize("tolerance", [None, 0.0])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "seats_segments_as_flash"])
def test_what_follows_has_the_features_of_what_it_follows(
    model: Any, attention: str, tolerance: float | None
) -> None:
    given = pixels(model)
    with use_for_encoders(adapter_for(model), attention):
        output, reuse = encoded(model, given, Likeness(share=0.5), tolerance)
    sources, facts = reuse.sources(), reuse.call_facts
    assert sources is not None
    assert facts is not None
    assert 25 < facts.carried_tokens <= 49 + 4
    assert (sources != torch.arange(97)).sum() == 97 - facts.carried_tokens
    vision = adapter_for(model).architecture().vision
    late = [number >= facts.start_block for number in vision.deepstack_blocks]
    for tokens, shared in zip(features(output)[:-1], [True, *late], strict=True):
        assert torch.equal(tokens, tokens[sources]) is shared


def test_what_is_carried_still_sees_the_rest(model: Any) -> None:
    """A unit that alone differs in the last grid attends to the states of all others."""
    given = repeating(model)
    given[4 * 60 : 4 * 60 + 4] = torch.randn(4, given.shape[1])
    # Compared before the first block, where no other unit's states have changed.
    output, reuse = encoded(model, given, Likeness(0.999, start=0))
    assert reuse.call_facts is not None
    assert reuse.call_facts.carried_tokens == 25 + 1
    unit = 60  # the first of the last grid
    wanted = stock(model, given)[0][unit]
    error = (output.pooler_output[unit] - wanted).norm() / wanted.norm()
    assert error < 0.05  # what the others have learned of the unit is missing
    alone = stock_alone(model, given[4 * 60 : 4 * 60 + 4])
    assert (alone - wanted).norm() / wanted.norm() > 2 * error


def stock_alone(model: Any, given: Tensor) -> Tensor:
    """Token of a unit that sees no other."""
    with torch.no_grad():
        output = adapter_for(model).visual(given, grid_thw=torch.tensor([[1, 2, 2]]))
    tokens: Tensor = output.pooler_output[0]
    return tokens


def test_a_prompt_is_pruned_and_the_model_left_alone(model: Any, prompt: dict[str, Any]) -> None:
    adapter = adapter_for(model)
    blocks = [len(block._forward_pre_hooks) for block in adapter.vision_blocks]
    found = adapter.vision_attention.config._attn_implementation

    def run(config: SeatsConfig, cache: EncoderCache | None = None) -> Any:
        with torch.no_grad(), prune(model, config, encoder_cache=cache) as pruned:
            logits = model(**prompt).logits[0, -1]
        stages = [stage.kept.tolist() for stage in pruned.trace.stages]
        return stages, logits, pruned.carried

    plain, same = run(CONFIG), run(replace(CONFIG, encoder_reuse=1.0))
    assert same[0] == plain[0]
    assert torch.equal(same[1], plain[1])
    assert plain[2] is None
    cache, config = EncoderCache(), replace(CONFIG, encoder_keep=0.5)
    first, again, other = run(config, cache), run(config, cache), run(CONFIG, cache)
    assert first[0] == again[0]
    assert first[2] == again[2]
    assert first[2].carried_tokens < first[2].tokens
    assert torch.equal(first[1], again[1])
    assert other[0] == plain[0]  # not what the cache holds for the other setting
    assert not torch.equal(first[1], plain[1])
    stop = adapter.visual.merger.register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            run(config)
    finally:
        stop.remove()
    assert [len(block._forward_pre_hooks) for block in adapter.vision_blocks] == blocks
    assert adapter.vision_attention.config._attn_implementation == found
    assert "forward" not in vars(adapter.visual)


def test_of_a_still_picture_all_grids_are_kept_from(model: Any, prompt: dict[str, Any]) -> None:
    times, rows, columns = prompt["video_grid_thw"][0].tolist()
    grid = prompt["pixel_values_videos"][: rows * columns]
    still = {**prompt, "pixel_values_videos": grid.repeat(times, 1)}
    video = (prompt["input_ids"][0] == model.config.video_token_id).nonzero()[:, 0]
    size = rows * columns // 4

    def kept(**settings: float) -> tuple[list[int], list[int]]:
        """Tokens that Stage I keeps, and how many of the first and second grid of all windows."""
        config = replace(CONFIG, retain_video=0.3, **settings)
        with torch.no_grad(), prune(model, config) as pruned:
            model(**still)
        chosen = torch.isin(video, torch.as_tensor(pruned.trace.stages[0].kept))
        number = chosen.nonzero()[:, 0] // size
        return chosen.tolist(), [int((number % 2 == turn).sum()) for turn in (0, 1)]

    plain, _ = kept()
    assert kept(still_tolerance=0.0)[0] == plain  # exact repeats change nothing
    for setting in ({"still_tolerance": 1.0}, {"encoder_reuse": 0.999}):
        first, second = kept(**setting)[1]
        assert min(first, second) >= 0.3 * (first + second), setting


@pytest.mark.parametrize("tolerance", [None, 0.0])
@pytest.mark.parametrize("likeness", [Likeness(1.0), Likeness(share=0.5), Likeness(-1.0)])
def test_what_is_saved_is_what_is_not_executed(
    family: str, likeness: Likeness, tolerance: float | None
) -> None:
    model = golden.build(family, "eager")  # consists of products that the counter knows
    adapter = adapter_for(model)
    given = pixels(model)
    given[4 * 60 : 5 * 60 - 4] = given[3 * 60 : 4 * 60 - 4]  # all but a unit, for Stage 0
    given[-24:] = given[-48:-24]  # and a whole grid
    found = adapter.visual.config._attn_implementation

    def counted() -> int:
        # Attention to keys from elsewhere is PyTorch's own: as products, too.
        products = sdpa_kernel(SDPBackend.MATH)
        with torch.no_grad(), products, FlopCounterMode(display=False) as counter:
            adapter.visual(given, grid_thw=GRIDS)
        return int(counter.get_total_flops())

    everything, reuse = counted(), EncoderReuse(adapter, tolerance, likeness)
    with reuse.attach():
        rest = counted()
    assert reuse.call_facts is not None
    carried = reuse.call_facts
    reuse.finish([carried])
    saved = carried.saved_flops + (0 if reuse.facts is None else reuse.facts.saved_flops)
    assert everything - rest == pytest.approx(saved, rel=1e-6)
    assert adapter.visual.config._attn_implementation == found
    if tolerance is not None:
        assert reuse.facts is not None
        assert reuse.facts.encoded_tokens < reuse.facts.tokens
    with torch.no_grad():  # the stock encoder, as before
        adapter.visual(given, grid_thw=GRIDS)


def test_half_precision(family: str) -> None:
    model = golden.build(family, "sdpa").bfloat16()
    given = repeating(model).bfloat16()
    output, reuse = encoded(model, given, Likeness(0.99))
    assert reuse.call_facts is not None
    assert reuse.call_facts.carried_tokens == 25
    assert output.pooler_output.dtype == torch.bfloat16
