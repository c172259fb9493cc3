"""How an item is put to the model, and whether its answer is right."""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass

from seats_cli.engine.thinking import split_thoughts
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
# A letter that stands alone, possibly in brackets or quotes. A lower-case one must be marked off
# behind it, and so must "A" and "I", or articles and pronouns would be choices.
_OPEN, _CLOSE = r"[(\[{\"']*", r"[)\]}\"']*"
_GOES_ON = (
    r"because|since|as|for|but|and|or|is|was|which|where|given|based|due|according|in|with|here|not"
)
_LETTER = (
    rf"{_OPEN}(?:(?<![A-Za-z'-])(?:[B-HJ-Z](?![\w'])"
    rf"|[A-Z](?=[)\]}}\"'.,;:!?\n]|\s*$|\s+(?:{_GOES_ON})\b|\s*[^\x00-\x7f]|\s*[-/&=])"
    rf"|[a-z](?=[)\]}}.,;:!?\n]|\s*$)))"
)
_IS = (
    r"(?:is|was|be|are|(?:would|must|should|could|might|may|has\s+to)\s+be"
    r"|(?:seems|appears)\s+to\s+be)"
)
_NOUN = r"(?:answer|option|choice|letter|(?:correct|right|best)\s+one)"
# What stands between "answer" and what it is.
_SAYS = rf"(?:'s\b\s*:?|\s*[\"'\]]?\s*(?:{_IS}\b\s*:?|:|=|->|=>|→|-|—|(?=\()))"
_A_NOUN = (
    r"(?:(?:the\s+)?(?:(?:correct|right|best|final)\s+)?(?:answer|option|choice|letter)\s*:?\s*)?"
)
# How an answer is given: "The answer is (B)", "Answer: B", "I would choose option B", and the same
# in other languages that models fall into.
_GIVEN = (
    rf"\b{_NOUN}{_SAYS}\s*(?:therefore\s+|simply\s+)?{_A_NOUN}",
    rf"\b(?:choose|choosing|chose|pick|picked|select|selected|go(?:ing)?\s+with)\s+{_A_NOUN}",
    rf"\b(?:it\s+is|it's|it\s+(?:must|should|would)\s+be|that\s+is|that's|i\s+think|i\s+believe|"
    rf"i\s+guess|i'd\s+say|i\s+would\s+say|probably|likely)\s+{_A_NOUN}",
    r"\b(?:antwort|réponse|respuesta|resposta|risposta|ответ|correcta|richtig|bonne)\b"
    r"\s*(?:ist|est|es|é|è|:|—|-)?\s*:?\s*",
    r"(?:答案|选项|選項|正解|答え|정답|답)\s*(?:应该|應該)?(?:是|为|為|选|選|は|은|는)?\s*:?\s*(?:选项|選項|선택지)?\s*",
    r"(?:选择|選擇|选|選)\s*:?\s*",
)
_STATED = re.compile(rf"(?i:{'|'.join(_GIVEN)})({_LETTER})")
_FINAL = re.compile(rf"(?i:\b(?:final|correct)\s+{_NOUN}{_SAYS}\s*{_A_NOUN})({_LETTER})")
_STATED_TEXT = re.compile(
    rf"(?i:\b{_NOUN}{_SAYS}|(?:答案|正解)\s*(?:是|为|為|は)?\s*:?)\s*([^\n.!?。]+)"
)
_IT_IS = re.compile(r"(?:it|that)(?:\s+is|'s)\s+", re.IGNORECASE)
_RIGHT = re.compile(
    rf"(?:(?i:option|choice|answer)\s+)?({_OPEN}(?<![\w'-])[A-Z]){_CLOSE}[.:]?\s+"
    r"(?i:is|was|seems|must\s+be)\s+(?i:the\s+)?"
    r"(?i:only\s+|most\s+likely\s+)?(?i:correct|right|best|true|the\s+answer|answer)\b"
)
_LEADING = re.compile(
    r"(?:(?i:option|choice|answer)\s+)?[(\[{\"']?([A-Za-z])"
    r"(?:[)\]}\"']|[.:、](?![A-Za-z]\.)|(?=,)|(?=\s*(?:\n|$))|(?=\s+\()(?<=[A-Z])|\s+[-–—]\s"
    r"|(?=\s+(?i:because|since|as|is\s+(?:the\s+)?(?:correct|right|answer|best)))(?<=[A-Z]))"
)
_AND_MORE = re.compile(
    rf"{_CLOSE}"
    r"\s*(?:,|/|&|、|(?i:or|and|und|ou|y|o)\b|和|或)\s*(?i:option\s+|also\s+)?[(\[\"']?"
    r"(?:[B-HJ-Z](?![\w'])|[AI](?=[)\]}\"'.,;:!?\n]|\s*$|\s+(?:and|or|is|are)\b)|[a-z](?=[)\]]|\W*$))"
)
_WRONG = re.compile(
    rf"(?:(?i:option|choice|answer)\s+)?{_OPEN}(?<![\w'-])[A-Z]{_CLOSE}[.:]?\s+"
    r"(?i:(?:is|was|must\s+be)\s+(?:clearly\s+|also\s+)?(?:wrong|incorrect|false|not|ruled\s+out)"
    r"|(?:isn't|can't\s+be|cannot\s+be))\b[^,;.\n]*"
)
_BRACKETED = re.compile(r"\(([A-Z])\)")
_REASONING_TAG = re.compile(r"<(/?)(?:thinking|thought|reasoning|think)>", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_STYLED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|rm|bf)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\f?boxed\s*\{([^{}]*)\}")


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
    text = normalise_list(given_answer(given))
    if not any(text):
        return Verdict(False, unparsed=True)
    return Verdict(text == normalise_list(item.answer), read_as=", ".join(text))


def given_answer(text: str) -> str:
    """What of a model's text is its answer: without reasoning, and without what it is wrapped in.

    Reasoning stands in `<think>` tags; one that was cut off leaves nothing. Of answers in
    `<answer>` tags or in LaTeX boxes the last one counts.
    """
    text = unicodedata.normalize("NFKC", text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = _REASONING_TAG.sub(r"<\1think>", text)
    text = split_thoughts(text).answer
    if tagged := _TAGGED.findall(text):
        text = tagged[-1]
    text = text.replace("$", "").replace("\\(", "").replace("\\)", "")
    while text != (text := _STYLED.sub(r"\1", text)):
        pass
    if boxed := _BOXED.findall(text):
        text = boxed[-1]
    return re.sub(r"</?\w+>|\*+|__+|`+|^#+\s*", "", text, flags=re.MULTILINE).strip()


def parse_choice(given: str, choices: tuple[str, ...]) -> str | None:
    """The letter that a text gives as its answer; None if it gives none, or more than one.

    Words that merely mention an option are no choice, nor is a letter in the reasoning before an
    answer. What is looked at, the first that is found wins:

    1. The text as a whole: a letter, or an option's own text.
    2. A statement ("The answer is B.", "Answer: (b)", "答案是B", "I would choose B"), one that is
       called final or correct before others. The options as the prompt lists them are skipped, and
       so is what is called wrong.
    3. The letter that the text begins with ("B", "B. red", "B, because option A ...").
    4. A statement that gives the option's text ("The answer is red.").
    5. One letter that is called right ("A) is wrong, B) is right"), or is the only one in brackets.
    """
    letters = LETTERS[: len(choices)]
    options = [normalise(option) for option in choices]

    # 1. The text as a whole.
    text = given_answer(given)
    whole = normalise(_IT_IS.sub("", text, count=1) if _IT_IS.match(text) else text)
    if not text or not whole:
        return None
    if options.count(whole) == 1:
        return letters[options.index(whole)]
    if len(bare := text.strip(string.punctuation + string.whitespace + "。、")) == 1:
        return bare.upper() if bare.upper() in letters else None
    text = _WRONG.sub("", _without_listing(text, choices)).strip(" \n,;")
    if not text:
        return None

    # 2. Statements.
    for pattern in (_FINAL, _STATED):
        matches = list(pattern.finditer(text))
        if matches:
            return _only([*map(_letter_of, matches)], letters, text, matches[-1].end())

    # 3. The beginning.
    if leading := _LEADING.match(text):
        letter, end = leading[1].upper(), leading.end()
        own = choices[letters.index(letter)] if letter in letters else ""
        if spelled_out := re.compile(rf"\s*{re.escape(own)}", re.IGNORECASE).match(text, end):
            end = spelled_out.end()  # "A. red and B. green" chooses two
        return _only([letter], letters, text, end)
    head, *rest = text.split(maxsplit=1)
    if head in letters and rest and normalise(rest[0]) == options[letters.index(head)]:
        return head

    # 4. An option's text in a statement.
    stated = {normalise(match) for match in _STATED_TEXT.findall(text)} & set(options)
    if len(stated) == 1 and options.count(option := stated.pop()) == 1:
        return letters[options.index(option)]

    # 5. Letters that are called right, or stand in brackets.
    for pattern in (_RIGHT, _BRACKETED):
        found = [_letter_of(match) for match in pattern.finditer(text)]
        if found:
            return _only(found, letters, text, len(text))
    return None


def _letter_of(match: re.Match[str]) -> str:
    return match[1][-1].upper()


def _only(found: list[str], letters: str, text: str, end: int) -> str | None:
    """The one letter that was found, if it is an option's and no second one is joined to it."""
    joined = _AND_MORE.match(text, end)
    return found[0] if len(set(found)) == 1 and found[0] in letters and not joined else None


def _without_listing(text: str, choices: tuple[str, ...]) -> str:
    """A text without the options as the prompt lists them, all of them and in order."""
    listed = r"\W*".join(
        rf"(?<!\w){letter}\s*[)\].:]+\s*{re.escape(choice.strip())}"
        for letter, choice in zip(LETTERS, choices, strict=False)
    )
    return re.sub(rf"[(\[]?{listed}\W*", "\n", text, count=1, flags=re.IGNORECASE).strip()


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
