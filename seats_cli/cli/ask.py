"""`seats ask`: one question about one file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import (
    AnswerStream,
    Talk,
    calm_libraries,
    print_document,
    stdout_is_unicode,
)
from seats_cli.cli.outputs import Html, Map, Outputs, SaveTrace
from seats_cli.cli.question import check_stdin_is_free, find_questions
from seats_cli.cli.sources import InputOptions, ModelOptions, check_file, open_model, read_input
from seats_cli.cli.to_config import BudgetOptions, build_config

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.results import Answer


EPILOG = (
    'Examples: seats ask talk.mp4 "What is shown first?", '
    "seats ask talk.mp4 --retain 10% --json < question.txt. "
    "Defaults of Input, Budget and Model options, and of sampling, are also read from SEATS_<NAME> "
    "variables, ./seats.toml and the user's config.toml."
)


@dataclasses.dataclass(frozen=True)
class Request:
    """A parsed command line."""

    source: InputOptions
    questions: tuple[str, ...]
    config: SeatsConfig | None
    model: ModelOptions
    choices: tuple[str, ...]
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    as_json: bool
    stream: bool
    keep: Outputs


def ask(
    context: typer.Context,
    video: opt.Video,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="QUESTION",
            show_default=False,
            help="The question; read from stdin when piped there, or for '-'.",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="QUESTION",
            show_default=False,
            rich_help_panel="Output",
            help="Another question about the same clip, which is read and encoded only once.",
        ),
    ] = None,
    start: opt.Start = None,
    end: opt.End = None,
    fps: opt.Fps = 2.0,
    max_frames: opt.MaxFrames = 768,
    max_pixels: opt.MaxPixels = None,
    audio: opt.Audio = True,
    audio_track: opt.AudioTrack = None,
    max_audio: opt.MaxAudio = None,
    allow_local_urls: opt.AllowLocalUrls = False,
    retain: opt.Retain = None,
    retain_video: opt.RetainVideo = None,
    retain_audio: opt.RetainAudio = None,
    full: opt.Full = False,
    skip_still: opt.EncoderReuse = None,
    kv: opt.KvPolicy = None,
    allocation: opt.AllocationPolicy = None,
    config: opt.ConfigFile = None,
    model: opt.Model = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = opt.DtypeChoice.AUTO,
    attn: opt.Attn = opt.Attention.SDPA,
    revision: opt.Revision = None,
    offline: opt.Offline = False,
    max_new_tokens: opt.MaxNewTokens = 128,
    temperature: opt.Temperature = 0.0,
    top_p: opt.TopP = 1.0,
    seed: opt.Seed = 0,
    choices: opt.Choices = None,
    as_json: opt.Json = False,
    html: Html = None,
    save_trace: SaveTrace = None,
    as_map: Map = False,
    quiet: opt.Quiet = False,
    no_stream: opt.NoStream = False,
    debug: opt.Debug = False,
) -> None:
    """Answer a question about a video and its sound, or several.

    The answer goes to stdout; the report, warnings and progress go to stderr.
    """
    talk = Talk(quiet=quiet)
    # Everything cheap that can be wrong is checked before the model is loaded.
    first, last = opt.parse_range(start, end)
    budget = BudgetOptions(
        retain, retain_video, retain_audio, full, kv, allocation, config, skip_still
    )
    pruning = build_config(budget, context)
    options = opt.split_choices(choices)
    longest = opt.parse_seconds("--max-audio", max_audio)
    keep = Outputs(html, save_trace, as_map, questions=1 + len(also or ()))
    check_stdin_is_free(video, question)
    check_file(video, talk, allow_local_urls=allow_local_urls, offline=offline)
    request = Request(
        InputOptions(video, first, last, fps, max_frames, max_pixels, audio, audio_track, longest),
        find_questions(question, also or (), talk),
        pruning,
        ModelOptions(model, device, dtype.value, attn.value, revision, offline),
        options,
        max_new_tokens,
        temperature,
        top_p,
        seed,
        as_json,
        stream=not (no_stream or as_json),
        keep=keep,
    )
    calm_libraries(debug=debug, quiet=quiet)
    results = answers(request, talk)
    if request.as_json:
        show_document(request, list(results), talk)
    else:
        for result in results:
            show(request, result, talk)
    keep.write(talk)


def answers(request: Request, talk: Talk) -> Iterator[Answer]:
    """Load, read, and answer in turn; streams each answer where the request says so."""
    from seats_cli.engine.answer import ask as ask_model
    from seats_cli.engine.encoder_cache import EncoderCache
    from seats_cli.models import prepare_clip

    loaded = open_model(request.model, talk)
    clip, read_s = read_input(request.source, loaded.sizing, talk)
    several = len(request.questions) > 1
    media = prepare_clip(loaded, clip) if several else clip
    encoder_cache = EncoderCache() if several else None
    for question in request.questions:
        if several and not request.as_json:
            talk.notice(f"Question: {question}")
        with talk.progress("Answering") as progress:
            stream = AnswerStream(progress) if request.stream and not request.choices else None
            result = ask_model(
                loaded,
                media,
                question,
                config=request.config,
                max_new_tokens=request.max_new_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                choices=request.choices,
                on_text=stream,
                read_s=read_s,
                encoder_cache=encoder_cache,
            )
            if stream is not None:
                stream.finish(result.text)
        # The report is about the whole way from the file to the answer.
        warnings = tuple(dict.fromkeys((*clip.warnings, *result.warnings)))
        result = dataclasses.replace(result, warnings=warnings)
        request.keep.add(result, clip, request.source, loaded.sizing)
        yield result


def show(request: Request, result: Answer, talk: Talk) -> None:
    """Print what has not been streamed, the warnings and the report."""
    if not request.stream or request.choices:
        print_document(result.text)
    _tell(request, result, talk)
    if not talk.quiet:
        from seats_cli.report.answer_table import print_report

        print_report(result, talk.console)


def show_document(request: Request, results: Sequence[Answer], talk: Talk) -> None:
    """One JSON document: the answer's own, or one that holds those of several questions."""
    from seats_cli.report.documents import answer_document, answers_document, dump_document

    document = answer_document(results[0]) if len(results) == 1 else answers_document(results)
    print_document(dump_document(document, ascii_only=not stdout_is_unicode()))
    for result in results:
        _tell(request, result, talk)


def _tell(request: Request, result: Answer, talk: Talk) -> None:
    """What the user must know about this answer, on stderr."""
    for warning in result.warnings:
        talk.warning(warning)
    if not result.text.strip():
        talk.notice("The model's answer is empty.")
    if result.finish_reason == "length" and not request.choices:
        talk.notice(
            f"The answer was cut at {request.max_new_tokens} tokens; --max-new-tokens allows more."
        )
