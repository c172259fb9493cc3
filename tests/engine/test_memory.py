"""A clip encoded once serves every question, budget and method as if encoded for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.prune import prune
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import LoadedModel, adapter_for, load_model, prepare_clip
from tests.engine import golden
from tests.engine.golden import Run

METHODS = ("seats", "random", "visionzip-om", "omnizip", "fastv")
CONFIGS = [
    *(SeatsConfig(method=method, retain_video=0.6, retain_audio=0.7) for method in METHODS),
    None,
]
Outcome = tuple[list[list[int]], torch.Tensor]


@pytest.fixture(scope="module", params=["qwen2_5", "qwen3"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str) -> Any:
    return golden.build(family, "sdpa")


@pytest.fixture(scope="module")
def inputs(family: str) -> dict[str, Any]:
    return golden.inputs(Run(family, "audio_longer", ""))


@contextmanager
def counted(model: Any) -> Iterator[list[str]]:
    """The encoders' real passes: their first layers are reached."""
    adapter, passes = adapter_for(model), []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: passes.append(name)

    handles = [
        adapter.visual.blocks[0].register_forward_pre_hook(note("video")),
        adapter.audio_tower.layers[0].register_forward_pre_hook(note("audio")),
    ]
    try:
        yield passes
    finally:
        for handle in handles:
            handle.remove()


def run(
    model: Any,
    inputs: dict[str, Any],
    config: SeatsConfig | None,
    encoder_cache: EncoderCache | None = None,
) -> Outcome:
    context: Any = nullcontext()
    if config is not None:
        context = prune(model, config, encoder_cache=encoder_cache)
    elif encoder_cache is not None:
        context = encoder_cache.attach(adapter_for(model), None)
    with torch.no_grad(), context as pruned:
        logits = model(**inputs).logits[0, -1]
    stages = [] if pruned is None else pruned.trace.stages
    return [stage.kept.tolist() for stage in stages], logits


def same(one: Outcome, other: Outcome) -> bool:
    return one[0] == other[0] and torch.equal(one[1], other[1])


def test_every_method_as_if_alone(model: Any, inputs: dict[str, Any]) -> None:
    encoder_cache = EncoderCache()
    with counted(model) as passes:
        shared = [run(model, inputs, config, encoder_cache) for config in CONFIGS]
        assert sorted(passes) == ["audio", "video"]
    for config, outcome in zip(CONFIGS, shared, strict=True):
        assert same(outcome, run(model, inputs, config))


def test_unpruned_first_has_no_statistics_to_offer(model: Any, inputs: dict[str, Any]) -> None:
    encoder_cache = EncoderCache()
    run(model, inputs, None, encoder_cache)
    assert same(run(model, inputs, CONFIGS[0], encoder_cache), run(model, inputs, CONFIGS[0]))


def test_another_clip_is_not_taken_for_the_first(model: Any, inputs: dict[str, Any]) -> None:
    encoder_cache = EncoderCache()
    run(model, inputs, CONFIGS[0], encoder_cache)
    pixels = inputs["pixel_values_videos"]
    other = {**inputs, "pixel_values_videos": pixels.flip(0)}
    with counted(model) as passes:
        outcome = run(model, other, CONFIGS[0], encoder_cache)
        assert passes == ["video"]  # the sound is the same
    assert same(outcome, run(model, other, CONFIGS[0]))


def test_another_window_needs_new_statistics(model: Any, inputs: dict[str, Any]) -> None:
    encoder_cache, wide = (
        EncoderCache(),
        SeatsConfig(retain_video=0.6, retain_audio=0.7, video_window=1, audio_window=20),
    )
    run(model, inputs, CONFIGS[0], encoder_cache)
    assert same(run(model, inputs, wide, encoder_cache), run(model, inputs, wide))


def test_the_model_is_left_as_it_was(model: Any, inputs: dict[str, Any]) -> None:
    adapter = adapter_for(model)
    adapter.visual.forward = mine = adapter.visual.forward  # as accelerate puts it there
    try:
        stop = model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(model, inputs, CONFIGS[0], EncoderCache())
        stop.remove()
        assert vars(adapter.visual)["forward"] is mine
        assert "forward" not in vars(adapter.audio_tower)
    finally:
        del adapter.visual.forward


class TestAsk:
    """Several questions about one prepared clip."""

    @pytest.fixture(scope="class")
    def loaded(self) -> LoadedModel:
        return load_model("bundled", device="cpu")

    def test_answers_are_those_of_separate_calls(self, loaded: LoadedModel) -> None:
        clip = synthetic_clip(5.0, fps=2.0, max_frames=8, sizing=loaded.sizing, audio=True)
        prepared, encoder_cache = prepare_clip(loaded, clip), EncoderCache()
        for question in ("What is shown first?", "What is heard?"):
            for config in (SeatsConfig(retain=0.25), None):
                shared = ask(loaded, prepared, question, config=config, encoder_cache=encoder_cache)
                apart = ask(loaded, clip, question, config=config)
                assert shared.token_ids == apart.token_ids
                assert shared.media == apart.media
                assert shared.cost.prefill_flops == apart.cost.prefill_flops
