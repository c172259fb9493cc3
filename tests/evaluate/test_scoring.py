"""Reading answers: letters, texts and lists; never a guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seats_cli.evaluate.questions import LETTERS, Item
from seats_cli.evaluate.scoring import normalise, normalise_list, parse_choice, score

COLORS = ("red", "blue", "dark green", "white")


# How models answer, and how public harnesses have read them wrongly: the first capital letter of
# the text ("The" is T), the article "a", the last letter of an explanation, a letter in the
# reasoning or in the options repeated, letters wrapped in Markdown or LaTeX.
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
        "Ｂ",
        "B\n\nExplanation: option A is wrong because it is shown later.",
        "A. red\nB. blue\nC. dark green\nD. white\n\nAnswer: B",
        "(A) red (B) blue (C) dark green (D) white. The answer is (B).",
        "A. red is not shown; the answer is B.",
        "A) is wrong, B) is right",
        "<think>maybe A, or option C?</think>B",
        "<think>The answer is A? no.</think>\n\nB",
        "Let me think. Option A is red. Option B is blue. So the answer is B.",
        "B\nThe video shows a blue card, not A.",
        "\\boxed{B}",
        "答案是B",
        "选B",
        "B。",
        "B.blue",
        "b.",
        "(b)",
        "b) blue",
        "B, because A is shown later",
        "B - blue",
        "B – blue",
        "B: blue",
        "B because the card is blue.",
        "B, and not A",
        "the answer is b",
        "Answer: b",
        "Answer: **B**",
        "**Answer:** B",
        "**Answer:**\n\n**B**",
        "ANSWER: $B$",
        "$\\boxed{\\text{B}}$",
        "The answer is \\(\\boxed{B}\\).",
        "<answer>B</answer>",
        "<think>A</think><answer>B. blue</answer>",
        '{"answer": "B"}',
        "Final answer: B",
        "The answer is A at first sight. Final answer: B",
        "The correct answer is option B.",
        "The correct option is (B) blue.",
        "Option B is correct.",
        "Option B",
        "Option B: blue",
        "Choice B.",
        "I would choose B.",
        "I'd go with option B.",
        "I choose (B)",
        "It's B.",
        "I think it is B",
        "The best answer is: B",
        "My answer would be B.",
        "Answer seems to be B.",
        "正确答案是B",
        "正确答案：B",
        "答案为 B。",
        "选择B",
        "应选B项",
        "故选B",
        "选项B",
        "B、blue",
        "答案：（B）",
        "正解はBです",
        "정답은 B입니다",
        "Antwort: B",
        "Die Antwort ist B.",
        "La réponse est B.",
        "La respuesta es B",
        "A resposta é B.",
        "The answer is blue.",
        "Answer: blue",
        "It is blue.",
        "Based on the video, the answer is B.",
        "The answer is B. Note that A is a common distractor.",
        "The answer is B because a car moves.",
        "I pick B — a safe choice.",
        "Answer:\nB",
        "answer = B",
        "B is the answer",
        "B is correct, A is not.",
        "The answer isn't A, it's B",
        "A is wrong. The answer: B",
        "option (b) blue",
        "The letter is B.",
        '"B"',
        "'B'",
        "{B}",
        "B\n",
        "  B  ",
        'The answer is "B".',
        "> B",
        "B. blue\n\nA. red is wrong.",
        "</think>B",
        "I considered (A), but it is incorrect. Final answer: B.",
        "### Answer\nB",
        "Answer: B. blue; option A comes later",
        "(B) blue",
        "The correct choice would be B, since A comes later",
        "The question asks for the first colour. A: red is last. So it must be B.",
        "Answer: B\nAnswer: B",
        "Therefore, B is the correct answer.",
        "Among A, B, C and D, the answer is B",
        "B) blue because A) isn't shown",
        "Answer: B. blue (not A)",
        "The correct answer is B, not A.",
        "Answer - B",
        "Answer (B)",
        "Answer B",
        "My answer is: B) blue",
        "B is the right option; A can't be right",
        "A isn't right. B is right.",
        "The answer is option B: blue",
        "Final Answer: \\boxed{B}",
        "**Final Answer: (B) blue**",
        "Correct answer: B",
        "the correct choice is b",
        "Answer: b) blue",
        "B\r\n",
        "Answer: B</s>",
        "Answer:B",
        "answer:b",
        "Answer： B",
        "The answer is:\n\nB",
        "The answer is: **(B)**.",
        "Thus, the answer is B.",
        "Step 1: A is red. Step 2: so the answer is B.",
        "Sure! The answer is B.",
        "Hmm. I'd say B.",
        "Looking at the options: A. red, B. blue, C. dark green, D. white. I choose B.",
        "The correct answer is B: blue.",
        "Question: which? A. red B. blue C. dark green D. white Answer: B",
        "B)blue",
        "(B).",
        "B;",
        "`B`",
        "__B__",
        "<b>B</b>",
        "The right one is B.",
        "It\N{RIGHT SINGLE QUOTATION MARK}s B",
        "The answer\N{RIGHT SINGLE QUOTATION MARK}s B",
        "The answer's B.",
        "The answer could be B",
        "It's blue.",
        "Of these, B is correct.",
        "D is wrong; so are A and C. The answer is B.",
        "Answer is B",
        "B. Blue",
        "BLUE",
        "the answer is Blue.",
        "The final answer is $\\boxed{B}$. I hope it is correct.",
        "B (blue)",
        "B (not A)",
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
        "A and B",
        "A/B",
        "A & B",
        "purple",
        "The answer is A or B",
        "Both A and B are right",
        "Option A is red. Option B is blue.",
        "A. red\nB. blue\nC. dark green\nD. white",
        "(A) red (B) blue (C) dark green (D) white",
        "<think>The answer is B",
        "<think>B",
        "The answer is not A.",
        "A is wrong.",
        "It is not A",
        "Answer: None of the above",
        "Answer",
        "Answer: the card",
        "e.g. a card",
        "I think a card is shown",
        "A car is shown",
        "The answer is a car",
        "The answer is A car.",
        "Based on the video",
        "Vitamin C",
        "Cannot tell.",
        "答案",
        "BD",
        "Answer: BD",
        "A. red and B. blue",
        "I",
        "As an AI I cannot see the video",
        "The first one is red. The last is blue.",
        "At first it is red. Later blue appears.",
        "The beeps come as it's blue. Then the card turns red.",
        "No one is A",
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
        ("red", "<think>It may be blue.</think>\n\nRed", True),
        ("red", "<answer>red</answer>", True),
        ("3", "$\\boxed{3}$", True),
    ],
)
def test_open_answers(answer: str, text: str, right: bool) -> None:
    verdict = score(open_item(answer), text)
    assert verdict.correct is right
    assert not verdict.unparsed


def test_what_cannot_be_read_is_wrong_and_marked() -> None:
    for item in (open_item("red"), Item("a", "c", "What?", "A", choices=COLORS)):
        verdict = score(item, "<think>It may be red")
        assert (verdict.correct, verdict.unparsed, verdict.read_as) == (False, True, "")
    verdict = score(Item("a", "c", "What?", "A", choices=COLORS), "blue")
    assert (verdict.correct, verdict.unparsed, verdict.read_as) == (False, False, "B")


def test_lists() -> None:
    assert normalise_list("The red, a blue AND two") == ("red", "blue", "2")
    assert normalise_list("sand; band") == ("sand", "band")
