"""Steps on a cache with room, recorded and repeated: the same answers as transformers' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from seats_cli.config import SeatsConfig
from seats_cli.engine import graph_decode
from seats_cli.engine.answer import ask
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.graph_decode import Decoding
from seats_cli.engine.prune import prune
from seats_cli.engine.static_cache import CHUNK, PreallocatedLayer, Room, Steps, one_query_attention
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import load_model
from seats_cli.models.registry import adapter_for
from tests.engine import golden
from tests.engine.golden import FAMILIES, Run
from tests.engine.tape import TapeRecorder

CASES = {"qwen2_5": "twelve_ragged", "qwen3": "long_ragged"}
KV = (None, "survivors", "layerwise")  # None: unpruned
NEW = graph_decode.STOCK_STEPS + graph_decode.MIN_STEPS + 5


@cache
def net(family: str) -> Any:
    return golden.build(family)


@pytest.fixture(autouse=True)
def nothing_learnt_stays() -> Iterator[None]:
    yield
    graph_decode._unfit.clear()


def pruning(family: str, kv: str | None) -> AbstractContextManager[Any]:
    run = Run(family, CASES[family], "seats_a")
    return nullcontext() if kv is None else prune(net(family), golden.plan(run, kv))


def generate(
    family: str, kv: str | None, recorder: Any, new: int = NEW, **settings: Any
) -> tuple[list[int], Tensor, str]:
    """Tokens, the last hidden state of each step, and how it ran."""
    model, inputs = net(family), golden.inputs(Run(family, CASES[family], "seats_a"))
    adapter = adapter_for(model)
    states: list[Tensor] = []
    handle = adapter.language_model.register_forward_hook(
        lambda _module, _args, output: states.append(output.last_hidden_state[0, -1])
    )
    torch.manual_seed(5)
    try:
        with (
            torch.inference_mode(),
            pruning(family, kv),
            Decoding(adapter, new, recorder).attach() as decoding,
        ):
            output = model.generate(
                **inputs, max_new_tokens=new, min_new_tokens=new, **{"do_sample": False, **settings}
            )
    finally:
        handle.remove()
    return output[0, inputs["input_ids"].shape[1] :].tolist(), torch.stack(states), decoding.how


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_steps_give_what_dynamic_ones_do(family: str, kv: str | None) -> None:
    recorder = TapeRecorder()
    tokens, states, how = generate(family, kv, None)
    ours, our_states, our_how = generate(family, kv, recorder)
    assert ours == tokens
    torch.testing.assert_close(our_states, states, atol=1e-5, rtol=0)
    assert (how, our_how) == ("dynamic cache", "tape")
    assert recorder.rehearsals == recorder.released == 1
    assert recorder.replays == NEW - 1 - graph_decode.STOCK_STEPS - 1  # after prefill and rehearsal


@pytest.mark.parametrize("kv", KV)
@pytest.mark.parametrize("family", FAMILIES)
def test_room_is_made_again_for_long_answers(
    family: str, kv: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_decode, "ROOM", 4)
    recorder, stock = TapeRecorder(), generate(family, kv, None)
    tokens, states, how = generate(family, kv, recorder)
    assert tokens == stock[0]
    torch.testing.assert_close(states, stock[1], atol=1e-5, rtol=0)
    assert how == "tape"
    assert recorder.released == recorder.rehearsals > 1


@pytest.mark.parametrize("kv", [None, "layerwise"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_draws_the_same(family: str, kv: str | None) -> None:
    sampling = {"do_sample": True, "temperature": 1.3, "top_p": 0.95, "top_k": 0}
    tokens = generate(family, kv, None, **sampling)[0]
    assert generate(family, kv, TapeRecorder(), **sampling)[0] == tokens
    assert len(set(tokens)) > 2  # else there was nothing to draw


def test_eager_attention_is_replaced_too() -> None:
    model = golden.build("qwen2_5", "eager")
    adapter, inputs = adapter_for(model), golden.inputs(Run("qwen2_5", CASES["qwen2_5"], "seats_a"))
    tokens = []
    for recorder in (None, TapeRecorder()):
        with torch.inference_mode(), Decoding(adapter, NEW, recorder).attach() as decoding:
            tokens.append(model.generate(**inputs, max_new_tokens=NEW, do_sample=False))
    assert torch.equal(*tokens)
    assert decoding.how == "tape"
    assert adapter.language_model.config._attn_implementation == "eager"


def prefill(family: str) -> tuple[Any, Any, Any]:
    """Adapter, output of a prompt and its cache."""
    model = net(family)
    output = model(**golden.inputs(Run(family, CASES[family], "seats_a")), use_cache=True)
    return adapter_for(model), output, getattr(output, cache_argument(model))


@torch.inference_mode()
def test_all_room_is_used_and_then_the_cache_grows() -> None:
    """More steps than were announced: the last ones are stock, and nothing is lost."""
    model, new = net("qwen2_5"), graph_decode.STOCK_STEPS + graph_decode.MIN_STEPS + 1
    name, answers = cache_argument(model), []
    for recorder in (None, TapeRecorder()):
        adapter, output, held = prefill("qwen2_5")
        before, kinds, states = held.get_seq_length(), [], []
        with Decoding(adapter, new, recorder).attach():
            for step in range(new + 3):
                token = output.logits[:, -1:].argmax(-1)
                output = model(input_ids=token, use_cache=True, **{name: held})
                assert held.get_seq_length() == before + step + 1
                kinds.append(type(held.layers[0]))
                states.append(output.logits[0, -1])
        answers.append(torch.stack(states))
        assert {type(layer) for layer in held.layers} == {DynamicLayer}
        assert all(layer.keys.shape[2] == before + new + 3 for layer in held.layers)
    roomy = [number for number, kind in enumerate(kinds) if kind is PreallocatedLayer]
    assert roomy == list(range(graph_decode.STOCK_STEPS, new - 1))
    torch.testing.assert_close(*answers, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_a_question_amid_the_answer_is_no_step() -> None:
    """Several tokens at once go to the model as it is, on all that was written."""
    model = net("qwen2_5")
    name, answers = cache_argument(model), []
    for recorder in (None, TapeRecorder()):
        adapter, output, held = prefill("qwen2_5")
        with Decoding(adapter, 100, recorder).attach():
            for width in (
                [1] * (graph_decode.STOCK_STEPS + 3) + [4] + [1] * (graph_decode.STOCK_STEPS + 2)
            ):
                token = output.logits[:, -1:].argmax(-1).expand(1, width)
                output = model(input_ids=token, use_cache=True, **{name: held})
        answers.append(output.logits)
    assert recorder.rehearsals == recorder.released == 2
    torch.testing.assert_close(*answers, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_another_cache_is_another_answer() -> None:
    """Two that take turns inside one block do not write into each other."""
    model, steps = net("qwen2_5"), graph_decode.STOCK_STEPS + 4
    name, answers = cache_argument(model), []
    for recorder in (None, TapeRecorder()):
        prompts = [prefill("qwen2_5") for _ in range(2)]
        caches = [cache for _, _, cache in prompts]
        before = caches[0].get_seq_length()
        logits = [output.logits[:, -1:] for _, output, _ in prompts]
        logits[1] = -logits[1]  # the second answer begins with another token
        with Decoding(prompts[0][0], 100, recorder).attach():
            for number in [0] * steps + [1, 0] * 3:
                token = logits[number].argmax(-1)
                output = model(input_ids=token, use_cache=True, **{name: caches[number]})
                logits[number] = output.logits
        answers.append(torch.cat(logits))
        assert [held.get_seq_length() - before for held in caches] == [steps + 3, 3]
    assert recorder.released > 0
    torch.testing.assert_close(*answers, atol=1e-5, rtol=1e-5)


class Failing(TapeRecorder):
    """Cannot rehearse, or cannot record."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__()
        self._where = where
        self._error = error

    def rehearse(self, step: Any) -> Any:
        output = super().rehearse(step)
        if self._where == "rehearse":
            raise self._error
        return output

    def record(self, step: Any) -> Any:
        step()
        raise self._error


@pytest.mark.parametrize("where", ["rehearse", "record"])
@pytest.mark.parametrize("kv", KV)
def test_a_step_that_cannot_be_recorded_stays_stock(where: str, kv: str | None) -> None:
    tokens, states, _ = generate("qwen2_5", kv, None)
    recorder = Failing(where, RuntimeError("called a synchronizing operation\nCompile with"))
    ours, our_states, how = generate("qwen2_5", kv, recorder)
    assert ours == tokens
    torch.testing.assert_close(our_states, states, atol=1e-5, rtol=0)
    assert how == "dynamic cache (not recorded: called a synchronizing operation)"
    # the second answer does not try again, and says the same
    assert generate("qwen2_5", kv, recorder)[2] == how
    assert recorder.rehearsals == 1


def test_short_memory_is_not_held_against_the_model() -> None:
    failing = Failing("record", torch.OutOfMemoryError("CUDA out of memory."))
    assert "out of memory" in generate("qwen2_5", None, failing)[2]
    assert generate("qwen2_5", None, TapeRecorder())[2] == "tape"


def test_an_error_of_the_model_is_the_models() -> None:
    """It is raised as without recording, and nothing is concluded from it."""
    adapter = adapter_for(net("qwen2_5"))
    calls = []

    def tired(_module: Any, _args: Any) -> None:
        calls.append(1)
        if len(calls) > 1 + graph_decode.STOCK_STEPS:
            raise RuntimeError("tired")

    handle = adapter.layers[0].register_forward_pre_hook(tired)
    try:
        with pytest.raises(RuntimeError, match="tired"):
            generate("qwen2_5", None, TapeRecorder())
    finally:
        handle.remove()
    assert generate("qwen2_5", None, TapeRecorder())[2] == "tape"


def hooks_of(model: Any) -> list[int]:
    return [
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    ]


@pytest.mark.parametrize("after", [1, graph_decode.STOCK_STEPS + 1, graph_decode.STOCK_STEPS + 3])
def test_the_model_is_left_as_it_was_found(after: int) -> None:
    model = net("qwen2_5")
    adapter, recorder = adapter_for(model), TapeRecorder()
    before = hooks_of(model), adapter.language_model.config._attn_implementation
    held: list[Any] = []
    seen: list[int] = []

    def interrupt(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        held[:] = [cache]
        seen.append(1)
        if len(seen) > after:
            raise KeyboardInterrupt

    handle = adapter.language_model.register_forward_pre_hook(interrupt, with_kwargs=True)
    try:
        with pytest.raises(KeyboardInterrupt):
            generate("qwen2_5", None, recorder)
    finally:
        handle.remove()
    assert "forward" not in vars(adapter.language_model)
    assert (hooks_of(model), adapter.language_model.config._attn_implementation) == before
    assert {type(layer) for layer in held[0].layers} == {DynamicLayer}
    assert recorder.released == (1 if recorder.replays else 0)


@pytest.mark.parametrize(
    "change",
    ["a batch", "beams", "padding", "hidden states", "flash", "short", "training", "no recorder"],
)
def test_everything_else_stays_stock(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net("qwen2_5")
    adapter, recorder = adapter_for(model), TapeRecorder()
    inputs: dict[str, Any] = {"input_ids": torch.arange(1, 9)[None]}
    settings: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
    given: Any = recorder
    if change == "a batch":
        inputs = {"input_ids": torch.arange(1, 17).view(2, 8)}
    elif change == "beams":
        settings["num_beams"] = 2
    elif change == "padding":
        inputs["attention_mask"] = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    elif change == "hidden states":
        settings |= {"output_hidden_states": True, "return_dict_in_generate": True}
    elif change == "flash":
        monkeypatch.setattr(graph_decode, "_ATTENTIONS", ("eager",))
    elif change == "short":
        settings |= dict.fromkeys(("max_new_tokens", "min_new_tokens"), 2 + graph_decode.MIN_STEPS)
    elif change == "training":
        monkeypatch.setattr(adapter.language_model, "training", True)
    else:
        given = None  # on a CPU there is none
    expected = model.generate(**inputs, **settings)
    with Decoding(adapter, settings["max_new_tokens"], given).attach() as decoding:
        found = model.generate(**inputs, **settings)
    if change == "hidden states":
        expected, found = expected.sequences, found.sequences
    assert torch.equal(found, expected)
    assert decoding.how == "dynamic cache"
    assert recorder.rehearsals == 0


def test_layers_of_different_lengths_share_rooms_and_come_back() -> None:
    cache, steps = DynamicCache(), Steps(torch.device("cpu"))
    written = {0: torch.randn(1, 2, 5, 4), 1: torch.randn(1, 2, CHUNK - 1, 4)}
    for number, states in written.items():
        cache.update(states, -states, number)
    rooms = [Room(5, 2, steps), Room(CHUNK - 1, 2, steps)]
    assert [room.capacity for room in rooms] == [CHUNK, 2 * CHUNK]
    dynamic = list(cache.layers)
    for number, room in enumerate(rooms):
        cache.layers[number] = PreallocatedLayer(dynamic[number], room)
        assert dynamic[number].keys is None
    for step in range(2):
        steps.prepare()
        for number, room in enumerate(rooms):
            room.point()
            token = torch.randn(1, 2, 1, 4)
            written[number] = torch.cat([written[number], token], 2)
            for _ in range(2):  # a repeated step writes to the same place
                keys, values = cache.update(token, -token, number)
            visible = room.mask[0, 0, 0] == 0
            assert torch.equal(keys[:, :, visible], written[number])
            assert torch.equal(values, -keys)
            assert cache.layers[number].get_mask_sizes(1) == (room.capacity, 0)
        steps.done += 1
        assert [cache.get_seq_length(number) for number in (0, 1)] == [6 + step, CHUNK + step]
    for number in (0, 1):
        layer = cache.layers[number].give_back()
        assert layer is dynamic[number]
        assert torch.equal(layer.keys, written[number])
        assert torch.equal(layer.values, -written[number])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_attention_is_that_of_pytorch(groups: int, dtype: torch.dtype) -> None:
    torch.manual_seed(groups)
    query = torch.randn(1, 6, 1, 16, dtype=dtype)
    key, value = torch.randn(2, 1, groups, 3 * CHUNK, 16, dtype=dtype)
    mask = torch.zeros(1, 1, 1, 3 * CHUNK)
    mask[..., CHUNK + 7 :] = float("-inf")
    found, _ = one_query_attention(torch.nn.Identity(), query, key, value, mask, scaling=0.3)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), mask, scale=0.3, enable_gqa=True
    )
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(
        found.float(), expected.transpose(1, 2), atol=tolerance, rtol=tolerance
    )


@pytest.mark.parametrize("config", [None, SeatsConfig(retain=0.35)], ids=["full", "pruned"])
def test_an_answer_says_how_it_was_decoded(
    config: SeatsConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model("bundled", device="cpu")
    clip = synthetic_clip(4.0, sizing=loaded.sizing)
    settings: dict[str, Any] = {"config": config, "max_new_tokens": NEW, "min_new_tokens": NEW}
    stock = ask(loaded, clip, "What?", **settings)
    assert stock.timing.decoding == "dynamic cache"
    recorder = TapeRecorder()
    monkeypatch.setattr(graph_decode, "graph_recorder", lambda _adapter: recorder)
    recorded = ask(loaded, clip, "What?", **settings)
    assert recorded.timing.decoding == "tape"
    assert recorded.token_ids == stock.token_ids
    assert recorder.released == 1
    chosen = ask(loaded, clip, "What?", config=config, choices=("red", "blue"))
    assert chosen.timing.decoding == ""
