"""Answers end in front of a string, however its text is cut into pieces and tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seats_cli.config import SeatsConfig
from seats_cli.engine.answer import ask
from seats_cli.engine.stop_strings import MAX_STRINGS, Cut, cut_at
from seats_cli.errors import UsageError
from tests.models.test_load import noise_clip

letters = st.text("ab\n", min_size=1, max_size=3)


@example(["\n", "a", "\n"], ["a", "\na\n"])
@given(st.lists(st.text("ab\n", max_size=4)), st.lists(letters, min_size=1, max_size=3))
def test_pieces_are_those_in_front_of_the_first(pieces: list[str], stop: list[str]) -> None:
    found: list[str] = []
    cut = Cut(stop, found.append)
    for at, piece in enumerate(pieces):
        cut(piece)
        whole, ended = cut_at("".join(pieces[: at + 1]), stop)
        # No more is held back than may begin a string.
        held = len(whole) - len("".join(found))
        assert 0 <= held < max(map(len, stop))
        assert not (ended and held)
        if ended:  # nothing is generated any more, whatever the rest would begin
            assert "".join(found) == whole
            return
    cut.finish()
    assert "".join(found) == "".join(pieces)


@pytest.mark.parametrize("config", [None, SeatsConfig.preset("25%")])
def test_answers_end_there_and_so_does_the_work(loaded: Any, config: SeatsConfig | None) -> None:
    clip = noise_clip(28)

    def answer(**how: Any) -> tuple[Any, str]:
        told: list[str] = []
        found = ask(
            loaded,
            clip,
            "What?",
            config=config,
            max_new_tokens=24,
            min_new_tokens=24,
            on_text=told.append,
            **how,
        )
        return found, "".join(told)

    whole, _ = answer()
    assert whole.finish_reason == "length"
    middle = whole.text[len(whole.text) // 2 :][:3]  # wherever its tokens begin and end
    cut, told = answer(stop=["never", middle])
    before = whole.text[: whole.text.index(middle)]
    assert (cut.text, cut.finish_reason) == (before.rstrip(), "stop")
    assert told.rstrip() == cut.text
    # Generation ends with the token that completes the string.
    count = len(cut.token_ids)
    assert cut.token_ids == whole.token_ids[:count]
    assert count < 24
    tokenizer = loaded.processor.tokenizer
    assert middle in tokenizer.decode(cut.token_ids)
    assert middle not in tokenizer.decode(cut.token_ids[:-1])
    same, told = answer(stop=["never"])
    assert (same.text, same.token_ids, told.strip()) == (whole.text, whole.token_ids, whole.text)


def test_what_is_impossible(loaded: Any) -> None:
    for stop in ([""], "red", ["a"] * (MAX_STRINGS + 1), [1], ["a" * 1001]):
        with pytest.raises(UsageError, match="`stop`"):
            ask(loaded, noise_clip(28), "What?", config=None, stop=stop)
