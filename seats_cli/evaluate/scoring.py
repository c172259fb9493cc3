"""How an item is put to the model, and whether its answer is right."""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass

from seats_cli.evaluate.questions import LETTERS, EvalProtocol, Item


def prompt_for(item: Item, protocol: EvalProtocol) -> str:
    """What the model is asked about the clip.

    Parameters
    ----------
    protocol : EvalProtocol
        Its `choice_style`, labels, `preamble` and `instruction` matter for items with choices.

    Returns
    -------
    str
        For choices by letter: preamble, question, one line for each option, instruction, and the
        labels where there are any; else the question alone.
    """
    if not item.choices or protocol.choice_style == "likelihood":
        return item.question
    options = [f"{letter}. {text}" for letter, text in zip(item.letters, item.choices, strict=True)]
    question = protocol.question_label + item.question
    parts = [protocol.preamble, question, protocol.options_label, *options, protocol.instruction]
    return "\n".join(part for part in parts if part)


def options_for(item: Item, protocol: EvalProtocol) -> tuple[str, ...]:
    """Options to compare by likelihood; empty where the answer is to be generated."""
    return item.choices if protocol.choice_style == "likelihood" else ()


_NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
)
_NUMBERS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = frozenset({"a", "an", "the"})
# "The answer is (B)", "Answer: B", "option B"; the letter stands alone, and is a capital unless
# it ends the text, or every "a" would be a choice.
_STATED = re.compile(
    r"(?i:\b(?:answer|option|choice)\b(?:\s+(?:is|would\s+be|must\s+be))?)\s*:?\s*"
    r"(?i:option\s+|choice\s+)?[(\[\"']?([A-Z](?![\w'])|[a-z](?=\W*$))"
)
_LEADING = re.compile(r"^[(\[]?([A-Za-z])(?:[)\]]|[.:](?=\s|$))")
_AND_MORE = re.compile(r"\s*(?:,|/|or\b|and\b)", re.IGNORECASE)
_BRACKETED = re.compile(r"\(([A-Z])\)")


@dataclass(frozen=True)
class Verdict:
    """What scoring made of an answer."""

    correct: bool
    # No answer could be read from the text; never True together with `correct`.
    unparsed: bool = False
    read_as: str = ""  # the letter, or the normalised text, that was compared; empty if unparsed


def score(item: Item, given: str) -> Verdict:
    """Compare a model's text with the right answer.

    Parameters
    ----------
    item : Item
        With choices, a letter or the text of an option is looked for; without, texts must be
        the same after `normalise`, lists item by item and in order, with no credit for a part.
    given : str
        The text; for options compared by likelihood, that of the likeliest option.
    """
    if item.choices:
        letter = parse_choice(given, item.choices)
        if letter is None:
            return Verdict(False, unparsed=True)
        return Verdict(letter == item.answer, read_as=letter)
    text = normalise_list(given)
    if not any(text):
        return Verdict(False, unparsed=True)
    return Verdict(text == normalise_list(item.answer), read_as=", ".join(text))


def parse_choice(given: str, choices: tuple[str, ...]) -> str | None:
    """The letter that a text chooses; None if it chooses none, or more than one.

    Recognised are the letter ("B", "(b)", "B.", "B. red"), a statement ("The answer is B."), a
    letter in brackets, and the text of an option as it stands. Words that merely mention an
    option are no choice.
    """
    letters = LETTERS[: len(choices)]
    text = unicodedata.normalize("NFKC", given).replace("*", "").strip()
    if not text:
        return None
    options = [normalise(option) for option in choices]
    whole = normalise(text)
    if whole and options.count(whole) == 1:
        return letters[options.index(whole)]
    if len(bare := text.strip(string.punctuation + string.whitespace)) == 1:
        return bare.upper() if bare.upper() in letters else None
    if leading := _LEADING.match(text):
        letter = leading[1].upper()
        alone = _AND_MORE.match(text, leading.end()) is None
        return letter if alone and letter in letters else None
    head, *rest = text.split(maxsplit=1)
    if head in letters and rest and normalise(rest[0]) == options[letters.index(head)]:
        return head
    for pattern in (_STATED, _BRACKETED):
        found = {letter.upper() for letter in pattern.findall(text)}
        if found:
            letter = found.pop()
            return letter if not found and letter in letters else None
    return None


def normalise(text: str) -> str:
    """A short answer without case, punctuation around it, articles, or numbers in words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = [word for part in folded.split() if (word := part.strip(string.punctuation))]
    kept = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_NUMBERS.get(word, word) for word in kept)


def normalise_list(text: str) -> tuple[str, ...]:
    """The parts of a list ("red, blue and green"), normalised; one part for a single answer."""
    parts = re.split(r"\s*(?:,|;|\band\b|\n)\s*", text.strip(), flags=re.IGNORECASE)
    return tuple(normalised for part in parts if (normalised := normalise(part)))
