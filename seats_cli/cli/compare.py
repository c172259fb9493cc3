"""`seats compare`: the unpruned answer and pruned ones side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli import sources, to_config
from seats_cli.cli.console import Talk, calm_libraries, print_document, stdout_is_unicode
from seats_cli.cli.defaults import from_command_line
from seats_cli.cli.options import Format
from seats_cli.cli.outputs import Html, print_result, record_answer, write_page
from seats_cli.cli.question import check_stdin_is_free, find_question
from seats_cli.cli.sources import InputOptions, ModelOptions, check_file
from seats_cli.show.files import check_target

if TYPE_CHECKING:
    from seats_cli.results import Comparison


EPILOG = (
    'Examples: seats compare talk.mp4 "What is shown first?" --retain 25%,10%, '
    'seats compare talk.mp4 "Who laughs?" --methods all --format md > table.md.'
)


def compare(
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
    start: opt.Start = None,
    end: opt.End = None,
    fps: opt.Fps = 2.0,
    max_frames: opt.MaxFrames = 768,
    max_pixels: opt.MaxPixels = None,
    audio: opt.Audio = True,
    audio_track: opt.AudioTrack = None,
    max_audio: opt.MaxAudio = None,
    allow_local_urls: opt.AllowLocalUrls = False,
    retain: to_config.Retains = None,
    method: to_config.Methods = None,
    skip_still: to_config.Stills = None,
    kv: opt.KvPolicy = None,
    allocation: opt.AllocationPolicy = None,
    config: opt.ConfigFile = None,
    model: opt.Model = None,
    random_weights: to_config.RandomWeights = None,
    layers: to_config.Layers = None,
    hidden: to_config.Hidden = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = opt.DtypeChoice.AUTO,
    attn: opt.Attn = opt.Attention.SDPA,
    revision: opt.Revision = None,
    offline: opt.Offline = False,
    max_new_tokens: opt.MaxNewTokens = 128,
    seed: to_config.Seed = 0,
    form: Annotated[
        Format,
        typer.Option(
            "--format", rich_help_panel="Output", help="A table, JSON, CSV or Markdown on stdout."
        ),
    ] = Format.TABLE,
    as_json: opt.Json = False,
    html: Html = None,
    quiet: to_config.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Answer without pruning and with each method and budget, and say how far they agree.

    Answers are greedy. A budget that a method cannot reach is a row that says so.
    """
    talk = Talk(quiet=quiet)
    first, last = opt.parse_range(start, end)
    longest = opt.parse_seconds("--max-audio", max_audio)
    chosen = ModelOptions(model, device, dtype.value, attn.value, revision, offline)
    random = sources.RandomOptions(random_weights, layers, hidden, seed)
    sources.check_random(random, chosen, model_typed=from_command_line(context, "model"))
    if html is not None:
        check_target(html, "--html")
    check_stdin_is_free(video, question)
    check_file(video, talk, allow_local_urls=allow_local_urls, offline=offline)
    asked = find_question(question, talk)
    calm_libraries(debug=debug, quiet=quiet)
    settings = to_config.build_settings(
        context, retain, method, kv, allocation, config, seed, skip_still=skip_still
    )
    source = InputOptions(
        video, first, last, fps, max_frames, max_pixels, audio, audio_track, longest
    )

    from seats_cli.engine.comparison import run_comparison as run_all

    loaded = sources.open_any(chosen, random, talk)
    clip, read_s = sources.any_clip(source, None, loaded, talk)
    with talk.progress("Answering") as progress:
        result = run_all(
            loaded,
            clip,
            asked,
            settings,
            max_new_tokens=max_new_tokens,
            seed=seed,
            read_s=read_s,
            on_progress=progress.update,
        )
    show(result, Format.JSON if as_json else form)
    if html is not None:
        records = [
            record_answer(run.answer, source, loaded.sizing, label=run.label)
            for run in result.runs
            if run.answer is not None
        ]
        write_page(records, clip, html, talk)


def show(result: Comparison, form: Format) -> None:
    """The comparison on stdout in the form asked for."""
    from seats_cli.report import compare_table, documents

    if form is Format.TABLE:
        print_result(compare_table.comparison_report(result))
    elif form is Format.JSON:
        document = documents.comparison_document(result)
        print_document(documents.dump_document(document, ascii_only=not stdout_is_unicode()))
    elif form is Format.CSV:
        print_document(documents.comparison_csv(result))
    else:
        print_document(compare_table.comparison_markdown(result))
