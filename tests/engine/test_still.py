"""Stage 0 in stock models: exact where it must be, and invisible to what follows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from seats_cli.config import SeatsConfig
from seats_cli.cost.flops import packed_vision_flops, vision_flops
from seats_cli.engine.answer import ask
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.encoder_reuse import EncoderReuse
from seats_cli.engine.prune import prune
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import LoadedModel, adapter_for, load_model
from seats_cli.models.optimize import use_for_encoders
from tests.engine import golden
from tests.engine.golden import Run

CASES = {"qwen2_5": "four_windows", "qwen3": "long_ragged"}
CONFIG = SeatsConfig(retain_video=0.6, retain_audio=0.7)
FULL = SeatsConfig(method="full")


@pytest.fixture(scope="module", params=["qwen2_5", "qwen3"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str) -> Any:
    return golden.build(family, "sdpa")


@pytest.fixture(scope="module")
def moving(family: str) -> dict[str, Any]:
    return golden.inputs(Run(family, CASES[family], ""))


@pytest.fixture(scope="module")
def still(moving: dict[str, Any]) -> dict[str, Any]:
    """Every third grid is new, the others repeat it."""
    times = int(moving["video_grid_thw"][0, 0])
    pixels = moving["pixel_values_videos"]
    grids = pixels.view(times, -1, pixels.shape[-1])
    return {**moving, "pixel_values_videos": grids[torch.arange(times) // 3 * 3].flatten(0, 1)}


def run(
    model: Any, inputs: dict[str, Any], config: SeatsConfig, cache: EncoderCache | None = None
) -> tuple[list[list[int]], Tensor, Any]:
    with torch.no_grad(), prune(model, config, encoder_cache=cache) as pruned:
        logits = model(**inputs).logits[0, -1]
    return [stage.kept.tolist() for stage in pruned.trace.stages], logits, pruned.still


@contextmanager
def encoded(model: Any) -> Iterator[list[int]]:
    """Patches that reach the first vision block, call by call."""
    sizes: list[int] = []
    handle = (
        adapter_for(model)
        .visual.blocks[0]
        .register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
    )
    try:
        yield sizes
    finally:
        handle.remove()


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, method="visionzip-om"), FULL])
def test_repeats_change_nothing(model: Any, still: dict[str, Any], config: SeatsConfig) -> None:
    plain = run(model, still, config)
    with encoded(model) as sizes:
        skipping = run(model, still, replace(config, still_tolerance=0))
    times, height, width = still["video_grid_thw"][0].tolist()
    assert sizes == [-(-times // 3) * height * width]
    assert skipping[0] == plain[0]
    assert torch.allclose(skipping[1], plain[1], atol=1e-5)
    facts = skipping[2]
    assert (facts.whole_grids, facts.still_grids) == (-(-times // 3), times - -(-times // 3))
    assert facts.grids == times
    assert facts.partial_grids == 0


def test_where_everything_moves_all_is_encoded(model: Any, moving: dict[str, Any]) -> None:
    plain, skipping = (
        run(model, moving, replace(CONFIG, still_tolerance=level)) for level in (None, 0)
    )
    assert skipping[0] == plain[0]
    assert torch.equal(skipping[1], plain[1])
    assert plain[2] is None
    assert skipping[2].saved_flops == 0
    assert skipping[2].encoded_tokens == skipping[2].tokens


@pytest.mark.parametrize("attention", ["eager", "seats_segments_as_flash"])
def test_every_attention(model: Any, still: dict[str, Any], attention: str) -> None:
    with use_for_encoders(adapter_for(model), attention):
        plain, skipping = (
            run(model, still, replace(CONFIG, still_tolerance=level)) for level in (None, 0)
        )
    assert skipping[0] == plain[0]
    assert torch.allclose(skipping[1], plain[1], atol=1e-5)


@contextmanager
def one_block(model: Any, *, full: bool) -> Iterator[Any]:
    """An encoder of one block, whose new places depend on nothing but pixels that are there."""
    adapter = adapter_for(model)
    visual, vision = adapter.visual, adapter.config.vision_config
    blocks = visual.blocks
    names = [name for name in ("fullatt_block_indexes", "depth") if hasattr(vision, name)]
    before = {name: getattr(vision, name) for name in names}
    deep = getattr(visual, "deepstack_visual_indexes", None)
    visual.blocks, vision.depth = blocks[:1], 1
    if "fullatt_block_indexes" in names:
        vision.fullatt_block_indexes = visual.fullatt_block_indexes = [0] if full else []
    if deep is not None:
        visual.deepstack_visual_indexes = [0]
    try:
        yield adapter_for(model)
    finally:
        visual.blocks = blocks
        for name, value in before.items():
            setattr(vision, name, value)
        if "fullatt_block_indexes" in names:
            visual.fullatt_block_indexes = before["fullatt_block_indexes"]
        if deep is not None:
            visual.deepstack_visual_indexes = deep


@pytest.mark.parametrize("full", [True, False], ids=["whole", "windows"])
@pytest.mark.parametrize("cell", [1, 2])
def test_new_places_see_all_that_is_there(
    model: Any, moving: dict[str, Any], cell: int, full: bool
) -> None:
    """Several clips in one call; only some places of the later grids change."""
    width = moving["pixel_values_videos"].shape[-1]
    grid_thw = torch.tensor([[3, 8, 16], [1, 4, 4], [2, 8, 8]])
    draw = torch.Generator().manual_seed(5)
    first = [torch.randn(int(h * w), width, generator=draw) for _, h, w in grid_thw.tolist()]
    second, third, last = first[0].clone(), first[0].clone(), first[2].clone()
    second[4:6] = torch.randn(2, width, generator=draw)
    third[4:6], third[13] = second[4:6], torch.randn(width, generator=draw)
    last[:9] = torch.randn(9, width, generator=draw)
    pixels = torch.cat([first[0], second, third, first[1], first[2], last])
    with torch.no_grad(), one_block(model, full=full) as adapter:
        expected = adapter.visual(pixels, grid_thw=grid_thw)
        skip = EncoderReuse(adapter, 0.0, cell=cell)
        with skip.attach(), encoded(model) as sizes:
            output = adapter.visual(pixels, grid_thw=grid_thw)
        packing = skip.packing
    assert packing is not None
    assert sizes == [4 * len(packing.chosen)]
    assert len(packing.chosen) < len(pixels) // 4
    pairs = [(output.pooler_output, expected.pooler_output)]
    pairs += zip(
        getattr(output, "deepstack_features", ()),
        getattr(expected, "deepstack_features", ()),
        strict=True,
    )
    for found, wanted in pairs:
        assert found.shape == wanted.shape
        assert torch.allclose(found[packing.chosen], wanted[packing.chosen], atol=1e-5)
        assert torch.equal(found, found[packing.chosen][packing.place])
    assert output.last_hidden_state.shape == expected.last_hidden_state.shape


def test_a_memory_keeps_tolerances_apart(model: Any, still: dict[str, Any]) -> None:
    pixels = still["pixel_values_videos"]
    grainy = {**still, "pixel_values_videos": pixels + 1e-3 * torch.randn_like(pixels)}
    levels = (None, 0, 2, 0)
    cache, configs = EncoderCache(), [replace(CONFIG, still_tolerance=level) for level in levels]
    with encoded(model) as sizes:
        shared = [run(model, grainy, config, cache) for config in configs]
    assert len(sizes) == 3
    assert sizes[0] == sizes[1] > sizes[2]
    for config, outcome in zip(configs, shared, strict=True):
        alone = run(model, grainy, config)
        assert outcome[0] == alone[0]
        assert torch.equal(outcome[1], alone[1])
        assert outcome[2] == alone[2]


def test_a_call_with_settings_of_its_own_is_left_alone(model: Any, still: dict[str, Any]) -> None:
    adapter = adapter_for(model)
    grid_thw, pixels = still["video_grid_thw"], still["pixel_values_videos"]
    with torch.no_grad(), EncoderReuse(adapter, 0.0).attach(), encoded(model) as sizes:
        output = adapter.visual(pixels, grid_thw=grid_thw, output_hidden_states=True)
        adapter.visual(pixels, grid_thw)
    assert len(output.hidden_states[0]) == len(pixels)
    assert sizes[0] == len(pixels) > sizes[1]


def test_grey_levels_are_never_understated(model: Any, family: str) -> None:
    """The class both families name has Qwen2.5-Omni's scale; checkpoints may set another."""
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    own, usual = adapter_for(model).pixel_std, tuple(Qwen2VLVideoProcessor.image_std)
    assert all(mine >= theirs - 1e-9 for mine, theirs in zip(own, usual, strict=True))
    if family == "qwen2_5":
        assert own == pytest.approx(usual)


def test_a_picture_is_encoded(model: Any, moving: dict[str, Any]) -> None:
    adapter = adapter_for(model)
    pixels = torch.randn(48, moving["pixel_values_videos"].shape[-1])
    grid_thw = torch.tensor([[1, 6, 8]])
    with torch.no_grad():
        expected = adapter.visual(pixels, grid_thw=grid_thw).pooler_output
        with EncoderReuse(adapter, 255.0).attach():
            assert torch.equal(adapter.visual(pixels, grid_thw=grid_thw).pooler_output, expected)


def test_the_model_is_left_as_it_was(model: Any, still: dict[str, Any]) -> None:
    adapter = adapter_for(model)
    adapter.visual.forward = mine = adapter.visual.forward  # as accelerate puts it there
    found = adapter.vision_attention.config._attn_implementation
    hooks = len(adapter.visual._forward_pre_hooks)
    stop = adapter.visual.merger.register_forward_pre_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            run(model, still, replace(CONFIG, still_tolerance=0), EncoderCache())
        assert vars(adapter.visual)["forward"] is mine
        assert "forward" not in vars(adapter.audio_tower)
        assert len(adapter.visual._forward_pre_hooks) == hooks
        assert adapter.vision_attention.config._attn_implementation == found
    finally:
        stop.remove()
        del adapter.visual.forward


class TestCost:
    def test_what_is_saved_is_what_is_not_executed(
        self, family: str, still: dict[str, Any]
    ) -> None:
        model = golden.build(family, "eager")  # consists of products that the counter knows
        adapter = adapter_for(model)
        given = (still["pixel_values_videos"], still["video_grid_thw"])

        def counted() -> int:
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                adapter.visual(*given)
            return int(counter.get_total_flops())

        everything, skip = counted(), EncoderReuse(adapter, 0.0)
        with skip.attach():
            rest = counted()
        skip.finish()
        assert skip.facts is not None
        assert everything - rest == pytest.approx(skip.facts.saved_flops, rel=1e-6)

    def test_all_patches_packed_cost_what_grids_cost(self, model: Any) -> None:
        shape = adapter_for(model).architecture().vision
        full = 2 * 48**2
        side = None if shape.window_size is None else shape.window_size // shape.patch_size
        windowed = full if side is None else 2 * (2 * 16**2 + 2 * 8**2)
        assert side in (None, 4)
        assert packed_vision_flops(shape, 96, full, windowed) == vision_flops(shape, [(2, 6, 8)])


class TestAsk:
    """With the bundled model, through the way that users take."""

    @pytest.fixture(scope="class")
    def loaded(self) -> LoadedModel:
        return load_model("bundled", device="cpu")

    @pytest.mark.parametrize("config", [SeatsConfig(retain=0.25), FULL], ids=["seats", "full"])
    def test_a_still_clip_costs_one_grid(self, loaded: LoadedModel, config: SeatsConfig) -> None:
        clip = synthetic_clip(4.0, fps=2.0, max_frames=8, sizing=loaded.sizing, audio=True)
        assert clip.frames is not None
        clip.frames[:] = clip.frames[0]
        plain = ask(loaded, clip, "What is shown?", config=config)
        found = ask(loaded, clip, "What is shown?", config=replace(config, still_tolerance=1.0))
        assert found.token_ids == plain.token_ids
        facts = found.cost.still
        assert facts is not None
        assert plain.cost.still is None
        assert (facts.grids, facts.whole_grids, facts.still_grids) == (4, 1, 3)
        assert found.cost.full_encoder_flops == plain.cost.encoder_flops
        assert found.cost.encoder_flops == plain.cost.encoder_flops - facts.saved_flops
        assert facts.saved_flops > 0
