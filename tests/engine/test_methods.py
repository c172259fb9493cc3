"""Every method on every kind of prompt, on both architectures."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from seats_cli.config import SCHEDULED, SeatsConfig
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.prune import prune
from seats_cli.errors import ConfigError
from seats_cli.models import adapter_for
from seats_cli.selection.methods import weightless_methods
from seats_cli.selection.trace import SelectionTrace
from tests.engine import golden
from tests.engine.golden import FAMILIES, Run

# What the inputs recorded for either family cover.
PROMPTS = {
    "qwen2_5": {
        "audio and video": "four_windows",
        "one window": "one_window",
        "ragged": "audio_longer",
        "one after the other": "no_interleave",
        "video only": "video_only",
        "audio only": "audio_only",
        "text only": "text_only",
    },
    "qwen3": {
        "audio and video": "one_sec_grids",
        "one window": "one_window",
        "ragged": "audio_longer",
        "one after the other": "no_interleave",
        "video only": "video_only",
        "audio only": "audio_only",
        "text only": "text_only",
    },
}
CELLS = [(family, prompt) for family in FAMILIES for prompt in PROMPTS[family]]
VIDEO, AUDIO = 0.6, 0.7

# Both targets form one budget of tokens: only their total is promised.
JOINT = {"fastv", "visionzip", "divprune", "dycoke", "omnidrop"}
# Each window is rounded by itself, to at least one token.
WINDOWED = {"visionzip", "visionzip-om", "divprune-om", "seats", "seats-plus"}
# Each grid is, and the sound of two.
IN_GRIDS = {"omnisift-untrained"}
# First grids of four stay whole: one grid alone cannot be thinned out.
OUT_OF_REACH = {("dycoke", "qwen3", "one window")}


@cache
def model(family: str, attention: str = "sdpa") -> Any:
    return golden.build(family, attention)


@cache
def inputs(family: str, prompt: str) -> dict[str, Any]:
    return golden.inputs(Run(family, PROMPTS[family][prompt], ""))


def rounding(method: str, trace: SelectionTrace) -> float:
    """Tokens by which a method may miss its budget."""
    if method in IN_GRIDS:
        grids = sum(trace.offered[:2]) // 4 + 2
        return float(grids)
    if method not in WINDOWED:
        return 2.5  # the total, the video's share, the audio's share
    windows = (trace.offered[0] // 12 + 1, trace.offered[1] // 50 + 1)
    return 1.0 + sum(windows)


def check_budget(method: str, trace: SelectionTrace, video: float, audio: float) -> None:
    """The average over the layers is what was asked for."""
    n_video, n_audio, _ = trace.offered
    of_video, of_audio, _ = trace.average_retention()
    miss_video = (of_video - video) * n_video if of_video is not None else 0.0
    miss_audio = (of_audio - audio) * n_audio if of_audio is not None else 0.0
    allowed = rounding(method, trace)
    assert abs(miss_video + miss_audio) <= allowed
    if method not in JOINT:
        assert abs(miss_video) <= allowed
        assert abs(miss_audio) <= allowed


def run(
    family: str, prompt: str, config: SeatsConfig, steps: int = 0
) -> tuple[SelectionTrace, list[torch.Tensor]]:
    """Trace, and logits of the prompt and of some more tokens."""
    net, name = model(family), cache_argument(model(family))
    with torch.no_grad(), prune(net, config) as pruned:
        output = net(**inputs(family, prompt), use_cache=True)
        cache, logits = getattr(output, name), [output.logits[0, -1]]
        for _ in range(steps):
            token = torch.tensor([[int(logits[-1].argmax())]])
            output = net(input_ids=token, use_cache=True, **{name: cache})
            logits.append(output.logits[0, -1])
        return pruned.trace, logits


def hooks(net: Any) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()
    )


@pytest.mark.parametrize("method", weightless_methods())
@pytest.mark.parametrize(("family", "prompt"), CELLS, ids=lambda value: value.replace(" ", "_"))
def test_matrix(family: str, prompt: str, method: str) -> None:
    config = SeatsConfig(method=method, retain_video=VIDEO, retain_audio=AUDIO, seed=3)
    before = hooks(model(family))
    if (method, family, prompt) in OUT_OF_REACH:
        with pytest.raises(ConfigError, match="out of reach for dycoke"):
            run(family, prompt, config)
        assert hooks(model(family)) == before
        return
    trace, logits = run(family, prompt, config, steps=2)
    assert hooks(model(family)) == before

    text = ~(trace.video_mask | trace.audio_mask)
    for stage in trace.stages:
        assert bool(torch.isin(text.nonzero()[:, 0], stage.kept).all())
        assert torch.equal(stage.kept, stage.kept.unique())
    assert all(bool(values.isfinite().all()) for values in logits)
    if method == "full":
        assert trace.average_retention()[2] in (1.0, None)
    else:
        check_budget(method, trace, VIDEO, AUDIO)

    survivors = SeatsConfig.from_dict({**config.to_dict(), "kv": "survivors"})
    again, other = run(family, prompt, survivors, steps=2)
    for stage, repeated in zip(trace.stages, again.stages, strict=True):
        assert torch.equal(stage.kept, repeated.kept)
    torch.testing.assert_close(other[0], logits[0], atol=1e-5, rtol=0)
    assert all(bool(values.isfinite().all()) for values in other)


@pytest.mark.parametrize("method", weightless_methods())
@pytest.mark.parametrize("family", FAMILIES)
def test_budget_of_one_changes_nothing(family: str, method: str) -> None:
    _, full = run(family, "ragged", SeatsConfig(method="full"))
    trace, logits = run(family, "ragged", SeatsConfig(method=method, retain=1.0))
    assert torch.equal(logits[0], full[0])
    assert trace.average_retention() == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("method", [name for name in weightless_methods() if name != "full"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.3, 0.1, 0.01])
def test_small_budgets_are_met_or_refused(family: str, method: str, share: float) -> None:
    config = SeatsConfig(method=method, retain_video=share, retain_audio=share)
    refused: str | None = None
    try:
        trace, logits = run(family, "audio and video", config, steps=1)
    except ConfigError as error:
        refused = str(error)
    if refused is not None:
        assert method in {*JOINT, "fastv-om", "seats", "seats-plus"}
        assert "out of reach" in refused
        assert share < 0.3
        return
    assert all(bool(values.isfinite().all()) for values in logits)
    check_budget(method, trace, share, share)


def test_refusals_name_what_can_be_reached() -> None:
    def least(method: str, **targets: float) -> str:
        with pytest.raises(ConfigError) as error:
            run("qwen2_5", "audio and video", SeatsConfig.from_dict({"method": method, **targets}))
        return str(error.value)

    little = {"retain_video": 0.02, "retain_audio": 0.02}
    assert "more than 0.25 (video)" in least("fastv-om", **little)  # 2 of 8 layers
    assert "more than 0.25 (audio)" in least("fastv-om", retain_video=0.5, retain_audio=0.2)
    assert "more than 0.262 (overall)" in least("fastv", **little)  # and 5 % of the video
    assert "more than 0.0811 (overall)" in least("dycoke", **little)  # 2 of 8 grids
    assert "retention of 0.0752 (overall)" in least("omnidrop", **little)
    assert "fastv_layer is 8, but the model has 8 layers" in least("fastv", fastv_layer=8)


@pytest.mark.parametrize("contextual", [0.1, 0.5])
def test_merged_tokens_count_within_the_budget(contextual: float) -> None:
    shares = {"retain_video": 0.4, "retain_audio": 0.2, "contextual_ratio": contextual}
    config = SeatsConfig.from_dict({"method": "visionzip-om", **shares})
    trace, _ = run("qwen2_5", "audio and video", config)
    check_budget("visionzip-om", trace, 0.4, 0.2)


@pytest.mark.parametrize("method", ["random", "fastv", "visionzip"])
def test_seed_decides_what_is_drawn(method: str) -> None:
    def kept(seed: int) -> torch.Tensor:
        config = SeatsConfig(method=method, retain_video=0.3, retain_audio=0.3, seed=seed)
        return run("qwen2_5", "audio and video", config)[0].stages[-1].kept

    assert torch.equal(kept(1), kept(1))
    assert not torch.equal(kept(1), kept(2))


@pytest.mark.parametrize("method", weightless_methods())
@pytest.mark.parametrize("family", FAMILIES)
def test_one_word_behind_the_media_asks(family: str, method: str) -> None:
    """The shortest question: a single token behind the two end marks of the clip."""
    given = inputs(family, "one window")
    net = model(family)
    media = torch.isin(given["input_ids"][0], torch.tensor([301, 303])).nonzero()
    short = {**given}
    for name in ("input_ids", "attention_mask"):
        short[name] = given[name][:, : int(media[-1]) + 4]
    config = SeatsConfig(method=method, retain_video=0.9, retain_audio=0.9)
    if method in SCHEDULED:
        config = SeatsConfig(method=method, retain_video=0.3, retain_audio=0.3)
    with torch.no_grad(), prune(net, config) as pruned:
        assert bool(net(**short).logits.isfinite().all())
    assert pruned.trace.stages[-1].text == pruned.trace.offered[2]


def two_clips(family: str, prompt: str) -> dict[str, Any]:
    """The same prompt twice in one: two clips (or sounds), one after the other."""
    once = inputs(family, prompt)
    twice = {
        name: torch.cat([value, value], 1 if name in ("input_ids", "attention_mask") else 0)
        for name, value in once.items()
        if torch.is_tensor(value)
    }
    return {**once, **twice}


@pytest.mark.parametrize("method", weightless_methods())
@pytest.mark.parametrize("prompt", ["one window", "ragged", "video only", "audio only"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_clips(family: str, prompt: str, method: str) -> None:
    config = SeatsConfig(method=method, retain_video=VIDEO, retain_audio=AUDIO)
    if (method, family, prompt) in OUT_OF_REACH:
        return
    with torch.no_grad(), prune(model(family), config) as pruned:
        assert bool(model(family)(**two_clips(family, prompt)).logits.isfinite().all())
    if method != "full":
        check_budget(method, pruned.trace, VIDEO, AUDIO)


@pytest.mark.parametrize("family", FAMILIES)
def test_question_asks_with_the_attention_of_the_layer(family: str) -> None:
    """OmniDrop's importance is what the layer computed, averaged over heads and question."""
    net, seen = model(family, "eager"), []
    handles = [
        layer.self_attn.register_forward_hook(lambda _module, _args, output: seen.append(output[1]))
        for layer in adapter_for(net).layers
    ]
    config = SeatsConfig(method="omnidrop", retain_video=0.15, retain_audio=0.15)
    with torch.no_grad(), prune(net, config) as pruned:
        net(**inputs(family, "audio and video"))
    for handle in handles:
        handle.remove()
    trace = pruned.trace
    media = (trace.video_mask | trace.audio_mask).nonzero()[-1]
    question = trace.length - 1 - int(media)
    drops = [stage for stage in trace.stages if stage.after_layer]
    assert len(drops) > 3
    for stage in drops:
        weights = seen[stage.after_layer - 1][0]
        expected = weights[:, -question:].mean((0, 1))
        torch.testing.assert_close(stage.scores, expected, atol=1e-6, rtol=0)


@cache
def half(family: str) -> Any:
    return golden.build(family).bfloat16()


@pytest.mark.parametrize("method", weightless_methods())
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str, method: str) -> None:
    given = {
        name: value.bfloat16() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs(family, "audio and video").items()
    }
    config = SeatsConfig(
        method=method,
        retain_video=0.4,
        retain_audio=0.4,
        seed=1,
        options={"contextual_ratio": 0.05},
    )
    with torch.no_grad(), prune(half(family), config) as pruned:
        logits = half(family)(**given).logits
    assert logits.dtype == torch.bfloat16
    assert bool(logits.isfinite().all())
    if method != "full":
        check_budget(method, pruned.trace, 0.4, 0.4)
