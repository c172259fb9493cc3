"""The commands of `seats chat`: lines that begin with a slash, and what they change."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from seats_cli.cli.conversation import (
    ClipFacts,
    Conversation,
    SavedTurn,
    load_conversation,
    save_conversation,
)
from seats_cli.cli.option_parsers import parse_ratio
from seats_cli.cli.outputs import print_evidence, print_strip, record_answer
from seats_cli.cli.to_config import DEFAULT_PRESET, SKIPS, unpruned
from seats_cli.config import DEFAULT_RETAIN, FULL, SeatsConfig
from seats_cli.errors import UsageError

if TYPE_CHECKING:
    from seats_cli.cli.console import Talk
    from seats_cli.cli.sources import OpenedClip
    from seats_cli.engine.session import AskableModel
    from seats_cli.results import Answer


def _go_on() -> None:
    """Nobody can stop it."""


@dataclass(kw_only=True)
class ChatState:
    """A conversation, what the next question keeps, and the commands for both."""

    talk: Talk
    loaded: AskableModel
    opened: OpenedClip
    path: str  # of the clip's file on this machine
    config: SeatsConfig | None
    turns: list[SavedTurn] = field(default_factory=list)
    answer: Answer | None = None  # the latest
    left: bool = False
    check: Callable[[], None] = _go_on  # raises what stops a command, where that does no harm

    def command(self, line: str) -> None:
        """Carry out a line that begins with a slash.

        Raises
        ------
        UsageError, BadParameter
            If it cannot be carried out.
        """
        name, _, argument = line.partition(" ")
        name, argument = name.lower(), argument.strip()
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            guess = f": did you mean {near[0]}?" if near else "."
            raise UsageError(f"{name[:40]} is not a command{guess} /help lists them all.")
        wanted, _, action = COMMANDS[name]
        if bool(argument) != bool(wanted):
            raise UsageError(f"{name} needs {wanted}." if wanted else f"{name} stands alone.")
        action(self, *([argument] if wanted else []))

    def retain(self, share: str) -> None:
        """Keep another share, of both modalities together."""
        ratio = parse_ratio(share)
        self._use(replace(self._pruned(), retain=ratio, retain_video=None, retain_audio=None))

    def method(self, name: str) -> None:
        """Choose by another method; options of the earlier one are forgotten."""
        from seats_cli.selection.methods import METHODS

        name = name.lower()
        if name not in METHODS:
            raise UsageError(f"{name!r} is not a method: choose from {', '.join(METHODS)}.")
        if name == FULL:
            self.full()
        else:
            self._use(replace(self._pruned(), method=name, options={}))

    def full(self) -> None:
        """Prune nothing, but for what the vision encoder skips."""
        self._use(unpruned(self._skips()))

    def map(self) -> None:
        """The strip of the latest answer."""
        clip, read = self.opened.clip, self.opened.read
        print_strip(record_answer(self._latest(), clip, read, self.loaded.sizing), self.talk)

    def report(self) -> None:
        """The report of the latest answer."""
        from seats_cli.report.answer_table import print_report

        print_report(self._latest(), self.talk.console)

    def evidence(self) -> None:
        """What the latest answer rests on, and when."""
        print_evidence(self._latest(), self.talk)

    def clear(self) -> None:
        """Forget the conversation."""
        self.talk.notice(f"Forgot {counted(len(self.turns))}.")
        self.turns.clear()

    def save(self, name: str) -> None:
        """Write the conversation to a file."""
        path = Path(name).expanduser()
        config, model = table_of(self.config), self.loaded.facts.id
        saved = Conversation(self._clip(), model, self.opened.system, config, tuple(self.turns))
        save_conversation(saved, path)
        self.talk.notice(f"Saved {counted(len(self.turns))} to {path}.")

    def load(self, name: str) -> None:
        """Go on with a saved conversation in place of this one."""
        path = Path(name).expanduser()
        found = load_conversation(path, self._clip())
        self._use(found.settings)
        self.turns = list(found.turns)
        self.talk.notice(f"{counted(len(self.turns)).capitalize()} from {path}.")
        if found.system != self.opened.system:
            self.talk.warning(f"{path} was held with another system turn, which stays as it is.")

    def help(self) -> None:
        """What can be typed."""
        for name, (wanted, text, _) in COMMANDS.items():
            self.talk.console.print(Text(f"{f'{name} {wanted}':<16}{text}"), soft_wrap=True)
        last = "Anything else is a question; one that begins with a slash is typed with two."
        self.talk.console.print(Text(last), soft_wrap=True)

    def quit(self) -> None:
        """Leave."""
        self.left = True

    def _use(self, config: SeatsConfig | None) -> None:
        """Ask with other settings from now on, if they are possible for this model."""
        from seats_cli.engine.prune import check_method

        check_method(self.loaded, config)
        self.config = config
        what = "everything" if config is None or config.method == FULL else _kept(config)
        self.talk.notice(f"Keeping {what} from the next question on.")

    def _pruned(self) -> SeatsConfig:
        """The settings, or the default ones in place of none."""
        if self.config is not None and self.config.method != FULL:
            return self.config
        return replace(SeatsConfig.preset(DEFAULT_PRESET), **self._skips())

    def _skips(self) -> dict[str, Any]:
        """What the vision encoder skips now."""
        if self.config is None:
            return {}
        return {name: getattr(self.config, name) for name in SKIPS}

    def _latest(self) -> Answer:
        if self.answer is None:
            raise UsageError("There is no answer yet: ask something first.")
        return self.answer

    def _clip(self) -> ClipFacts:
        return ClipFacts.of(self.opened, self.path, self.check)


# What each needs behind it, what it does, and how.
COMMANDS: dict[str, tuple[str, str, Callable[..., None]]] = {
    "/retain": ("SHARE", "keep this share of the tokens from now on, as 10%", ChatState.retain),
    "/method": ("NAME", "choose them by this method", ChatState.method),
    "/full": ("", "prune nothing", ChatState.full),
    "/map": ("", "show over time what was kept for the latest answer", ChatState.map),
    "/report": ("", "show tokens, FLOPs and times of the latest answer", ChatState.report),
    "/evidence": ("", "show when in the clip the latest answer's evidence is", ChatState.evidence),
    "/clear": ("", "forget the conversation", ChatState.clear),
    "/save": ("FILE", "write the conversation to a JSON file", ChatState.save),
    "/load": ("FILE", "go on with a saved conversation", ChatState.load),
    "/help": ("", "list the commands", ChatState.help),
    "/quit": ("", "leave, as Ctrl-D does", ChatState.quit),
}


def completed(text: str, state: int) -> str | None:
    """What the Tab key makes of the beginning of a command."""
    found = [name for name in COMMANDS if text.startswith("/") and name.startswith(text)]
    return found[state] if state < len(found) else None


def table_of(config: SeatsConfig | None) -> dict[str, Any] | None:
    """Settings as a conversation's file has them."""
    return None if config is None else config.to_dict()


def _kept(config: SeatsConfig) -> str:
    split = config.retain_video is not None or config.retain_audio is not None
    share = DEFAULT_RETAIN if config.retain is None else config.retain
    return f"{'the given shares' if split else f'{100 * share:.4g} %'} by {config.method}"


def counted(count: int, noun: str = "turn") -> str:
    """A number of things, in words."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
