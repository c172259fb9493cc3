"""`seats show`: see and hear what was kept."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk, calm_libraries, print_document
from seats_cli.cli.option_groups import Omit, grouped
from seats_cli.cli.option_parsers import input_option, output_option
from seats_cli.cli.outputs import (
    check_clip,
    check_settled,
    load_saved,
    record_answer,
    report_written,
    write_page,
    write_trace,
)
from seats_cli.cli.question import check_stdin_is_free, find_question
from seats_cli.cli.runtime import stop_if_interrupted
from seats_cli.cli.sources import InputFile, fit_input, open_input, open_model, read_input
from seats_cli.cli.to_config import build_config
from seats_cli.errors import UsageError
from seats_cli.files import check_target, check_writable, replacing

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.media.clip import Clip
    from seats_cli.models import LoadedModel
    from seats_cli.results import Answer
    from seats_cli.show.record import RunRecord


EPILOG = (
    'Examples: seats show talk.mp4 "What is shown first?" -o talk/, '
    "seats show --trace talk/trace.json -o again/ (without the model)."
)
PAGE, TRACE = "index.html", "trace.json"
PICTURES = ("frames.png", "sound.png", "layers.png")


@dataclass(frozen=True)
class AnswerFlags:
    """How to answer, and what of it to print."""

    with_full: Annotated[bool, output_option("--with-full", "Also ask the unpruned model.")] = False
    max_new_tokens: opt.OwnMaxNewTokens = None
    seed: opt.Seed = 0
    quiet: opt.Quiet = False
    debug: opt.Debug = False


@grouped
def show(
    context: typer.Context,
    video: Annotated[
        str | None,
        typer.Argument(
            metavar="VIDEO",
            help="Video, sound or picture; with --trace by default the one it was made from.",
        ),
    ] = None,
    question: opt.Question = None,
    *,
    system: opt.System = None,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    trace: Annotated[
        Path | None,
        input_option("--trace FILE", "Draw a saved trace instead of asking a model."),
    ] = None,
    budget: Annotated[opt.BudgetFlags, Omit("method")],
    model: opt.ModelFlags,
    output: Annotated[
        Path | None,
        output_option("--output -o DIR", "Folder for the page, the pictures and the trace."),
    ] = None,
    film: Annotated[
        Path | None,
        output_option("--video FILE", "Also render the clip with dropped patches dimmed, as .mp4."),
    ] = None,
    answering: AnswerFlags,
) -> None:
    """Draw which parts of the picture and the sound were kept, and for how long.

    The answer goes to stdout. The folder gets a page (index.html), its pictures
    and the trace, from which everything can be drawn again.
    """
    talk = Talk(quiet=answering.quiet)
    _check_output(output, film, keeps_trace=trace is None)
    open_named = partial(
        open_input, talk=talk, allow_local_urls=allow_local_urls, offline=model.offline
    )
    if trace is not None:
        check_settled(context, question)
        calm_libraries(debug=answering.debug, quiet=answering.quiet)
        record, name = load_saved(trace, video)
        file = open_named(name)
        _check_film(film, file.path)
        clip, _ = read_input(file, record.read, record.sizing, talk)
        check_clip(record, clip)
    else:
        if video is None:
            raise UsageError("Give a VIDEO and a QUESTION, or --trace FILE.")
        config = build_config(budget, context)
        check_stdin_is_free(video, question)
        file = open_named(video)
        _check_film(film, file.path)
        text = find_question(question, talk)
        calm_libraries(debug=answering.debug, quiet=answering.quiet)

        from seats_cli.engine.prune import check_method

        loaded = open_model(model, talk)
        check_method(loaded, config)
        fitted, notes = fit_input(
            file, read, loaded, [text], [config], answering.max_new_tokens, system=system
        )
        clip, read_s = read_input(file, fitted, loaded.sizing, talk, notes)
        answer, unpruned = _ask(loaded, clip, text, system, config, answering, read_s, talk)
        record = record_answer(answer, clip, fitted, loaded.sizing, full_answer=unpruned)
    print_document(record.answer)
    if output is not None:
        _write(record, clip, output, talk, keeps_trace=trace is None)
    if film is not None:
        _render(record, clip, file, film, talk)


def _ask(
    loaded: LoadedModel,
    clip: Clip,
    question: str,
    system: str | None,
    config: SeatsConfig | None,
    answering: AnswerFlags,
    read_s: float,
    talk: Talk,
) -> tuple[Answer, str | None]:
    """The answer, and on request that of the unpruned model."""
    from seats_cli.engine.answer import ask

    unpruned = None
    put = partial(
        ask,
        loaded,
        clip,
        question,
        system=system,
        max_new_tokens=answering.max_new_tokens,
        seed=answering.seed,
    )
    with talk.progress("Answering"):
        answer = put(config=config, read_s=read_s)
        if answering.with_full:
            unpruned = put(config=None).text
    for warning in answer.warnings:
        talk.warning(warning)
    return answer, unpruned


def _check_output(output: Path | None, film: Path | None, *, keeps_trace: bool) -> None:
    """Refuse what could not be written, before anything is loaded."""
    if output is None and film is None:
        raise UsageError("Say where to draw: -o DIR, --video FILE, or both.")
    if output is not None:
        if output.exists() and not output.is_dir():
            raise UsageError(f"-o {output} is a file; name a folder.")
        if output.is_dir():
            for name in (PAGE, *PICTURES, *([TRACE] if keeps_trace else [])):
                check_target(output / name, "-o")
        else:
            check_writable(output, "-o")
    if film is not None:
        if film.suffix.lower() != ".mp4":
            raise UsageError(f"--video {film} must end in .mp4.")
        check_target(film, "--video")


def _check_film(film: Path | None, path: str) -> None:
    """Refuse to render over the clip itself."""
    if film is not None and film.exists() and Path(path).exists() and film.samefile(path):
        raise UsageError(f"--video {film} is the clip itself; choose another name.")


def _write(record: RunRecord, clip: Clip, output: Path, talk: Talk, *, keeps_trace: bool) -> None:
    from seats_cli.show.png import pictures_of, save_png

    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {output} cannot be created: {error.strerror}.") from error
    write_page([record], clip, output / PAGE, talk, "-o")
    for name, picture in pictures_of(record, clip).items():
        path = output / f"{name}.png"
        existed = path.exists()
        with replacing(path, "-o") as part:
            save_png(picture, part)
        report_written(path, existed, talk)
    if keeps_trace:
        write_trace(record, output / TRACE, talk, "-o")


def _render(record: RunRecord, clip: Clip, file: InputFile, film: Path, talk: Talk) -> None:
    from seats_cli.show.film import render_film

    existed = film.exists()

    def report(done: float) -> None:
        stop_if_interrupted()
        progress.update(f"{done:.0%}")

    with talk.progress("Rendering") as progress, replacing(film, "--video") as part:
        render_film(record, clip, file.path, part, source=file.header, on_progress=report)
    report_written(film, existed, talk)
