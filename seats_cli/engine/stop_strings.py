"""Ending an answer at a string that is not part of it, as `stop` of other libraries and APIs.

The strings are looked for in the text of the answer, not among its tokens: a string may begin in
the middle of a token, and the same string has many tokenizations. Reasoning is not searched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria

from seats_cli.engine.thinking import begun_length, split_thoughts
from seats_cli.errors import UsageError

MAX_STRINGS = 16
MAX_CHARACTERS = 1000  # of each of them

# A token is at least one byte, and a character at most four.
_TOKENS_PER_CHARACTER = 4


def check_stop(stop: Sequence[str]) -> None:
    """Refuse what cannot end an answer.

    Raises
    ------
    UsageError
        If there are too many strings, or one is empty or too long.
    """
    if isinstance(stop, str) or not all(isinstance(one, str) for one in stop):
        raise UsageError("`stop` must be a list of strings.")
    if len(stop) > MAX_STRINGS:
        raise UsageError(f"`stop` takes {MAX_STRINGS} strings at most.")
    if not all(0 < len(one) <= MAX_CHARACTERS for one in stop):
        raise UsageError(f"Each string of `stop` must have 1 to {MAX_CHARACTERS:,} characters.")


def cut_at(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text in front of the first of the strings, and whether there is one."""
    places = [place for one in stop if (place := text.find(one)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


class StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Tells `generate` when the answer so far holds one of the strings.

    Parameters
    ----------
    stop : sequence of str
    tokenizer
    prompt : int
        Tokens of the prompt, which are not searched.
    opened : bool
        Whether the prompt ends inside a block of reasoning.
    """

    def __init__(self, stop: Sequence[str], tokenizer: Any, prompt: int, *, opened: bool) -> None:
        self._stop, self._tokenizer, self._prompt = tuple(stop), tokenizer, prompt
        self._opened = opened
        self._tail = _TOKENS_PER_CHARACTER * max(map(len, self._stop)) + 1
        self.hit = False  # whether the answer ended so

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Whether to end, shape (1,) for `input_ids` of shape (1, S)."""
        ids = input_ids[0, self._prompt :]
        # The tail is cheap and shows every hit; whether it is one, and not reasoning, the whole
        # text says.
        if cut_at(self._decode(ids[-self._tail :]), self._stop)[1]:
            answer = split_thoughts(self._decode(ids), opened=self._opened).answer_as_written
            self.hit = cut_at(answer, self._stop)[1]
        return torch.tensor([self.hit], device=input_ids.device)

    def _decode(self, ids: torch.Tensor) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class Cut:
    """Passes on pieces of an answer up to the first of the strings.

    What may be the beginning of one is held back until more of the text is there.
    """

    def __init__(self, stop: Sequence[str], receiver: Callable[[str], None]) -> None:
        self._stop, self._receiver = tuple(stop), receiver
        self._held = ""
        self._ended = False

    def __call__(self, piece: str) -> None:
        """Take the next piece."""
        if self._ended:
            return
        text, self._ended = cut_at(self._held + piece, self._stop)
        kept = 0 if self._ended else begun_length(text, self._stop)
        self._held = text[len(text) - kept :]
        self._pass_on(text[: len(text) - kept])

    def finish(self) -> None:
        """Pass on what proved to be no beginning."""
        self._pass_on(self._held)
        self._held = ""

    def _pass_on(self, text: str) -> None:
        if text:
            self._receiver(text)
