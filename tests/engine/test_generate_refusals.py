"""What `generate` refuses on a pruned model, with the sentence of docs/library.md."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import StaticCache

from seats_cli.engine.generate import cache_argument
from seats_cli.errors import ModelError, UsageError
from tests.engine import golden
from tests.engine.conftest import GREEDY, held, holds, inputs, net, pruned, refusal

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("`use_cache=False`", {"use_cache": False}),
    ("`assistant_model`", {"assistant_model": nn.Linear(1, 1)}),
    ("`prompt_lookup_num_tokens`", {"prompt_lookup_num_tokens": 3}),
    ("`prefill_chunk_size`", {"prefill_chunk_size": 64}),
    ("contrastive search", {"penalty_alpha": 0.6, "top_k": 4}),
    ("DoLa", {"dola_layers": "low"}),
    ("group beam search", {"num_beams": 4, "num_beam_groups": 2}),
    ("constrained beam search", {"force_words_ids": [[5]], "num_beams": 2}),
    ("`custom_generate`", {"custom_generate": lambda model, **_: None}),
    ("`guidance_scale`", {"guidance_scale": 1.5}),
    ("`inputs_embeds`", {"inputs_embeds": torch.zeros(1, 740, 64)}),
    ("a batch of prompts, padded or not", {"input_ids": torch.zeros(2, 9, dtype=torch.long)}),
    *(
        ("`cache_implementation` (static, quantized, offloaded)", {"cache_implementation": kind})
        for kind in ("static", "quantized", "offloaded", "paged")
    ),
]
held.update(row for row, _ in REFUSED)


@pytest.mark.parametrize(("row", "settings"), REFUSED)
def test_what_gives_another_answer_is_refused_at_once(row: str, settings: dict[str, Any]) -> None:
    model = net("qwen2_5")
    given = {**inputs("qwen2_5"), "max_new_tokens": 2, **settings}

    def encode(*_: Any) -> None:
        raise AssertionError("a refused call has begun")

    handle = model.model.visual.register_forward_pre_hook(encode)
    try:
        with pruned("qwen2_5"), pytest.raises(UsageError, match=refusal(row)):
            model.generate(**given)
    finally:
        handle.remove()


def test_settings_of_the_model_count_as_those_of_the_call() -> None:
    model = net("qwen2_5")
    config = copy.deepcopy(model.generation_config)
    config.cache_implementation = "static"
    with pruned("qwen2_5"):
        with pytest.raises(UsageError, match="not one that is static"):
            model.generate(**inputs("qwen2_5"), generation_config=config)
        given = inputs("qwen2_5")
        with pytest.raises(UsageError, match="not one that is static"):
            model.generate(given.pop("input_ids"), config, **given)  # without their names


class Omni(nn.Module):
    """As the full models call their thinker."""

    def __init__(self, has_talker: bool) -> None:
        super().__init__()
        self.thinker, self.has_talker = net("qwen2_5"), has_talker
        self.config = type("Config", (), {"model_type": "qwen2_5_omni"})

    def generate(self, input_ids: Tensor, generation_mode: Any = None, **given: Any) -> Any:
        given.pop("return_audio", None)
        return self.thinker.generate(input_ids=input_ids, **given)


@holds("speech about a clip (talker)")
def test_speech_about_a_clip_is_refused() -> None:
    given = {**inputs("qwen2_5"), "max_new_tokens": 2, **GREEDY}
    wanted = None
    for talker, more in (
        (False, {}),
        (True, {"generation_mode": "text"}),
        (True, {"return_audio": False}),
    ):
        omni = Omni(talker)
        with pruned("qwen2_5", model=omni):
            found = omni.generate(**given, **more)
        assert wanted is None or torch.equal(found, wanted)
        wanted = found
    with pruned("qwen2_5", model=omni):
        for more in ({}, {"return_audio": True}, {"generation_mode": "audio"}):
            with pytest.raises(UsageError, match=refusal("speech about a clip (talker)")):
                omni.generate(**given, **more)
        omni.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=2)
    assert "generate" not in vars(omni)


@holds("a model of `torch.compile`")
def test_a_compiled_model_is_refused() -> None:
    row = refusal("a model of `torch.compile`")
    with pytest.raises(ModelError, match=row):
        pruned("qwen2_5", model=torch.compile(net("qwen2_5")))
    model = golden.build("qwen2_5")
    model.model.language_model.compile()
    with pytest.raises(ModelError, match=row):
        pruned("qwen2_5", model=model)


@torch.no_grad()
@holds(
    "a further turn with another prompt's cache",
    "a further turn with another clip",
    "a pruned cache outside of the block",
    "a static cache as `past_key_values`",
)
def test_a_cache_of_something_else_is_refused() -> None:
    model, name = net("qwen2_5"), cache_argument(net("qwen2_5"))
    with pruned("qwen2_5"):
        output = model.generate(
            **inputs("qwen2_5"), max_new_tokens=2, return_dict_in_generate=True, **GREEDY
        )
        kept, sequence = output[name], output.sequences
        for wrong in (sequence.flip(1), sequence[:, :-1], sequence[:, -1:]):
            with pytest.raises(
                UsageError, match=refusal("a further turn with another prompt's cache")
            ):
                model.generate(input_ids=wrong, max_new_tokens=2, **{name: kept})
        clip = torch.cat([sequence, inputs("qwen2_5")["input_ids"]], 1)
        with pytest.raises(UsageError, match=refusal("a further turn with another clip")):
            model.generate(input_ids=clip, max_new_tokens=2, **{name: kept})
        static = StaticCache(config=model.config.get_text_config(), max_cache_len=2000)
        with pytest.raises(UsageError, match=refusal("a static cache as `past_key_values`")):
            model.generate(**inputs("qwen2_5"), max_new_tokens=2, **{name: static})
    more = torch.cat([sequence, torch.tensor([[9]])], 1)
    with pytest.raises(UsageError, match=refusal("a pruned cache outside of the block")):
        model.generate(input_ids=more, max_new_tokens=2, **{name: kept})
