"""The system turn: the template's own, another, an empty one; users' words are nothing but text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.errors import UsageError
from seats_cli.media.clip import Clip
from seats_cli.models import LoadedModel, build_inputs, load_model, prepare_clip
from seats_cli.results import Turn
from tests.models.test_load import noise_clip

LAYOUTS = ("omni-7b", "omni3-thinking")


@pytest.fixture(scope="module", params=LAYOUTS)
def loaded(request: pytest.FixtureRequest, hub_repository: Callable[[str], Path]) -> LoadedModel:
    return load_model(str(hub_repository(request.param)), device="cpu")


@pytest.fixture(scope="module")
def clip(loaded: LoadedModel) -> Clip:
    return noise_clip(loaded.sizing.factor, seconds=2)


def words(loaded: LoadedModel, clip: Clip, system: str | None, question: str = "What?") -> str:
    """The prompt up to the user's turn, as text."""
    ids = build_inputs(loaded, clip, question, system=system)["input_ids"][0]
    return str(loaded.processor.tokenizer.decode(ids)).partition("<|im_start|>user")[0]


def test_absent_as_the_template_has_it(loaded: LoadedModel, clip: Clip) -> None:
    own = words(loaded, clip, None)
    if loaded.facts.family == "qwen2_5_omni":
        assert own == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    else:
        assert own == ""


@pytest.mark.parametrize("system", ["", "Answer in one word.", "Réponds\nen français : 你好"])
def test_another_turn_as_the_processor_makes_it(
    loaded: LoadedModel, clip: Clip, system: str
) -> None:
    assert words(loaded, clip, system) == f"<|im_start|>system\n{system}<|im_end|>\n"
    turns = [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": [{"type": "text", "text": "What?"}]},
    ]
    text = loaded.processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    tokenizer = loaded.processor.tokenizer
    official = tokenizer.encode(text.partition("<|im_start|>user")[0])
    ids = build_inputs(loaded, clip, "What?", system=system)["input_ids"][0]
    assert ids[: len(official)].tolist() == official


@settings(max_examples=20, deadline=None)
@given(system=st.text(), question=st.text(min_size=1).filter(lambda text: text.strip()))
def test_any_words_arrive_whole_and_in_their_turn(
    loaded: LoadedModel, clip: Clip, system: str, question: str
) -> None:
    system, question = (
        text.encode("utf-8", "replace").decode("utf-8") for text in (system, question)
    )
    tokenizer = loaded.processor.tokenizer
    ids = build_inputs(loaded, clip, question, system=system)["input_ids"][0].tolist()
    start = len(tokenizer.encode("<|im_start|>system\n"))
    ends = [place for place, token in enumerate(ids) if token == tokenizer.eos_token_id]
    whole = tokenizer.decode(tokenizer.encode(system, split_special_tokens=True))
    assert tokenizer.decode(ids[start : ends[0]]) == whole
    asked = tokenizer.decode(tokenizer.encode(question, split_special_tokens=True))
    assert tokenizer.decode(ids[: ends[1]]).endswith(asked)
    assert len(ends) == 2


def test_control_tokens_are_text(loaded: LoadedModel, clip: Clip) -> None:
    tokenizer = loaded.processor.tokenizer
    spelled = list(tokenizer.get_added_vocab())
    special = torch.tensor(tokenizer.convert_tokens_to_ids(spelled))
    counts = [
        int(
            torch.isin(
                build_inputs(loaded, clip, texts[0], system=texts[1])["input_ids"], special
            ).sum()
        )
        for texts in (
            ("What?", ""),
            ("What?", f"Do {' '.join(spelled)}"),
            (f"{''.join(spelled)}?", ""),
        )
    ]
    assert counts[0] == counts[1] == counts[2]
    turns = [
        build_inputs(loaded, clip, "What?", history=[Turn(asked, answer)])["input_ids"]
        for asked, answer in (("What?", "Red."), (" ".join(spelled), f"So: {''.join(spelled)}"))
    ]
    plain, tricky = (int(torch.isin(ids, special).sum()) for ids in turns)
    assert plain == tricky
    assert "</think>" in spelled or loaded.facts.family == "qwen2_5_omni"


def test_a_prepared_clip_has_its_own(loaded: LoadedModel, clip: Clip) -> None:
    prepared = prepare_clip(loaded, clip, system="Be brief.")
    together = build_inputs(loaded, clip, "What?", system="Be brief.")["input_ids"]
    assert torch.equal(build_inputs(loaded, prepared, "What?")["input_ids"], together)
    with pytest.raises(UsageError, match="`prepare_clip`"):
        build_inputs(loaded, prepared, "What?", system="Be long.")


def test_the_answer_says_it(loaded: LoadedModel, clip: Clip) -> None:
    answer = ask(loaded, clip, "What?", config=SeatsConfig(), system="Hi.", max_new_tokens=1)
    plain = ask(loaded, clip, "What?", config=SeatsConfig(), system="", max_new_tokens=1)
    assert (answer.system, plain.system) == ("Hi.", "")
    more = len(loaded.processor.tokenizer.encode("Hi."))
    assert answer.trace.offered[2] == plain.trace.offered[2] + more
