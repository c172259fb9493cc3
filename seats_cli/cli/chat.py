"""`seats chat`: a conversation about one file."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import traceback
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.ask import answer_aloud, remark
from seats_cli.cli.chat_commands import ChatState, completed, counted, table_of
from seats_cli.cli.console import Talk, calm_libraries, print_document
from seats_cli.cli.conversation import SavedTurn
from seats_cli.cli.index import open_asked, open_source
from seats_cli.cli.option_groups import grouped
from seats_cli.cli.option_parsers import output_option, split_choices
from seats_cli.cli.outputs import print_json
from seats_cli.cli.question import MAX_CHARACTERS, is_text
from seats_cli.cli.runtime import (
    Pipe,
    Stopped,
    deferring_interrupts,
    explain,
    forget_interrupts,
)
from seats_cli.cli.sources import PIPE, open_model
from seats_cli.cli.to_config import build_config
from seats_cli.cost.context import DROP_TURNS, TALK_SHARE
from seats_cli.errors import BatchError, OutputError, UsageError

EPILOG = (
    "Examples: seats chat talk.mp4 --retain 10%, seats chat talk.mp4 --json < questions.txt. "
    "/help in the chat lists its commands. "
    "Defaults of Input, Budget and Model options, and of sampling, are also read from SEATS_<NAME> "
    "variables, ./seats.toml and the user's config.toml."
)
PROMPT = "> "


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
    show_thinking: opt.ShowThinking = False
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
    Chat(
        talk=talk,
        loaded=loaded,
        opened=opened,
        path=file.path,
        config=config,
        how=how,
        output=output,
        typed=lines.typed,
    ).run(lines)


class Lines:
    """The lines that are typed on a terminal, or that come through a pipe."""

    def __init__(self, talk: Talk) -> None:
        if sys.stdin is None or sys.stdin.closed:
            raise UsageError("There is no stdin to read questions from.")
        self.typed = sys.stdin.isatty()  # whether there is somebody to prompt
        self._talk = talk
        self._pipe = Pipe(sys.stdin.buffer)
        self._read = b""  # of the pipe, and not yet a line
        if self.typed:
            with contextlib.suppress(ImportError):
                import readline  # which `input` then edits and remembers lines with

                readline.set_completer_delims(" ")
                readline.set_completer(completed)
                readline.parse_and_bind("tab: complete")

    def next(self) -> str | None:
        """The next line without its end, None behind the last one.

        Bytes that are not UTF-8 arrive as lone surrogates.
        """
        return self._type() if self.typed else self._next_piped()

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

    def _next_piped(self) -> str | None:
        # Bytes: the text layer decodes by the locale, and a line that fails there is lost.
        limit = 4 * MAX_CHARACTERS
        while b"\n" not in self._read and (block := self._pipe.read1(limit)):
            self._read += block
            if len(self._read) >= limit and b"\n" not in self._read:
                raise OutputError(f"A line on stdin is longer than {MAX_CHARACTERS:,} characters.")
        raw, newline, self._read = self._read.partition(b"\n")
        if not raw and not newline:
            return None
        return raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


@dataclass(kw_only=True)
class Chat(ChatState):
    """A conversation, and how its questions are asked and answered."""

    how: dict[str, Any]  # of generation
    output: ChatOutput
    typed: bool
    lines: int = 0  # questions and commands so far
    failed: int = 0  # of them

    def run(self, lines: Lines) -> None:
        """Answer one line after the other.

        Raises
        ------
        BatchError
            At the end of a pipe, if some of it failed.
        """
        while not self.left and (line := lines.next()) is not None:
            if line := line.strip():
                self.lines += 1
                self._carry_out(line)
        if self.failed and not self.typed:
            raise BatchError(f"{self.failed} of {counted(self.lines, 'line')} failed.")

    def _carry_out(self, line: str) -> None:
        """Answer a question or obey a command; what fails is said, and the chat goes on.

        Raises
        ------
        Stopped
            At a Ctrl-C while nobody sits there to go on: as soon as nothing is left half done.
        """
        question, done = None, False
        if not line.startswith("/") or line.startswith("//"):
            question = line.removeprefix("/")
        try:
            with deferring_interrupts() as self.check:
                try:
                    if question is None:
                        self.command(line)
                    else:
                        self.ask(question)
                except (OutputError, BrokenPipeError):
                    raise
                except Exception as error:
                    self._failed(error, question)
                done = True
        except Stopped:
            if not self.typed:
                raise
            forget_interrupts()
            if done:
                self.talk.notice("There was nothing left to stop.")
            elif question is None:
                self.talk.notice(f"Stopped; {line.split()[0]} has not been carried out.")
            else:
                self.talk.notice("Stopped; the question and this answer are forgotten.")

    def ask(self, question: str) -> None:
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
            check=self.check,
            config=self.config,
            history=[Turn(turn.question, turn.answer) for turn in turns],
            on_layer=self.check,
            read_s=0.0 if self.answer else self.opened.read_s,
            **self.how,
        )
        self.answer = answer
        self.turns.append(SavedTurn(question, answer.text, table_of(self.config)))
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


def _one_line(text: str) -> str:
    """An answer for a pipe, in which lines are what separates answers."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
