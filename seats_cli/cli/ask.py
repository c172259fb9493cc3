"""`seats ask`: one question about one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import AnswerStream, Talk, ThoughtStream, calm_libraries, print_document
from seats_cli.cli.index import open_asked, open_source
from seats_cli.cli.option_groups import grouped, with_flags
from seats_cli.cli.option_parsers import output_option, split_choices
from seats_cli.cli.outputs import Outputs, print_evidence, print_json
from seats_cli.cli.question import check_stdin_is_free, find_questions, may_ask_nothing
from seats_cli.cli.sources import OpenedClip, open_model
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
    evidence: Annotated[
        bool, output_option("--evidence", "Print when in the clip the answer's evidence is.")
    ] = False
    quiet: opt.Quiet = False
    show_thinking: opt.ShowThinking = False
    no_stream: Annotated[
        bool, output_option("--no-stream", "Print the answer only when it is complete.")
    ] = False
    debug: opt.Debug = False


@grouped
def ask(
    context: typer.Context,
    video: opt.AskedVideo,
    question: opt.Question = None,
    also: Annotated[
        list[str] | None,
        output_option(
            "--also QUESTION",
            "Another question about the same clip, which is read, encoded and prefilled only once.",
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
    file = open_source(
        video, talk, read, context, allow_local_urls=allow_local_urls, offline=model.offline
    )
    files.check_source(file)
    questions: Sequence[str | None] = [None]
    if not silent:
        questions = find_questions(question, also or (), talk)
    calm_libraries(debug=output.debug, quiet=output.quiet)

    several = len(questions) > 1
    loaded = open_model(model, talk)
    opened = open_asked(
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
        answer = answer_aloud(
            opened,
            text,
            talk,
            streams=streams,
            show_thinking=output.show_thinking,
            config=config,
            read_s=opened.read_s,
            **{**dataclasses.asdict(generation), "choices": choices},
        )
        files.add(answer, opened.clip, opened.read, loaded.sizing)
        answers.append(answer)
        if not output.as_json:
            _show(answer, talk, streamed=streams, evidence=output.evidence)
    if output.as_json:
        from seats_cli.report.documents import answer_document, answers_document

        print_json(answer_document(answers[0]) if len(answers) == 1 else answers_document(answers))
        for answer in answers:
            remark(answer, talk)
    files.write(talk)


def answer_aloud(
    opened: OpenedClip,
    question: str | None,
    talk: Talk,
    *,
    streams: bool,
    show_thinking: bool,
    check: Callable[[], None] | None = None,
    **how: Any,
) -> Answer:
    """Ask, and write down what the model says while it says it.

    Parameters
    ----------
    streams : bool
        Whether the answer goes to stdout.
    check : callable, optional
        Is called on every piece of text; what it raises ends the answer there.
    **how
        What `ClipSession.ask` takes.
    """
    with talk.progress("Answering") as progress:
        stream = AnswerStream(progress) if streams else None
        thoughts = ThoughtStream(talk, progress, shown=show_thinking)

        def think(piece: str) -> None:
            if check is not None:
                check()
            thoughts(piece)

        def say(piece: str) -> None:
            if check is not None:
                check()
            if stream is not None:
                thoughts.finish()
                stream(piece)

        try:
            answer = opened.ask(
                question,
                on_text=None if stream is None and check is None else say,
                on_thinking=think,
                **how,
            )
        except BaseException:
            thoughts.finish()
            if stream is not None:
                stream.break_off()
            raise
        thoughts.finish()
        if stream is not None:
            stream.finish(answer.text)
    # The report is about the whole way from the file to the answer.
    warnings = dict.fromkeys((*opened.clip.warnings, *map(with_flags, answer.warnings)))
    return dataclasses.replace(answer, warnings=tuple(warnings))


def _show(answer: Answer, talk: Talk, *, streamed: bool, evidence: bool) -> None:
    """Print what has not been streamed, the evidence, the warnings and the report."""
    if not streamed:
        print_document(answer.text)
    if evidence:
        print_evidence(answer, talk)
    remark(answer, talk)
    if not talk.quiet:
        from seats_cli.report.answer_table import print_report

        print_report(answer, talk.console)


def remark(answer: Answer, talk: Talk) -> None:
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
