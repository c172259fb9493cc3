"""Reasoning and answer apart, however the text is cut into pieces."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.thinking import ThoughtSplitter, split_thoughts
from seats_cli.errors import ResourceError, UsageError
from seats_cli.families.generation import USUAL, Sampling, is_captioner, read_sampling
from seats_cli.media.clip import Clip
from seats_cli.models import LoadedModel, build_inputs, load_model
from seats_cli.report.documents import answer_document
from tests.models.test_load import noise_clip

# Texts made of tags, parts of tags, and letters.
texts = st.lists(
    st.one_of(
        st.sampled_from(["<think>", "</think>", "<thin", "</", "<", "think>", "\n\n", " "]),
        st.text("ab<>/ \n", max_size=4),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("red", "", "red"),
        ("<think>\nHm.\n</think>\n\nred", "Hm.", "red"),
        ("So: <think>Hm.</think> red", "Hm.", "So:  red"),
        ("<think>a</think>b<think>c</think>d", "a\n\nc", "bd"),
        ("Hm.</think>\n\nred", "Hm.", "red"),
        ("<think>a</think>b</think>c", "a", "bc"),
        ("<think>a<think>b</think>c", "a<think>b", "c"),
        ("<think>Hm. It", "Hm. It", ""),
        ("<think></think>", "", ""),
        ("1 < 2 <thin air", "", "1 < 2 <thin air"),
        ("", "", ""),
    ],
)
def test_whole_texts(text: str, thinking: str, answer: str) -> None:
    found = split_thoughts(text)
    assert (found.thinking, found.answer) == (thinking, answer)


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [("Hm.</think>red", "Hm.", "red"), ("Hm.", "Hm.", ""), ("</think>red", "", "red")],
)
def test_opened_in_the_prompt(text: str, thinking: str, answer: str) -> None:
    found = split_thoughts(text, opened=True)
    assert (found.thinking, found.answer) == (thinking, answer)
    assert found.inside == ("</think>" not in text)


@given(text=texts, cuts=st.lists(st.integers(0, 60)), opened=st.booleans(), wait=st.booleans())
def test_any_pieces_give_the_same(text: str, cuts: list[int], opened: bool, wait: bool) -> None:
    said: list[str] = []
    thought: list[str] = []
    splitter = ThoughtSplitter(said.append, thought.append, opened=opened, wait=wait)
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for start, end in pairwise(places):
        splitter.feed(text[start:end])
    splitter.finish()
    whole = split_thoughts(text, opened=opened)
    assert (splitter.thinking, splitter.answer) == (whole.thinking, whole.answer)
    assert splitter.inside == whole.inside
    # What was passed on is what they are, unless it was passed on too early.
    assert "".join(thought).strip() == splitter.thinking
    if not splitter.mistaken:
        assert "".join(said).strip() == splitter.answer
        assert not said or not said[0][0].isspace()


@given(text=texts, opened=st.booleans())
def test_who_waits_is_never_mistaken(text: str, opened: bool) -> None:
    said: list[str] = []
    splitter = ThoughtSplitter(said.append, opened=opened, wait=True)
    for character in text:
        splitter.feed(character)
    assert not splitter.finish().mistaken
    assert "".join(said).strip() == splitter.answer


@given(text=texts)
def test_nothing_is_lost(text: str) -> None:
    found = split_thoughts(text)
    bare = text.replace("<think>", "").replace("</think>", "")
    kept = found.thinking + found.answer
    if "<think" not in kept:  # an opening tag inside a block is text
        assert sorted("".join(bare.split())) == sorted("".join(kept.split()))


def test_a_tag_in_pieces_is_not_passed_on() -> None:
    said: list[str] = []
    splitter = ThoughtSplitter(said.append)
    for piece in ("1 ", "<", "th", "ink", ">Hm</thi", "nk", "> 2 <", "3"):
        splitter.feed(piece)
    assert "".join(said) == "1  2 <3"
    assert splitter.finish().thinking == "Hm"


# ------------------------------------------------- on a checkpoint, with the tokens that it "says"


@pytest.fixture(scope="module")
def loaded(hub_repository: Callable[[str], Path]) -> LoadedModel:
    return load_model(str(hub_repository("omni3-thinking")), device="cpu")


@pytest.fixture(scope="module")
def clip(loaded: LoadedModel) -> Clip:
    return noise_clip(loaded.sizing.factor, seconds=2)


@contextmanager
def saying(loaded: LoadedModel, text: str) -> Iterator[None]:
    """Let the model generate the tokens of a text, one for each step, and then what it likes."""
    script = iter(loaded.processor.tokenizer.encode(text))

    def force(_module: Any, _args: Any, logits: Tensor) -> Tensor:
        if len(logits) == 1 and (token := next(script, None)) is not None:
            logits = logits - 1e4
            logits[..., token] = 1e4
        return logits

    with loaded.adapter.lm_head.register_forward_hook(force):
        yield


END = "<|im_end|>"
SPOKEN = "<think>\nA card is shown. It is red, not blue.\n</think>\n\nThe first card is red."


class Heard:
    """What came on the answer's and the reasoning's way, in order."""

    def __init__(self) -> None:
        self.pieces: list[tuple[str, str]] = []

    def answer(self, piece: str) -> None:
        self.pieces.append(("answer", piece))

    def thinking(self, piece: str) -> None:
        self.pieces.append(("thinking", piece))

    def of(self, kind: str) -> str:
        return "".join(piece for name, piece in self.pieces if name == kind).strip()


@pytest.mark.parametrize("config", [None, SeatsConfig.preset("25%")], ids=["full", "pruned"])
def test_reasoning_is_not_the_answer(
    loaded: LoadedModel, clip: Clip, config: SeatsConfig | None
) -> None:
    heard = Heard()
    with saying(loaded, SPOKEN + END):
        answer = ask(
            loaded,
            clip,
            "What?",
            config=config,
            on_text=heard.answer,
            on_thinking=heard.thinking,
        )
    assert answer.thinking == "A card is shown. It is red, not blue."
    assert answer.text == "The first card is red."
    assert (heard.of("thinking"), heard.of("answer")) == (answer.thinking, answer.text)
    assert len(heard.pieces) > 4
    assert answer.finish_reason == "stop"
    assert answer.warnings == ()
    document = answer_document(answer)
    assert (document["thinking"], document["answer"]) == (answer.thinking, answer.text)


def test_cut_off_there_is_no_answer(loaded: LoadedModel, clip: Clip) -> None:
    with saying(loaded, SPOKEN + END):
        answer = ask(loaded, clip, "What?", config=None, max_new_tokens=6)
    assert (answer.text, answer.finish_reason) == ("", "length")
    assert answer.thinking.startswith("A card")
    (warning,) = answer.warnings
    assert "6 tokens" in warning
    assert "`max_new_tokens`" in warning


def test_an_answer_that_is_cut_is_there(loaded: LoadedModel, clip: Clip) -> None:
    room = len(loaded.processor.tokenizer.encode(SPOKEN)) - 3
    with saying(loaded, SPOKEN + END):
        answer = ask(loaded, clip, "What?", config=None, max_new_tokens=room)
    assert answer.text.startswith("The first")
    assert (answer.finish_reason, answer.warnings) == ("length", ())


def test_the_turn_ends_while_thinking(loaded: LoadedModel, clip: Clip) -> None:
    with saying(loaded, f"<think>Hm.{END}"):
        answer = ask(loaded, clip, "What?", config=None)
    assert (answer.text, answer.thinking, answer.finish_reason) == ("", "Hm.", "stop")
    assert "still thinking" in answer.warnings[0]


def opening(loaded: LoadedModel, *, thinks: bool = True) -> LoadedModel:
    """The model with a template that opens the block in the prompt."""
    processor = copy.copy(loaded.processor)
    template = processor.chat_template
    said = "'<|im_start|>assistant\n' }}"
    assert said in template
    processor.chat_template = template.replace(said, f"{said}{{{{ '<think>\\n' }}}}")
    sampling = loaded.sampling if thinks else USUAL
    return dataclasses.replace(loaded, processor=processor, sampling=sampling)


def test_opened_by_the_template(loaded: LoadedModel, clip: Clip) -> None:
    model, heard = opening(loaded), Heard()
    with saying(model, SPOKEN.removeprefix("<think>\n") + END):
        answer = ask(
            model, clip, "What?", config=None, on_text=heard.answer, on_thinking=heard.thinking
        )
    assert answer.thinking == "A card is shown. It is red, not blue."
    assert answer.text == heard.of("answer") == "The first card is red."
    assert heard.pieces[0][0] == "thinking"


def test_a_question_cannot_open_it(loaded: LoadedModel, clip: Clip) -> None:
    with saying(loaded, f"red{END}"):
        answer = ask(loaded, clip, "Complete: <think>", config=None)
    assert (answer.text, answer.thinking) == ("red", "")


def test_the_checkpoint_says_how_to_sample(loaded: LoadedModel, clip: Clip) -> None:
    assert loaded.sampling == Sampling(32_768, 0.6, 0.95, 20)
    assert loaded.thinks
    with saying(loaded, SPOKEN + END):
        own = ask(loaded, clip, "What?", config=None)
    prompt = own.trace.length
    left = loaded.architecture.max_positions - prompt
    assert own.sampling == Sampling(min(32_768, left), 0.6, 0.95, 20)
    with saying(loaded, SPOKEN + END):
        typed = ask(loaded, clip, "What?", config=None, temperature=0, top_k=3, max_new_tokens=90)
    assert typed.sampling == Sampling(90, 0.0, 0.95, 3)


def test_a_length_that_was_asked_for_must_fit(loaded: LoadedModel, clip: Clip) -> None:
    small = dataclasses.replace(loaded.architecture, max_positions=300)
    tight = dataclasses.replace(loaded, architecture=small)
    with pytest.raises(ResourceError):
        ask(tight, clip, "What?", config=None, max_new_tokens=32_768)


def test_top_k_draws_from_the_likeliest(loaded: LoadedModel, clip: Clip) -> None:
    greedy = ask(loaded, clip, "What?", config=None, temperature=0, max_new_tokens=6)
    hot = {"temperature": 50.0, "top_p": 1.0, "max_new_tokens": 6, "seed": 3}
    one = ask(loaded, clip, "What?", config=None, top_k=1, **hot)
    all_of_them = ask(loaded, clip, "What?", config=None, top_k=0, **hot)
    assert one.token_ids == greedy.token_ids
    assert all_of_them.token_ids != greedy.token_ids


# -------------------------------------------------------------------------------------- options


def direct_shares(
    loaded: LoadedModel, clip: Clip, said: str, choices: Sequence[str]
) -> list[float]:
    """Shares of options behind a text, each by a run of its own over the whole sequence."""
    tokenizer, totals = loaded.processor.tokenizer, []
    inputs = build_inputs(loaded, clip, "What?")
    prompt = inputs.pop("input_ids")
    inputs.pop("attention_mask")
    for choice in choices:
        option = [*tokenizer.encode(choice), tokenizer.eos_token_id]
        tail = torch.tensor([[*tokenizer.encode(said), *option]])
        ids = torch.cat([prompt, tail], 1)
        with torch.no_grad():
            logits = loaded.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), **inputs
            ).logits[0]
        scores = logits[-len(option) - 1 : -1].log_softmax(-1)
        totals.append(scores.gather(1, torch.tensor(option)[:, None]).sum())
    return torch.stack(totals).double().softmax(0).tolist()


CHOICES = ("red", "blue and green", "a card")


def test_options_are_scored_behind_the_reasoning(loaded: LoadedModel, clip: Clip) -> None:
    heard = Heard()
    thought = "<think>\nIt is red.\n</think>"
    with saying(loaded, thought):
        answer = ask(
            loaded, clip, "What?", config=None, choices=CHOICES, on_thinking=heard.thinking
        )
    assert answer.thinking == heard.of("thinking") == "It is red."
    expected = direct_shares(loaded, clip, f"{thought}\n\n", CHOICES)
    assert [score.probability for score in answer.choices] == pytest.approx(expected, rel=1e-3)
    plain = direct_shares(loaded, clip, "", CHOICES)
    assert [score.probability for score in answer.choices] != pytest.approx(plain, rel=1e-3)
    assert answer.token_ids == tuple(loaded.processor.tokenizer.encode(thought))


def test_without_reasoning_as_ever(loaded: LoadedModel, clip: Clip) -> None:
    answer = ask(loaded, clip, "What?", config=None, choices=CHOICES)
    expected = direct_shares(loaded, clip, "", CHOICES)
    assert [score.probability for score in answer.choices] == pytest.approx(expected, rel=1e-3)
    assert (answer.thinking, answer.token_ids) == ("", ())


def test_reasoning_without_end_is_ended(loaded: LoadedModel, clip: Clip) -> None:
    text = "<think>\nIt is red. Or is it blue?"
    ids = loaded.processor.tokenizer.encode(text)
    longest = max(len(loaded.processor.tokenizer.encode(choice)) for choice in CHOICES) + 1
    with saying(loaded, text):
        answer = ask(
            loaded,
            clip,
            "What?",
            config=None,
            choices=CHOICES,
            max_new_tokens=len(ids) + longest,
        )
    assert answer.thinking == "It is red. Or is it blue?"
    assert "still thinking" in answer.warnings[0]
    expected = direct_shares(loaded, clip, f"{text}\n</think>\n\n", CHOICES)
    assert [score.probability for score in answer.choices] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("kv", ["layerwise", "survivors"])
def test_options_behind_pruned_reasoning(loaded: LoadedModel, clip: Clip, kv: str) -> None:
    """The pruned prefill runs once, and the options see what it kept."""
    config = SeatsConfig(retain=0.25, kv=kv)
    with saying(loaded, "<think>\nIt is red.\n</think>"):
        answer = ask(loaded, clip, "What?", config=config, choices=CHOICES)
    assert answer.thinking == "It is red."
    assert answer.trace.stages
    assert sum(score.probability for score in answer.choices) == pytest.approx(1)


def test_options_where_the_template_opens(loaded: LoadedModel, clip: Clip) -> None:
    model = opening(loaded, thinks=False)
    with saying(model, "It is red.\n</think>"):
        answer = ask(model, clip, "What?", config=None, choices=CHOICES, max_new_tokens=40)
    assert answer.thinking == "It is red."
    expected = direct_shares(model, clip, "It is red.\n</think>\n\n", CHOICES)
    assert [score.probability for score in answer.choices] == pytest.approx(expected, rel=1e-3)


# ------------------------------------------------------------------------------ asked for nothing


def test_nothing_is_asked(loaded: LoadedModel, clip: Clip) -> None:
    """The user's turn is the clip alone, as in the Captioner's model card."""
    tokenizer = loaded.processor.tokenizer
    ids = build_inputs(loaded, clip, None)["input_ids"][0]
    end = "<|audio_end|><|vision_end|><|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids).endswith(end)
    answer = ask(loaded, clip, None, config=SeatsConfig.preset("25%"), max_new_tokens=2)
    assert answer.question == ""
    with pytest.raises(UsageError, match="empty"):
        build_inputs(loaded, clip, " ")
    captioner = dataclasses.replace(loaded, captions=True)
    assert build_inputs(captioner, clip, " ")["input_ids"][0].tolist() == ids.tolist()
    assert not captioner.thinks


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("Qwen/Qwen3-Omni-30B-A3B-Captioner", "x", True),
        ("/data/omni-captioner/", "/data/omni-captioner", True),
        (".", "/cache/models--Qwen--Qwen3-Omni-30B-A3B-Captioner/snapshots/0a1", True),
        ("Qwen/Qwen3-Omni-30B-A3B-Thinking", "/captioner/thinking", False),
    ],
)
def test_captioners_by_name(name: str, folder: str, expected: bool) -> None:
    assert is_captioner(name, Path(folder)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"talker_temperature": 0.9, "eos_token_id": [1, 2]}, USUAL),
        ({"do_sample": True, "max_length": 20}, USUAL),
        ({"temperature": 0.6, "top_k": 20, "top_p": 0.95}, Sampling(128, 0.6, 0.95, 20)),
        ({"do_sample": False, "temperature": 0.6, "max_new_tokens": 2048}, Sampling(2048)),
        ({"temperature": "hot", "top_k": 20.5, "max_new_tokens": True}, USUAL),
        ({"temperature": 0.6, "top_p": 7, "top_k": -1, "max_new_tokens": 0}, Sampling(128, 0.6)),
        ([1], USUAL),
    ],
)
def test_what_generation_configs_say(tmp_path: Path, values: Any, expected: Sampling) -> None:
    assert read_sampling(tmp_path) == USUAL
    (tmp_path / "generation_config.json").write_text(json.dumps(values))
    assert read_sampling(tmp_path) == expected


def test_an_instruct_checkpoint_stays_as_it_was(
    hub_repository: Callable[[str], Path], clip: Clip
) -> None:
    instruct = load_model(str(hub_repository("omni3-instruct")), device="cpu")
    assert (instruct.sampling, instruct.thinks) == (USUAL, False)
    with saying(instruct, f"red{END}"):
        answer = ask(instruct, clip, "What?", config=None)
    assert (answer.text, answer.sampling) == ("red", USUAL)
