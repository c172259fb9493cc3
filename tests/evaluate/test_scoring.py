"""Reading answers: letters, texts and lists; never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seats_cli.evaluate.questions import LETTERS, Item
from seats_cli.evaluate.scoring import normalise, normalise_list, parse_choice, score

COLORS = ("red", "blue", "dark green", "white")


@pytest.mark.parametrize(
    "text",
    [
        "B",
        "b",
        " B\n",
        "(B)",
        "[B]",
        "(b) blue",
        "B.",
        "B)",
        "B:",
        "**B**",
        "B. blue",
        "B. The card is blue, because (A) is wrong.",
        "B blue",
        "B\nblue",
        "blue",
        "Blue.",
        "The blue",
        "The answer is B.",
        "The correct answer is: **B. blue**",
        "the answer is b.",
        "Answer: B",
        "answer (B)",
        "Option B is right",
        "I would choose (B) here",
        "The answer would be option B",
        "Ｂ",  # full-width, as some models write beside Chinese text
    ],
)
def test_readings_of_b(text: str) -> None:
    assert parse_choice(text, COLORS) == "B"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "...",
        "E",
        "The answer is E.",
        "I do not know",
        "A red car turns blue",
        "not blue",
        "it is a red or a blue one",
        "(A) or (B)",
        "A, B",
        "The answer is A. No, the answer is B.",
        "answer",
        "green",
        "An apple",
    ],
)
def test_nothing_is_guessed(text: str) -> None:
    assert parse_choice(text, COLORS) is None


def test_options_that_look_like_letters_or_numbers() -> None:
    assert parse_choice("2", ("3", "2", "1")) == "B"
    assert parse_choice("two", ("3", "2", "1")) == "B"
    assert parse_choice("", ("A", "B")) is None
    assert parse_choice("red", ("red", "Red")) is None


@given(st.integers(2, 10), st.data())
def test_a_letter_is_read_whatever_the_options(count: int, data: st.DataObject) -> None:
    options = tuple(f"option number {index} of them" for index in range(count))
    letter = data.draw(st.sampled_from(LETTERS[:count]))
    shape = data.draw(
        st.sampled_from(["{}", "({})", "{}.", "The answer is {}.", "{}. " + options[0]])
    )
    assert parse_choice(shape.format(letter), options) == letter


@given(st.text())
def test_any_text_gives_a_letter_or_none(text: str) -> None:
    assert parse_choice(text, COLORS) in (None, *"ABCD")
    assert normalise(normalise(text)) == normalise(text)


def open_item(answer: str) -> Item:
    return Item("a", "clip.mp4", "What?", answer)


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("red", "Red.", True),
        ("red", "a red", True),
        ("red", "dark red", False),
        ("2", "two", True),
        ("2", "12", False),
        ("red, blue", "red and blue", True),
        ("red, blue", "Red,blue.", True),
        ("red, blue", "blue, red", False),
        ("red, blue", "red", False),
        ("red, blue", "red, blue, green", False),
        ("red, blue", "red, red, blue", False),
    ],
)
def test_open_answers(answer: str, text: str, right: bool) -> None:
    verdict = score(open_item(answer), text)
    assert verdict.correct is right
    assert not verdict.unparsed


def test_what_cannot_be_read_is_wrong_and_marked() -> None:
    for item in (open_item("red"), Item("a", "c", "What?", "A", choices=COLORS)):
        verdict = score(item, " .. ")
        assert (verdict.correct, verdict.unparsed, verdict.read_as) == (False, True, "")
    verdict = score(Item("a", "c", "What?", "A", choices=COLORS), "blue")
    assert (verdict.correct, verdict.unparsed, verdict.read_as) == (False, False, "B")


def test_lists() -> None:
    assert normalise_list("The red, a blue AND two") == ("red", "blue", "2")
    assert normalise_list("sand; band") == ("sand", "band")
