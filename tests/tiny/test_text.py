"""Tokenizer and wording."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seats_cli.training.build import SPECIAL_TOKENS
from seats_cli.world.vocabulary import sound_phrases
from seats_cli.world.wording import FAMILIES, HEARD_KINDS, corpus, word_question


def test_tokenizer_round_trips_any_text(processor: Any) -> None:
    tokenizer = processor.tokenizer

    @settings(max_examples=60, deadline=None)
    @given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=30))
    def check(text: str) -> None:
        import unicodedata

        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)

    check()


def test_special_tokens_are_single_and_named_like_the_real_ones(processor: Any) -> None:
    for token in SPECIAL_TOKENS:
        assert len(processor.tokenizer.encode(token)) == 1
    assert processor.video_token == "<|VIDEO|>"
    assert processor.tokenizer.eos_token == "<|im_end|>"


def test_chat_template_places_the_question_after_the_clip(processor: Any) -> None:
    content = [{"type": "video", "video": "x"}, {"type": "text", "text": "What is heard?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_bos|><|VIDEO|><|vision_eos|>What is heard?<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("kind", HEARD_KINDS[1:])
def test_sounds_have_names(kind: str) -> None:
    assert sound_phrases(kind, 3).singular
    assert any("the" in phrase or "someone" in phrase for phrase in sound_phrases(kind, 1).during)


def test_forms_fill_completely() -> None:
    rng = np.random.default_rng(0)
    names = "object sound during color scene thing a_thing place shape group time when word"
    slots = dict.fromkeys((*names.split(), "print", "noun"), "WORD")
    for family in FAMILIES:
        for _ in range(20):
            text = word_question(rng, family, slots)
            assert "{" not in text
            assert text


def test_corpus_is_repeatable() -> None:
    lines = [corpus(np.random.default_rng(0), lines=50) for _ in range(2)]
    assert lines[0] == lines[1]
