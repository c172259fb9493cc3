"""`generate` on a pruned model, by the table in docs/library.md: what runs is right."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TextIteratorStreamer
from transformers.generation.streamers import BaseStreamer

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.prune import prune
from seats_cli.errors import UsageError
from seats_cli.media.synthetic_clip import synthetic_clip
from seats_cli.models import LoadedModel, build_inputs
from tests.engine import golden
from tests.engine.conftest import GREEDY, ROWS, held, holds, inputs, net, pruned, refusal
from tests.engine.golden import FAMILIES

KV = ("layerwise", "survivors")
both = pytest.mark.parametrize("family", FAMILIES)


def new(family: str, output: Any) -> Tensor:
    """What an answer adds to the prompt."""
    found: Tensor = output[:, inputs(family)["input_ids"].shape[1] :]
    return found


class ByHand:
    """A pruned prompt, and steps on its cache, without `generate`."""

    def __init__(self, family: str, rows: int = 1, given: Any = None) -> None:
        self.net = net(family)
        self.name = cache_argument(self.net)
        if given is None:
            output = self.net(**inputs(family), use_cache=True)
            self.cache = getattr(output, self.name)
            self.cache.batch_repeat_interleave(rows)
            self.logits = output.logits[:, -1].repeat(rows, 1)
        else:
            self.cache = given

    def step(self, ids: Tensor) -> Tensor:
        output = self.net(input_ids=ids, use_cache=True, **{self.name: self.cache})
        self.logits = output.logits[:, -1]
        return self.logits

    def greedy(self, steps: int) -> list[int]:
        tokens = []
        for _ in range(steps):
            tokens.append(int(self.logits.argmax()))
            self.step(torch.tensor([tokens[-1:]]))
        return tokens


# ---------------------------------------------------------------- what chooses among tokens


@torch.no_grad()
@pytest.mark.parametrize("kv", KV)
@both
@holds("sampling", "`num_return_sequences`")
def test_sampling_draws_from_the_scores_of_the_pruned_prompt(family: str, kv: str) -> None:
    settings = {"do_sample": True, "temperature": 1.3, "top_k": 0, "eos_token_id": None}
    with pruned(family, kv):
        for rows in (1, 3):
            hand, drawn = ByHand(family, rows), []
            torch.manual_seed(7)
            for _ in range(4):
                drawn.append(torch.multinomial((hand.logits / 1.3).softmax(-1), 1))
                hand.step(drawn[-1])
            torch.manual_seed(7)
            found = net(family).generate(
                **inputs(family), max_new_tokens=4, num_return_sequences=rows, **settings
            )
            assert new(family, found).tolist() == torch.cat(drawn, 1).tolist()
    assert len({*map(tuple, new(family, found).tolist())}) == 3


@torch.no_grad()
@pytest.mark.parametrize("kv", KV)
@both
@holds("beam search")
def test_beams_are_those_of_the_definition(family: str, kv: str) -> None:
    width, steps = 3, 3
    with pruned(family, kv) as run:
        first = ByHand(family)
        beams: list[tuple[float, list[int], ByHand]] = [(0.0, [], first)]
        for _ in range(steps):
            options = []
            for score, tokens, hand in beams:
                scores, ids = hand.logits[0].float().log_softmax(-1).topk(width)
                options += [
                    (score + float(more), [*tokens, int(token)], hand)
                    for more, token in zip(scores, ids, strict=True)
                ]
            beams = []
            for score, tokens, hand in sorted(options, key=lambda one: -one[0])[:width]:
                branch = ByHand(family, given=copy.deepcopy(hand.cache))
                branch.step(torch.tensor([tokens[-1:]]))
                beams.append((score, tokens, branch))
        output = net(family).generate(
            **inputs(family),
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=steps,
            return_dict_in_generate=True,
            output_scores=True,
            **GREEDY,
        )
        assert len(run.trace.stages) > 1
    assert new(family, output.sequences).tolist() == [tokens for _, tokens, _ in beams]
    found = output.sequences_scores * steps
    torch.testing.assert_close(
        found, torch.tensor([score for score, _, _ in beams]), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("asked_before", [False, True])
@both
@holds("`return_dict_in_generate`")
def test_recorded_states_have_a_row_for_each_token_of_a_layer(
    family: str, asked_before: bool
) -> None:
    model, rows = golden.build(family, "eager"), 2
    recorded = {"output_hidden_states": True, "output_attentions": True}
    if asked_before:
        model(input_ids=torch.tensor([[5, 6, 7]]), **recorded)
    with pruned(family, model=model) as run:
        output = model.generate(
            **inputs(family),
            max_new_tokens=3,
            num_return_sequences=rows,
            num_beams=rows,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            **recorded,
            **GREEDY,
        )
    alive = [sum(counts) for counts in run.trace.alive_per_layer()]
    assert len(set(alive)) > 3
    assert len(output.scores) == len(output.logits) == len(output.hidden_states) == 3
    assert [tuple(states.shape[:2]) for states in output.hidden_states[0]] == [
        (rows, count) for count in (alive[0], *alive)
    ]
    assert [tuple(weights.shape[2:]) for weights in output.attentions[0]] == [
        (count, count) for count in alive
    ]
    assert {len(weights) for weights in output.attentions[0]} == {rows}
    assert [weights.shape[-1] for weights in output.attentions[1]] == [n + 1 for n in alive]


@torch.no_grad()
@holds("`model(**inputs)`")
def test_recorded_states_are_those_of_the_stock_model() -> None:
    """Where nothing is dropped; with DeepStack, what is added behind a layer is not its output."""
    model = net("qwen3")
    stock = model(**inputs("qwen3"), output_hidden_states=True)
    with prune(model, SeatsConfig(retain=1.0)):
        found = model(**inputs("qwen3"), output_hidden_states=True)
    assert torch.equal(found.logits, stock.logits)
    assert all(map(torch.equal, found.hidden_states, stock.hidden_states))
    with pruned("qwen3") as run:
        left = model(**inputs("qwen3")).logits.shape[1]
    assert left == sum(run.trace.alive_per_layer()[-1]) < stock.logits.shape[1]


# ------------------------------------------------------------------------ further turns


@torch.no_grad()
@pytest.mark.parametrize("again", ["text", "conversation", "several"])
@pytest.mark.parametrize("kv", KV)
@both
@holds(
    "a further turn with the cache of the last",
    "twice in a block, other prompts between",
    "a prompt without media",
)
def test_a_further_turn_continues_the_sequence(family: str, kv: str, again: str) -> None:
    model, name = net(family), cache_argument(net(family))
    short = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    plain = model.generate(**short, max_new_tokens=3, **GREEDY)
    with pruned(family, kv):
        hand = ByHand(family)
        tokens = hand.greedy(2)
        tokens.append(int(hand.logits.argmax()))
        hand.step(torch.tensor([[tokens[-1], 9, 10, 11]]))
        wanted = hand.greedy(3)
        output = model.generate(
            **inputs(family), max_new_tokens=3, return_dict_in_generate=True, **GREEDY
        )
        assert new(family, output.sequences).tolist() == [tokens]
        # Other prompts leave their own offset of positions on the model.
        assert torch.equal(model.generate(**short, max_new_tokens=3, **GREEDY), plain)
        more = torch.cat([output.sequences, torch.tensor([[9, 10, 11]])], 1)
        given = {**inputs(family)} if again == "conversation" else {}
        given |= {"input_ids": more, "attention_mask": torch.ones_like(more)}
        rows = 2 if again == "several" else 1
        found = model.generate(
            **given, **{name: output[name]}, max_new_tokens=3, num_beams=rows, **GREEDY
        )
        assert torch.equal(found[:, : more.shape[1]], more)
        if rows == 1:
            assert found[0, more.shape[1] :].tolist() == wanted
        assert output[name].get_seq_length() == found.shape[1] - 1
        assert len(model(**inputs(family)).logits) == 1


# ------------------------------------------------------------------- models and threads


@torch.no_grad()
@holds("two threads with two models", "a block in a block of the same model")
def test_two_models_run_side_by_side() -> None:
    def answers(family: str) -> list[Any]:
        with pruned(family):
            with pytest.raises(UsageError, match=refusal("a block in a block of the same model")):
                pruned(family).__enter__()
            return [
                net(family).generate(**inputs(family), max_new_tokens=4, **GREEDY).tolist()
                for _ in range(2)
            ]

    alone = [answers(family) for family in FAMILIES]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(answers, FAMILIES)) == alone


@torch.no_grad()
@holds("a model with PEFT layers")
def test_peft_layers_apply() -> None:
    peft = pytest.importorskip("peft")
    layers = r".*language_model.*q_proj"
    lora = peft.LoraConfig(r=2, target_modules=layers, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(golden.build("qwen2_5"), lora)
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.manual_seed(3)
            weight.normal_()
    given = {**inputs("qwen2_5"), "max_new_tokens": 4, **GREEDY}
    with pruned("qwen2_5", model=wrapped) as run:
        found = wrapped.generate(**given)
        assert len(run.trace.stages) > 1
    merged = wrapped.merge_and_unload()
    with pruned("qwen2_5", model=merged):
        assert torch.equal(merged.generate(**given), found)
    with pruned("qwen2_5"):
        assert not torch.equal(net("qwen2_5").generate(**given), found)


@holds("gradient checkpointing")
def test_gradients_are_the_same_with_checkpoints() -> None:
    model, found = golden.build("qwen2_5").train(), []
    for checkpoints in (False, True):
        if checkpoints:
            model.gradient_checkpointing_enable()
        with pruned("qwen2_5", model=model):
            output = model.generate(**inputs("qwen2_5"), max_new_tokens=3, **GREEDY)
            model(**inputs("qwen2_5"), use_cache=False).logits.logsumexp(-1).sum().backward()
        layers = model.model.language_model.layers
        found.append([output, *(layer.self_attn.q_proj.weight.grad for layer in layers)])
        model.zero_grad()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# ------------------------------------------------------------------- the bundled model


@torch.no_grad()
@holds(
    "greedy",
    "`streamer`, also in another thread",
    "logits processors, stopping criteria, `max_time`, `stop_strings`",
    "an error in the middle",
)
def test_the_bundled_model_answers_as_ask_does(loaded: LoadedModel) -> None:
    clip = synthetic_clip(4.0, sizing=loaded.sizing)
    config, tokenizer, model = SeatsConfig(retain=0.3), loaded.processor.tokenizer, loaded.model
    wanted = ask(loaded, clip, "What?", config=config, max_new_tokens=6, min_new_tokens=6)
    given = {**build_inputs(loaded, clip, "What?"), "max_new_tokens": 6, "min_new_tokens": 6}
    given |= {"do_sample": False, "pad_token_id": tokenizer.pad_token_id}
    given |= {"eos_token_id": tokenizer.eos_token_id}
    length = given["input_ids"].shape[1]

    class Broken(BaseStreamer):
        def put(self, value: Tensor) -> None:
            if value.numel() == 1:
                raise InterruptedError

        def end(self) -> None: ...

    def answer(**more: Any) -> list[int]:
        return list(model.generate(**{**given, **more})[0, length:].tolist())

    before = answer()
    with prune(model, config):
        assert answer() == list(wanted.token_ids)
        with pytest.raises(InterruptedError):
            answer(streamer=Broken())
        assert answer() == list(wanted.token_ids)
        # A streamer, with `generate` in a thread of its own.
        stream = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        thread = Thread(target=answer, kwargs={"streamer": stream})
        thread.start()
        assert "".join(stream).strip() == wanted.text
        thread.join()
        # What chooses tokens and ends answers.
        forced = wanted.token_ids[0] + 1
        only = [
            lambda _ids, scores: torch.full_like(scores, -1.0).index_fill(
                1, torch.tensor([forced]), 1.0
            )
        ]
        assert answer(logits_processor=only) == 6 * [forced]
        assert answer(max_time=0.0, min_new_tokens=None) == list(wanted.token_ids[:1])
        two = [lambda ids, _scores: torch.tensor([ids.shape[1] >= length + 2])]
        assert answer(stopping_criteria=two) == list(wanted.token_ids[:2])
        end = tokenizer.decode(wanted.token_ids[:2], skip_special_tokens=True).strip()[-1]
        stopped = answer(stop_strings=[end], tokenizer=tokenizer)
        assert stopped == list(wanted.token_ids[: len(stopped)])
        assert end in tokenizer.decode(stopped[-1:])
    assert answer() == before


def test_every_row_is_held() -> None:
    import_module("tests.engine.test_generate_refusals")  # which holds the others
    assert held == set(ROWS)
