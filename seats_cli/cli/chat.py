"""`seats chat`: a conversation about one file."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from seats_cli.cli import options as opt
from seats_cli.cli.ask import answer_aloud, remark
from seats_cli.cli.console import Talk, calm_libraries, print_document
from seats_cli.cli.conversation import (
    ClipFacts,
    Conversation,
    SavedTurn,
    load_conversation,
    save_conversation,
)
from seats_cli.cli.index import open_asked, open_source
from seats_cli.cli.option_groups import grouped
from seats_cli.cli.option_parsers import output_option, parse_ratio, split_choices
from seats_cli.cli.outputs import print_json, print_strip, record_answer
from seats_cli.cli.question import MAX_CHARACTERS, is_text
from seats_cli.cli.runtime import Stopped, deferring_interrupts, explain, forget_interrupts
from seats_cli.cli.sources import PIPE, OpenedClip, open_model
from seats_cli.cli.to_config import DEFAULT_PRESET, build_config
from seats_cli.config import DEFAULT_RETAIN, FULL, SeatsConfig
from seats_cli.cost.context import DROP_TURNS
from seats_cli.errors import BatchError, OutputError, UsageError

if TYPE_CHECKING:
    from seats_cli.engine.session import AskableModel
    from seats_cli.results import Answer


EPILOG = (
    "Examples: seats chat talk.mp4 --retain 10%, seats chat talk.mp4 --json < questions.txt. "
    "/help in the chat lists its commands. "
    "Defaults of Input, Budget and Model options, and of sampling, are also read from SEATS_<NAME> "
    "variables, ./seats.toml and the user's config.toml."
)
PROMPT = "> "
# Part of the context that is left for the turns when the clip is read.
TALK_SHARE = 1 / 16


@dataclass(frozen=True)
class ChatOutput:
    """What to print."""

    as_json: Annotated[
        bool, output_option("--json", "Print each answer as one line of JSON on stdout.")
    ] = False
    no_history: Annotated[
        bool,
        output_option("--no-history", "Ask every question by itself, without the earlier turns."),
    ] = False
    quiet: opt.Quiet = False
    show_thinking: Annotated[
        bool,
        output_option("--show-thinking", "Show on stderr what a model thinks before it answers."),
    ] = False
    no_stream: Annotated[
        bool, output_option("--no-stream", "Print an answer only when it is complete.")
    ] = False
    debug: opt.Debug = False


@grouped
def chat(
    context: typer.Context,
    video: Annotated[
        str,
        typer.Argument(
            metavar="VIDEO",
            help="Video, sound or picture: a file or an http(s) URL; or an index (.seats).",
        ),
    ],
    *,
    system: opt.System = None,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    budget: opt.BudgetFlags,
    model: opt.ModelFlags,
    generation: opt.GenerationFlags,
    output: ChatOutput,
) -> None:
    """Talk about a video and its sound: questions that follow on from each other.

    The clip is read, encoded and prefilled once. Piped in, every line is a question, and every
    answer one line on stdout.
    """
    talk = Talk(quiet=output.quiet)
    config = build_config(budget, context)
    choices = split_choices(generation.choices)
    lines = Lines(talk)
    if video == PIPE:
        raise UsageError("The questions come from stdin, so the video must be a file or a URL.")
    file = open_source(
        video, talk, read, context, allow_local_urls=allow_local_urls, offline=model.offline
    )
    calm_libraries(debug=output.debug, quiet=output.quiet)
    loaded = open_model(model, talk)
    if loaded.facts.demonstration and not output.no_history:
        talk.notice("It has not learned conversations: --no-history asks each question by itself.")
    opened = open_asked(
        file,
        read,
        loaded,
        talk,
        questions=(),
        config=config,
        max_new_tokens=generation.max_new_tokens,
        choices=choices,
        system=system,
        spare=int(loaded.architecture.max_positions * TALK_SHARE),
    )
    if lines.typed:
        talk.notice(f"Ask about {file.name}. /help lists the commands, Ctrl-D leaves.")
    how = {**dataclasses.asdict(generation), "choices": choices}
    Chat(talk, loaded, opened, file.path, config, how, output, system, lines.typed).run(lines)


class Lines:
    """The lines that are typed on a terminal, or that come through a pipe."""

    def __init__(self, talk: Talk) -> None:
        if sys.stdin is None or sys.stdin.closed:
            raise UsageError("There is no stdin to read questions from.")
        self.typed = sys.stdin.isatty()  # whether there is somebody to prompt
        self._talk = talk
        if self.typed:
            with contextlib.suppress(ImportError):
                import readline  # which `input` then edits and remembers lines with

                readline.set_completer_delims(" ")
                readline.set_completer(_completed)
                readline.parse_and_bind("tab: complete")

    def next(self) -> str | None:
        """The next line without its end, None behind the last one.

        Bytes that are not UTF-8 arrive as lone surrogates.
        """
        return self._type() if self.typed else self._pipe()

    def _type(self) -> str | None:
        while True:
            try:
                if sys.stdout.isatty():
                    return input(PROMPT)
                print(PROMPT, end="", file=sys.stderr, flush=True)
                return input()
            except EOFError:
                print(file=sys.stderr)
                return None
            except KeyboardInterrupt:  # clears the line
                forget_interrupts()
                print(file=sys.stderr)

    def _pipe(self) -> str | None:
        # Bytes: the text layer decodes by the locale, and a line that fails there is lost.
        limit = 4 * MAX_CHARACTERS
        raw = sys.stdin.buffer.readline(limit)
        if len(raw) == limit:
            raise OutputError(f"A line on stdin is longer than {MAX_CHARACTERS:,} characters.")
        if not raw:
            return None
        return raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


@dataclass
class Chat:
    """A conversation, and what the next question is asked with."""

    talk: Talk
    loaded: AskableModel
    opened: OpenedClip
    path: str  # of the clip's file on this machine
    config: SeatsConfig | None
    how: dict[str, Any]  # of generation
    output: ChatOutput
    system: str | None
    typed: bool
    turns: list[SavedTurn] = field(default_factory=list)
    answer: Answer | None = None  # the latest
    lines: int = 0  # questions and commands so far
    failed: int = 0  # of them
    left: bool = False

    def run(self, lines: Lines) -> None:
        """Answer one line after the other.

        Raises
        ------
        BatchError
            At the end of a pipe, if some of it failed.
        """
        while not self.left and (line := lines.next()) is not None:
            line, question = line.strip(), None
            if not line:
                continue
            self.lines += 1
            try:
                with deferring_interrupts() as check:
                    if line.startswith("/") and not line.startswith("//"):
                        self.command(line)
                    else:
                        question = line.removeprefix("/")
                        self.ask(question, check)
            except Stopped:
                if not self.typed:
                    raise
                forget_interrupts()
                self.talk.notice("Stopped; the question and this answer are forgotten.")
            except (OutputError, BrokenPipeError):
                raise
            except Exception as error:
                self._failed(error, question)
        if self.failed and not self.typed:
            raise BatchError(f"{self.failed} of {_counted(self.lines, 'line')} failed.")

    def ask(self, question: str, check: Callable[[], None]) -> None:
        """Answer a question and remember both."""
        from seats_cli.results import Turn

        if "\0" in question or not is_text(question):
            raise UsageError("The question is not UTF-8 text.")
        turns = () if self.output.no_history else self.turns
        streams = self.typed and not (
            self.output.no_stream or self.output.as_json or self.how["choices"]
        )
        answer = answer_aloud(
            self.opened,
            question,
            self.talk,
            streams=streams,
            show_thinking=self.output.show_thinking,
            check=check,
            config=self.config,
            history=[Turn(turn.question, turn.answer) for turn in turns],
            on_layer=check,
            read_s=0.0 if self.answer else self.opened.read_s,
            **self.how,
        )
        self.answer = answer
        self.turns.append(SavedTurn(question, answer.text, _table(self.config)))
        if self.output.as_json:
            from seats_cli.report.documents import answer_document

            print_json(answer_document(answer), indent=None)
        elif not streams:
            print_document(answer.text if self.typed else _one_line(answer.text))
        remark(answer, self.talk)
        if self.typed:
            from seats_cli.report.answer_table import summary

            self.talk.notice(summary(answer))

    def _failed(self, error: Exception, question: str | None) -> None:
        """Say why, in one sentence; a question that came through a pipe still gets its line."""
        self.failed += 1
        if self.output.debug:
            traceback.print_exception(error)
        sentence = explain(error)[0]
        if isinstance(error, typer.BadParameter):
            sentence = f"Error: {error.message}."
        sentence = sentence.replace(DROP_TURNS, "/clear the earlier turns")
        self.talk.error(sentence)
        if question is not None and self.output.as_json:
            from seats_cli.report.documents import SCHEMA_VERSION
            from seats_cli.results import jsonable

            reason = sentence.removeprefix("Error: ")
            failure = {"schema_version": SCHEMA_VERSION, "question": question, "error": reason}
            print_json(jsonable(failure), indent=None)
        elif question is not None and not self.typed:
            print_document("")

    # ---------------------------------------------------------- commands

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
        """Prune nothing, but for what Stage 0 skips."""
        level = None if self.config is None else self.config.still_tolerance
        self._use(None if level is None else SeatsConfig(method=FULL, still_tolerance=level))

    def map(self) -> None:
        """The strip of the latest answer."""
        clip, read = self.opened.clip, self.opened.read
        print_strip(record_answer(self._latest(), clip, read, self.loaded.sizing), self.talk)

    def report(self) -> None:
        """The report of the latest answer."""
        from seats_cli.report.answer_table import print_report

        print_report(self._latest(), self.talk.console)

    def evidence(self) -> None:
        """The moments that the latest answer rests on."""
        from seats_cli.report.phrases import evidence_lines

        for line in evidence_lines(self._latest()):
            self.talk.console.print(Text(line), soft_wrap=True)

    def clear(self) -> None:
        """Forget the conversation."""
        self.talk.notice(f"Forgot {_counted(len(self.turns))}.")
        self.turns.clear()

    def save(self, name: str) -> None:
        """Write the conversation to a file."""
        path = Path(name).expanduser()
        config, model = _table(self.config), self.loaded.facts.id
        saved = Conversation(self._clip(), model, self.system, config, tuple(self.turns))
        save_conversation(saved, path)
        self.talk.notice(f"Saved {_counted(len(self.turns))} to {path}.")

    def load(self, name: str) -> None:
        """Go on with a saved conversation in place of this one."""
        path = Path(name).expanduser()
        found = load_conversation(path, self._clip())
        self._use(found.settings)
        self.turns = list(found.turns)
        self.talk.notice(f"{_counted(len(self.turns)).capitalize()} from {path}.")
        if found.system != self.system:
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
        from seats_cli.schedule import PruningPlan
        from seats_cli.selection.methods import method_for, with_default_options

        if config is not None:
            filled = with_default_options(config)
            method_for(PruningPlan.resolve(filled, self.loaded.architecture))
        self.config = config
        what = "everything" if config is None or config.method == FULL else _kept(config)
        self.talk.notice(f"Keeping {what} from the next question on.")

    def _pruned(self) -> SeatsConfig:
        """The settings, or the default ones in place of none."""
        if self.config is not None and self.config.method != FULL:
            return self.config
        level = None if self.config is None else self.config.still_tolerance
        return replace(SeatsConfig.preset(DEFAULT_PRESET), still_tolerance=level)

    def _latest(self) -> Answer:
        if self.answer is None:
            raise UsageError("There is no answer yet: ask something first.")
        return self.answer

    def _clip(self) -> ClipFacts:
        return ClipFacts.of(self.opened.clip.facts, self.path, self.opened.content_sha256)


# What each needs behind it, what it does, and how.
COMMANDS: dict[str, tuple[str, str, Callable[..., None]]] = {
    "/retain": ("SHARE", "keep this share of the tokens from now on, as 10%", Chat.retain),
    "/method": ("NAME", "choose them by this method", Chat.method),
    "/full": ("", "prune nothing", Chat.full),
    "/map": ("", "show over time what was kept for the latest answer", Chat.map),
    "/report": ("", "show tokens, FLOPs and times of the latest answer", Chat.report),
    "/evidence": ("", "show the moments that the latest answer rests on", Chat.evidence),
    "/clear": ("", "forget the conversation", Chat.clear),
    "/save": ("FILE", "write the conversation to a JSON file", Chat.save),
    "/load": ("FILE", "go on with a saved conversation", Chat.load),
    "/help": ("", "list the commands", Chat.help),
    "/quit": ("", "leave, as Ctrl-D does", Chat.quit),
}


def _completed(text: str, state: int) -> str | None:
    """What the Tab key makes of the beginning of a command."""
    found = [name for name in COMMANDS if text.startswith("/") and name.startswith(text)]
    return found[state] if state < len(found) else None


def _table(config: SeatsConfig | None) -> dict[str, Any] | None:
    return None if config is None else config.to_dict()


def _kept(config: SeatsConfig) -> str:
    split = config.retain_video is not None or config.retain_audio is not None
    share = DEFAULT_RETAIN if config.retain is None else config.retain
    return f"{'the given shares' if split else f'{100 * share:.4g} %'} by {config.method}"


def _counted(count: int, noun: str = "turn") -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _one_line(text: str) -> str:
    """An answer for a pipe, in which lines are what separates answers."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
