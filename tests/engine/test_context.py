"""What `prune(...)` promises around a run: nothing left behind, nothing changed, clear refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.backends import cuda
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.encoder_cache import EncoderCache
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.graph_decode import Decoding
from seats_cli.engine.prune import prune
from seats_cli.engine.timing import Stopwatch
from seats_cli.errors import ConfigError, UsageError
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import load_model, optimize
from seats_cli.models.adapter import devices_of
from seats_cli.models.optimize import RunSwaps, Speedups, installed
from seats_cli.models.registry import adapter_for
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import Entry, Method
from tests.engine import golden
from tests.engine.golden import FAMILIES, Run
from tests.engine.tape import TapeRecorder

AV_CASE = {"qwen2_5": "four_windows", "qwen3": "one_sec_grids"}
EVERYTHING = Speedups(optimize.SEGMENTS, fused_modules=True)
NOTHING = PruningPlan(initial_video=1.0, initial_audio=1.0)


@cache
def model(family: str, attention: str = "sdpa") -> Any:
    return golden.build(family, attention)


def av_run(family: str) -> Run:
    return Run(family, AV_CASE[family], "seats_a")


# What transformers itself notes on a model that runs.
OWN_NOTES = {"rope_deltas"}


def fingerprint(net: Any) -> dict[str, Any]:
    """Everything that hooks and swaps could leave behind, on the model and in the process."""
    found: dict[str, Any] = {
        "attentions": sorted(ALL_ATTENTION_FUNCTIONS),
        "cudnn": cuda.cudnn_sdp_enabled(),
    }
    for name, module in net.named_modules():
        found[f"{name} class"] = type(module).forward
        found[f"{name} hooks"] = list(module._forward_hooks.values())
        found[f"{name} pre-hooks"] = list(module._forward_pre_hooks.values())
        if hasattr(module, "config"):
            found[f"{name} attention"] = module.config._attn_implementation
        for key, value in vars(module).items():
            if key not in OWN_NOTES:
                found[f"{name}.{key}"] = id(value)
    found.update((name, value.sum().item()) for name, value in net.state_dict().items())
    return found


@pytest.fixture
def left_as_it_was(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A model whose fingerprint and logits must be the same after the test."""
    family = request.getfixturevalue("family")
    net, run = model(family), av_run(family)
    with torch.no_grad():
        logits = net(**golden.inputs(run)).logits
    before = fingerprint(net)
    yield net
    assert fingerprint(net) == before
    with torch.no_grad():
        assert torch.equal(net(**golden.inputs(run)).logits, logits)


@contextmanager
def failing_head(net: Any) -> Iterator[None]:
    """Let a run fail once all layers have been pruned; the hook is gone afterwards."""

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle of the prefill")

    handle = net.get_submodule("lm_head").register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="in the middle"):
            yield
    finally:
        handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was(family: str, fails: bool, left_as_it_was: Any) -> None:
    net, run = left_as_it_was, av_run(family)
    plan = golden.plan(run, still_tolerance=1.0)
    pruning = prune(net, plan, encoder_cache=EncoderCache(), optimize=EVERYTHING)
    with failing_head(net) if fails else nullcontext(), pruning:
        assert optimize.encoder_attention(adapter_for(net))[0] == optimize.SEGMENTS
        net.generate(**golden.inputs(run), max_new_tokens=3)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was_unpruned(family: str, fails: bool, left_as_it_was: Any) -> None:
    net, adapter = left_as_it_was, adapter_for(left_as_it_was)
    parts = {
        "timing": partial(Stopwatch(devices_of(net), (1, 2)).watch, adapter),
        "encoder_cache": partial(EncoderCache().attach, adapter, None),
        "decoding": Decoding(adapter, 20, TapeRecorder()).attach,
    }
    swapped = installed(RunSwaps(adapter, False, EVERYTHING, parts))
    with failing_head(net) if fails else nullcontext(), swapped:
        net.generate(**golden.inputs(av_run(family)), max_new_tokens=20, eos_token_id=None)


@pytest.mark.parametrize("pruned", [True, False])
@pytest.mark.parametrize("question", ["What is shown first?", "choices", "stopped"])
def test_a_question_leaves_the_model_as_it_was(question: str, pruned: bool) -> None:
    loaded = load_model("bundled", device="cpu")
    clip = synthetic_clip(3.0, fps=2.0, max_frames=6, sizing=loaded.sizing, audio=True)
    loaded.model(input_ids=torch.tensor([[0]]))  # the first pass notes the angles of long inputs
    before = fingerprint(loaded.model)

    def stop(_text: str) -> None:
        if question == "stopped":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) if question == "stopped" else nullcontext():
        ask(
            loaded,
            clip,
            question,
            config=SeatsConfig(retain=0.25) if pruned else None,
            choices=("red", "blue") if question == "choices" else (),
            encoder_cache=EncoderCache(),
            on_text=stop,
        )
    assert fingerprint(loaded.model) == before


@torch.no_grad()
@pytest.mark.parametrize(
    "run",
    [run for run in golden.runs() if run.name == "seats_a"],
    ids=lambda run: f"{run.family}-{run.case}",
)
def test_keeping_everything_equals_the_unpruned_model_exactly(run: Run) -> None:
    net = model(run.family)
    full = net(**golden.inputs(run)).logits
    for plan in (NOTHING, SeatsConfig(retain=1.0)):
        with prune(net, plan) as pruned:
            assert torch.equal(net(**golden.inputs(run)).logits, full)
        assert all(kept == 1.0 for kept in pruned.trace.average_retention() if kept is not None)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_gives_the_same(family: str) -> None:
    run = av_run(family)
    plan = golden.plan(run, kv="layerwise")
    answers = []
    for attention in ("sdpa", "eager"):
        net = model(family, attention)
        with prune(net, plan) as pruned:
            answers.append((continue_greedily(net, run, 4), pruned.trace))
    (sdpa, trace), (eager, eager_trace) = answers
    torch.testing.assert_close(sdpa[1], eager[1], atol=1e-4, rtol=0)
    for one, other in zip(trace.stages, eager_trace.stages, strict=True):
        assert torch.equal(one.kept, other.kept)


def cache_bytes(cache: Any) -> int:
    """Bytes of all keys and values held."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def continue_greedily(net: Any, run: Run, steps: int) -> tuple[list[int], Tensor, Any]:
    """Tokens, logits (steps, vocabulary) and cache of a manual greedy loop."""
    name = cache_argument(net)
    output = net(**golden.inputs(run), use_cache=True)
    cache, tokens, logits = getattr(output, name), [], []
    for _ in range(steps):
        logits.append(output.logits[0, -1])
        tokens.append(int(logits[-1].argmax()))
        output = net(input_ids=torch.tensor([tokens[-1:]]), use_cache=True, **{name: cache})
    return tokens, torch.stack(logits), cache


@torch.no_grad()
@pytest.mark.parametrize("kv", ["layerwise", "survivors"])
@pytest.mark.parametrize("family", FAMILIES)
def test_generate_equals_the_manual_loop(family: str, kv: str) -> None:
    net, run = model(family), av_run(family)
    inputs = golden.inputs(run)
    with prune(net, golden.plan(run, kv)):
        tokens, _, _ = continue_greedily(net, run, 5)
        output = net.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert output[0, inputs["input_ids"].shape[1] :].tolist() == tokens


@torch.no_grad()
@pytest.mark.parametrize("kv", ["layerwise", "survivors"])
@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_equals_a_prefill_of_the_longer_prompt(family: str, kv: str) -> None:
    """Answer tokens are text: appended to the prompt, with the same tokens dropped, they must
    see the same. Under `layerwise` that is what the cache holds; `survivors` forgets more."""
    net, run = model(family), av_run(family)
    plan = golden.plan(run, kv)
    with prune(net, plan) as pruned:
        tokens, logits, _ = continue_greedily(net, run, 4)
        stages = pruned.trace.stages
    inputs = golden.inputs(run)
    added = torch.tensor([tokens[:-1]])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], added], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with prune(net, plan, method=replay(stages, inputs["input_ids"].shape[1])):
        again = net(**inputs).logits[0, -4:]
    same = torch.allclose(again, logits, atol=1e-4, rtol=0)
    assert same == (kv == "layerwise")
    assert torch.allclose(again[0], logits[0], atol=1e-4, rtol=0)


def replay(stages: list[Any], length: int) -> Callable[[PruningPlan], Method]:
    """A method that keeps what `stages` kept, and every token beyond their prompt."""
    kept = {stage.after_layer: stage.kept for stage in stages}
    alive = [torch.arange(length)]

    class Replay(Method):
        def before_llm(self, prompt: Any) -> Entry:
            return Entry(self.mask(0))

        def drops_after(self, layer: int) -> bool:
            return layer in kept and layer != stages[-1].after_layer

        def after_layer(self, layer: int, tokens: Any) -> Tensor:
            return self.mask(layer)

        def mask(self, layer: int) -> Tensor:
            new = alive[0] > int(kept[0].max())
            mask = torch.isin(alive[0], kept[layer]) | new
            alive[0] = alive[0][mask]
            return mask

    return Replay


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_first_token_does_not_depend_on_the_cache_policy(family: str) -> None:
    net, run = model(family), av_run(family)
    logits, held = [], []
    for kv in ("layerwise", "survivors"):
        with prune(net, golden.plan(run, kv)) as pruned:
            _, found, kept = continue_greedily(net, run, 1)
            logits.append(found[0])
            held.append((cache_bytes(kept), pruned.trace))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)
    (layerwise, trace), (survivors, _) = held
    alive = [sum(counts) + 1 for counts in trace.alive_per_layer()]  # one token was decoded
    per_token = 2 * net.config.text_config.num_key_value_heads * 16 * 4
    assert layerwise == sum(alive) * per_token
    assert survivors == len(alive) * alive[-1] * per_token


@torch.no_grad()
def test_caches_of_two_prompts_do_not_mix() -> None:
    net = model("qwen2_5")
    one, other = Run("qwen2_5", "four_windows", "seats_a"), Run("qwen2_5", "one_window", "seats_a")
    plan = golden.plan(one)
    name = cache_argument(net)
    with prune(net, plan):
        expected = continue_greedily(net, one, 2)
        first = net(**golden.inputs(one), use_cache=True)
        net(**golden.inputs(other), use_cache=True)
        token = torch.tensor([[int(first.logits[0, -1].argmax())]])
        second = net(input_ids=token, use_cache=True, **{name: getattr(first, name)})
    torch.testing.assert_close(second.logits[0, -1], expected[1][1])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_leaves_with_stage_one(family: str) -> None:
    net, run = model(family), av_run(family)
    inputs = golden.inputs(run)
    with prune(net, golden.plan(run)) as pruned:
        plain = net(**inputs).logits[0, -1]
        stages = pruned.trace.stages
        pad = torch.zeros(1, 3, dtype=torch.long)
        inputs["input_ids"] = torch.cat([pad, inputs["input_ids"]], 1)
        inputs["attention_mask"] = torch.cat([pad, inputs["attention_mask"]], 1)
        padded = net(**inputs).logits[0, -1]
        for one, other in zip(stages, pruned.trace.stages, strict=True):
            assert torch.equal(one.kept + 3, other.kept)
    torch.testing.assert_close(padded, plain, atol=1e-5, rtol=0)


@torch.no_grad()
def test_full_omni_model_is_pruned_through_its_thinker() -> None:
    net, run = model("qwen2_5"), av_run("qwen2_5")

    class Omni(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.thinker = net
            self.config = type("Config", (), {"model_type": "qwen2_5_omni"})

    with prune(Omni(), golden.plan(run)) as pruned:
        net(**golden.inputs(run))
    assert torch.equal(
        pruned.trace.stages[-1].kept, golden.expected(run, "final_kept_indices").long()
    )


def test_report_names_every_stage() -> None:
    net, run = model("qwen2_5"), av_run("qwen2_5")
    with prune(net, golden.plan(run)) as pruned, torch.no_grad():
        net(**golden.inputs(run))
    lines = pruned.report.splitlines()
    assert len(lines) == 2 + len(pruned.trace.stages)
    assert lines[1].startswith("before the LLM")


class TestRefusals:
    def test_batch(self) -> None:
        run = av_run("qwen2_5")
        inputs = golden.inputs(run)
        inputs["input_ids"] = inputs["input_ids"].repeat(2, 1)
        inputs["attention_mask"] = inputs["attention_mask"].repeat(2, 1)
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].repeat(2, 1)
        for name in ("video_grid_thw", "input_features", "feature_attention_mask"):
            inputs[name] = inputs[name].repeat(2, *[1] * (inputs[name].ndim - 1))
        inputs["video_second_per_grid"] = inputs["video_second_per_grid"].repeat(2)
        net = model("qwen2_5")
        with pytest.raises(UsageError, match="one prompt"), prune(net, NOTHING), torch.no_grad():
            net(**inputs)

    def test_media_encoded_outside_the_context(self) -> None:
        net, run = model("qwen2_5"), av_run("qwen2_5")
        inputs = golden.inputs(run)
        with torch.no_grad():
            video = net.get_video_features(
                inputs.pop("pixel_values_videos"), inputs["video_grid_thw"]
            )
        if cache_argument(net) != "cache":
            pytest.skip("this transformers takes no precomputed encoder outputs")
        with (
            pytest.raises(UsageError, match="encoder did not run"),
            prune(net, NOTHING),
            torch.no_grad(),
        ):
            net(**inputs, mm_encoder_outputs={"video": video})

    def test_trace_before_any_prompt(self) -> None:
        with (
            prune(model("qwen2_5"), NOTHING) as pruned,
            pytest.raises(UsageError, match="No prompt"),
        ):
            _ = pruned.trace

    def test_entering_twice(self) -> None:
        context = prune(model("qwen2_5"), NOTHING)
        with context, pytest.raises(UsageError, match="already active"):
            context.__enter__()

    def test_plan_deeper_than_the_model(self) -> None:
        plan = PruningPlan(initial_video=0.5, initial_audio=0.5, late_layer=24)
        with pytest.raises(ConfigError):
            prune(model("qwen2_5"), plan)

    def test_unknown_method(self) -> None:
        plan = PruningPlan(0.5, 0.5, config=SeatsConfig(method="nonsense"))
        with pytest.raises(ConfigError, match="nonsense"):
            prune(model("qwen2_5"), plan)

    def test_static_cache(self) -> None:
        net, run = model("qwen2_5"), av_run("qwen2_5")
        with (
            pytest.raises(UsageError, match="dynamic KV cache"),
            prune(net, golden.plan(run)),
            torch.no_grad(),
        ):
            net.generate(**golden.inputs(run), max_new_tokens=2, cache_implementation="static")
