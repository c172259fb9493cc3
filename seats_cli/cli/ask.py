"""`seats ask`: one question about one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import AnswerStream, Talk, ThoughtStream, calm_libraries, print_document
from seats_cli.cli.option_groups import grouped, with_flags
from seats_cli.cli.option_parsers import output_option, split_choices
from seats_cli.cli.outputs import Outputs, print_json
from seats_cli.cli.question import check_stdin_is_free, find_questions, may_ask_nothing
from seats_cli.cli.sources import open_clip, open_input, open_model
from seats_cli.cli.to_config import build_config
from seats_cli.errors import UsageError

if TYPE_CHECKING:
    from seats_cli.results import Answer


EPILOG = (
    'Examples: seats ask talk.mp4 "What is shown first?", '
    "seats ask talk.mp4 --retain 10% --json < question.txt. "
    "Defaults of Input, Budget and Model options, and of sampling, are also read from SEATS_<NAME> "
    "variables, ./seats.toml and the user's config.toml."
)


@dataclasses.dataclass(frozen=True)
class AskOutput:
    """What to print and write."""

    as_json: opt.Json = False
    html: opt.Html = None
    save_trace: Annotated[
        Path | None,
        output_option(
            "--save-trace FILE",
            "Keep the selection in a .json or .safetensors file for seats show --trace.",
        ),
    ] = None
    as_map: Annotated[
        bool, output_option("--map", "Show in the terminal what was kept over time.")
    ] = False
    quiet: opt.Quiet = False
    show_thinking: Annotated[
        bool,
        output_option("--show-thinking", "Show on stderr what a model thinks before it answers."),
    ] = False
    no_stream: Annotated[
        bool, output_option("--no-stream", "Print the answer only when it is complete.")
    ] = False
    debug: opt.Debug = False


@grouped
def ask(
    context: typer.Context,
    video: opt.Video,
    question: opt.Question = None,
    also: Annotated[
        list[str] | None,
        output_option(
            "--also QUESTION",
            "Another question about the same clip, which is read and encoded only once.",
        ),
    ] = None,
    no_question: Annotated[
        bool,
        output_option("--no-question", "Ask nothing, for a model that describes what it is given."),
    ] = False,
    *,
    system: opt.System = None,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    budget: opt.BudgetFlags,
    model: opt.ModelFlags,
    generation: opt.GenerationFlags,
    output: AskOutput,
) -> None:
    """Answer a question about a video and its sound, or several.

    The answer goes to stdout; the report, warnings and progress go to stderr.
    """
    talk = Talk(quiet=output.quiet)
    # Everything cheap that can be wrong is checked before the model is loaded.
    config = build_config(budget, context)
    choices = split_choices(generation.choices)
    files = Outputs(output.html, output.save_trace, output.as_map, questions=1 + len(also or ()))
    silent = no_question or (may_ask_nothing(model.model, question) and not also)
    if no_question and (question is not None or also):
        raise UsageError("--no-question asks nothing: leave QUESTION and --also out.")
    if not silent:
        check_stdin_is_free(video, question)
    file = open_input(video, talk, allow_local_urls=allow_local_urls, offline=model.offline)
    questions: Sequence[str | None] = [None]
    if not silent:
        questions = find_questions(question, also or (), talk)
    calm_libraries(debug=output.debug, quiet=output.quiet)

    several = len(questions) > 1
    loaded = open_model(model, talk)
    opened = open_clip(
        file,
        read,
        loaded,
        talk,
        questions=questions,
        config=config,
        max_new_tokens=generation.max_new_tokens,
        choices=choices,
        system=system,
        several=several,
    )
    streams = not (output.no_stream or output.as_json or choices)
    answers = []
    for text in questions:
        if several and not output.as_json:
            talk.notice(f"Question: {text}")
        with talk.progress("Answering") as progress:
            stream = AnswerStream(progress) if streams else None
            thoughts = ThoughtStream(talk, progress, shown=output.show_thinking)
            answer = opened.ask(
                text,
                config=config,
                on_text=None if stream is None else partial(_write_answer, thoughts, stream),
                on_thinking=thoughts,
                read_s=opened.read_s,
                **{**dataclasses.asdict(generation), "choices": choices},
            )
            thoughts.finish()
            if stream is not None:
                stream.finish(answer.text)
        # The report is about the whole way from the file to the answer.
        warnings = dict.fromkeys((*opened.clip.warnings, *map(with_flags, answer.warnings)))
        answer = dataclasses.replace(answer, warnings=tuple(warnings))
        files.add(answer, opened.clip, opened.read, loaded.sizing)
        answers.append(answer)
        if not output.as_json:
            _show(answer, talk, streamed=streams)
    if output.as_json:
        from seats_cli.report.documents import answer_document, answers_document

        print_json(answer_document(answers[0]) if len(answers) == 1 else answers_document(answers))
        for answer in answers:
            _remark(answer, talk)
    files.write(talk)


def _write_answer(thoughts: ThoughtStream, stream: AnswerStream, piece: str) -> None:
    """One piece of the answer, below what was thought before it."""
    thoughts.finish()
    stream(piece)


def _show(answer: Answer, talk: Talk, *, streamed: bool) -> None:
    """Print what has not been streamed, the warnings and the report."""
    if not streamed:
        print_document(answer.text)
    _remark(answer, talk)
    if not talk.quiet:
        from seats_cli.report.answer_table import print_report

        print_report(answer, talk.console)


def _remark(answer: Answer, talk: Talk) -> None:
    """What the user must know about this answer, on stderr."""
    for warning in answer.warnings:
        talk.warning(warning)
    if answer.thinking and not answer.text:
        return  # a warning has said why
    if not answer.text.strip():
        talk.notice("The model's answer is empty.")
    if answer.cut_off and not answer.choices:
        limit = f"{answer.sampling.max_new_tokens:,}"
        talk.notice(f"The answer was cut at {limit} tokens; --max-new-tokens allows more.")
