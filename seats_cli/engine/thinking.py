"""Reasoning apart from the answer: what stands between `<think>` and `</think>`.

The tags are looked for in the text, not among token ids: they are single tokens of Qwen3-Omni, but
several of Qwen2.5-Omni, some of whose fine-tunes write them as well.
"""

from __future__ import annotations

from collections.abc import Callable

OPENING, CLOSING = "<think>", "</think>"
AFTER = "\n\n"  # what checkpoints write between `CLOSING` and the answer

Receiver = Callable[[str], None]


class ThoughtSplitter:
    """Divides generated text into reasoning and answer while it arrives, in pieces of any size.

    A closing tag before any opening one makes reasoning of all text before it: some templates
    open the block in the prompt. Once a block is closed, further closing tags alone are left out.
    A block that is not closed is reasoning to its end.

    Parameters
    ----------
    on_answer, on_thinking : callable, optional
        Receive their parts, without white space at the beginning, as soon as it is certain that
        they are theirs.
    opened : bool
        Whether the prompt ends inside a block.
    wait : bool
        Whether text is held back until a tag or the end says what it is. Without, text before a
        lone closing tag goes to `on_answer` before it proves to be reasoning (`mistaken`).
    """

    def __init__(
        self,
        on_answer: Receiver | None = None,
        on_thinking: Receiver | None = None,
        *,
        opened: bool = False,
        wait: bool = False,
    ) -> None:
        self.inside = opened  # whether the text so far ends inside a block
        self.mistaken = False
        self._receivers = {False: on_answer, True: on_thinking}  # by whether it is reasoning
        self._parts: dict[bool, list[str]] = {False: [], True: []}
        self._begun = {False: False, True: False}  # whether anything but white space was passed on
        self._wait = wait and not opened
        self._tagged = opened  # whether a tag was met
        self._rest = ""  # may be the beginning of a tag

    @property
    def answer(self) -> str:
        """The answer so far."""
        return "".join(self._parts[False]).strip()

    @property
    def answer_as_written(self) -> str:
        """The answer so far with the white space at its end."""
        return "".join(self._parts[False]).lstrip()

    @property
    def thinking(self) -> str:
        """The reasoning so far, blocks separated by an empty line."""
        return "".join(self._parts[True]).strip()

    def feed(self, piece: str) -> None:
        """Take the next piece."""
        self._rest += piece
        while self._rest:
            tags = (CLOSING,) if self.inside else (OPENING, CLOSING)
            found = [(place, tag) for tag in tags if (place := self._rest.find(tag)) >= 0]
            if not found:
                break
            place, tag = min(found)
            self._take(self._rest[:place])
            self._rest = self._rest[place + len(tag) :]
            self._meet(tag)
        certain = len(self._rest) - begun_length(self._rest, tags if self._rest else ())
        self._take(self._rest[:certain])
        self._rest = self._rest[certain:]

    def finish(self) -> ThoughtSplitter:
        """Take the end of the text."""
        rest, self._rest = self._rest, ""
        self._take(rest)
        self._release()
        return self

    def _meet(self, tag: str) -> None:
        if tag == OPENING:
            self._release()
            if self._parts[True]:
                self._take(AFTER, thought=True)
        elif not self._tagged:
            self.mistaken = not self._wait and bool(self.answer)
            before, self._parts[False] = "".join(self._parts[False]), []
            self._wait = False
            self._begun[False] = False
            self._parts[True].append(before)
            self._pass_on(before, thought=True)
        self.inside, self._tagged = tag == OPENING, True

    def _take(self, text: str, *, thought: bool | None = None) -> None:
        thought = self.inside if thought is None else thought
        if text:
            self._parts[thought].append(text)
            if thought or not self._wait:
                self._pass_on(text, thought=thought)

    def _release(self) -> None:
        """What was held back is answer."""
        if self._wait:
            self._wait = False
            self._pass_on("".join(self._parts[False]), thought=False)

    def _pass_on(self, text: str, *, thought: bool) -> None:
        receiver = self._receivers[thought]
        if not self._begun[thought]:
            text = text.lstrip()
        if text:
            self._begun[thought] = True
            if receiver is not None:
                receiver(text)


def split_thoughts(text: str, *, opened: bool = False) -> ThoughtSplitter:
    """A whole text, divided."""
    splitter = ThoughtSplitter(opened=opened)
    splitter.feed(text)
    return splitter.finish()


def begun_length(text: str, tags: tuple[str, ...]) -> int:
    """Length of the longest end of a text with which a tag, or another string, may begin."""
    longest = max(map(len, tags), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        if any(tag.startswith(text[-length:]) for tag in tags):
            return length
    return 0
