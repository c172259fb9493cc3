"""What the library is asked for by mistake: right, or one sentence; never silently wrong."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.generate import cache_argument
from seats_cli.engine.prune import prune
from seats_cli.errors import ConfigError, ModelError, UsageError
from seats_cli.media import Clip
from seats_cli.models import LoadedModel, build_inputs

CONFIG = SeatsConfig.preset("10%")
QUESTIONS = ("What color is shown first?", "What color is shown last?")


@pytest.fixture(scope="module")
def inputs(loaded: LoadedModel, clip: Clip) -> dict[str, Any]:
    return build_inputs(loaded, clip, QUESTIONS[0])


def generate(loaded: LoadedModel, inputs: dict[str, Any], **more: Any) -> Any:
    tokenizer = loaded.processor.tokenizer
    return loaded.model.generate(
        **inputs,
        max_new_tokens=4,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


@pytest.mark.parametrize("wrong", ["10%", {"retain": 0.1}, 0.1, None])
def test_what_is_no_plan_is_named(loaded: LoadedModel, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="a SeatsConfig or a PruningPlan, not"):
        prune(loaded.model, wrong)


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (nn.DataParallel, "`model.module`"),
        (lambda model: nn.Linear(2, 2), "A Linear is no model that seats can prune"),
        (lambda model: "bundled", "A str is no model that seats can prune"),
        (lambda model: None, "A NoneType is no model"),
        (lambda model: model.model.language_model, "is not supported"),
    ],
)
def test_what_is_no_model_is_named(
    loaded: LoadedModel, wrap: Callable[[Any], Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        prune(wrap(loaded.model), CONFIG)


def test_a_loaded_model_holds_the_model(loaded: LoadedModel) -> None:
    with pytest.raises(ModelError, match="pass its `model`"):
        prune(loaded, CONFIG)


def test_a_block_in_a_block_is_refused_and_harms_nothing(
    loaded: LoadedModel, clip: Clip, inputs: dict[str, Any]
) -> None:
    before = generate(loaded, inputs).tolist()
    with prune(loaded.model, CONFIG) as run:
        first = generate(loaded, inputs).tolist()
        with pytest.raises(UsageError, match="already: leave that block"):
            prune(loaded.model, CONFIG).__enter__()
        for config in (CONFIG, None):
            with pytest.raises(UsageError, match="already: leave that block"):
                ask(loaded, clip, QUESTIONS[0], config=config)
        assert generate(loaded, inputs).tolist() == first
        assert run.trace.stages
    assert generate(loaded, inputs).tolist() == before


def test_threads_wait_for_each_other(loaded: LoadedModel, clip: Clip) -> None:
    settings = [(question, config) for question in QUESTIONS for config in (CONFIG, None)] * 3

    def answer(setting: tuple[str, SeatsConfig | None]) -> tuple[str, Any]:
        found = ask(loaded, clip, setting[0], config=setting[1], max_new_tokens=4)
        return found.text, found.trace.stages[-1].kept.tolist() if setting[1] else None

    alone = [answer(setting) for setting in settings[:4]] * 3
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, settings)) == alone


def test_threads_inside_one_block_wait_for_each_other(
    loaded: LoadedModel, clip: Clip, inputs: dict[str, Any]
) -> None:
    other = build_inputs(loaded, clip, QUESTIONS[1])
    with prune(loaded.model, CONFIG):
        alone = [generate(loaded, one).tolist() for one in (inputs, other)]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda one: generate(loaded, one).tolist(), [inputs, other] * 3))
    assert found == alone * 3


def test_a_block_ends_for_other_threads_too(loaded: LoadedModel, inputs: dict[str, Any]) -> None:
    entered = threading.Event()

    def enter() -> None:
        with prune(loaded.model, CONFIG):
            entered.set()

    with prune(loaded.model, CONFIG):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(10)
    thread.join()


def test_no_copy_is_pruned_for_good(loaded: LoadedModel, inputs: dict[str, Any]) -> None:
    with torch.no_grad():
        plain = loaded.model(**inputs).logits
    parts = (loaded.model, loaded.model.model, loaded.model.model.language_model)
    with prune(loaded.model, CONFIG):
        for part in (*parts, nn.Sequential(loaded.model), {"model": loaded.model}):
            with pytest.raises(UsageError, match="copy it before or after"):
                copy.deepcopy(part)
    copied = copy.deepcopy(loaded.model)
    with torch.no_grad():
        assert torch.equal(copied(**inputs).logits, plain)
    with prune(copied, CONFIG):  # a model of its own
        assert copied(**inputs).logits.shape[1] < plain.shape[1]
    assert not any("__deepcopy__" in vars(part) for part in parts)


def continued(loaded: LoadedModel, output: Any) -> torch.Tensor:
    more = torch.cat([output.sequences, torch.tensor([[1, 2, 3]])], 1)
    name = cache_argument(loaded.model)
    given = {"input_ids": more, "attention_mask": torch.ones_like(more), name: output[name]}
    found: torch.Tensor = generate(loaded, given)
    return found


def test_a_pruned_cache_goes_on_inside_a_block_only(
    loaded: LoadedModel, inputs: dict[str, Any]
) -> None:
    with prune(loaded.model, CONFIG):
        output = generate(loaded, inputs, return_dict_in_generate=True)
        copies = [copy.deepcopy(output) for _ in range(3)]
        wanted = continued(loaded, output).tolist()
    for cache in copies[:2]:
        with pytest.raises(UsageError, match="continue it inside a block"):
            continued(loaded, cache)
    with prune(loaded.model, CONFIG):
        assert continued(loaded, copies[2]).tolist() == wanted


def test_generation_without_a_cache_is_refused(loaded: LoadedModel, inputs: dict[str, Any]) -> None:
    with prune(loaded.model, CONFIG), torch.no_grad():
        with pytest.raises(UsageError, match="leave out use_cache=False"):
            generate(loaded, inputs, use_cache=False)
        with_cache = loaded.model(**inputs).logits
        assert torch.equal(loaded.model(**inputs, use_cache=False).logits, with_cache)


def test_labels_are_refused(loaded: LoadedModel, inputs: dict[str, Any]) -> None:
    with prune(loaded.model, CONFIG), pytest.raises(UsageError, match="without `labels`"):
        loaded.model(**inputs, labels=inputs["input_ids"])
