"""`seats show`: see and hear what was kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk, calm_libraries, print_document
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
from seats_cli.cli.sources import InputOptions, ModelOptions, check_file, open_model, read_input
from seats_cli.cli.to_config import BudgetOptions, build_config
from seats_cli.errors import UsageError
from seats_cli.show.files import check_target, replacing

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.media.clip import Clip
    from seats_cli.show.record import RunRecord


EPILOG = (
    'Examples: seats show talk.mp4 "What is shown first?" -o talk/, '
    "seats show --trace talk/trace.json -o again/ (without the model)."
)
PAGE, TRACE = "index.html", "trace.json"
PICTURES = ("frames.png", "sound.png", "layers.png")


def show(
    context: typer.Context,
    video: Annotated[
        str | None,
        typer.Argument(
            metavar="VIDEO",
            show_default=False,
            help="Video, sound or picture; with --trace by default the one it was made from.",
        ),
    ] = None,
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
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE",
            rich_help_panel="Input",
            show_default=False,
            help="Draw a saved trace instead of asking a model.",
        ),
    ] = None,
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
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            rich_help_panel="Output",
            show_default=False,
            help="Folder for the page, the pictures and the trace.",
        ),
    ] = None,
    film: Annotated[
        Path | None,
        typer.Option(
            "--video",
            metavar="FILE",
            rich_help_panel="Output",
            show_default=False,
            help="Also render the clip with dropped patches dimmed, as .mp4.",
        ),
    ] = None,
    with_full: Annotated[
        bool,
        typer.Option("--with-full", rich_help_panel="Output", help="Also ask the unpruned model."),
    ] = False,
    max_new_tokens: opt.MaxNewTokens = 128,
    seed: opt.Seed = 0,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Draw which parts of the picture and the sound were kept, and for how long.

    The answer goes to stdout. The folder gets a page (index.html), its pictures
    and the trace, from which everything can be drawn again.
    """
    talk = Talk(quiet=quiet)
    _check_output(output, film, keeps_trace=trace is None)
    if trace is not None:
        check_settled(context, question)
        calm_libraries(debug=debug, quiet=quiet)
        record, source = load_saved(trace, video)
        check_file(source.path, talk, allow_local_urls=allow_local_urls, offline=offline)
        _check_film(film, source.path)
        clip, _ = read_input(source, record.reading.sizing, talk)
        check_clip(record, clip)
    else:
        if video is None:
            raise UsageError("Give a VIDEO and a QUESTION, or --trace FILE.")
        first, last = opt.parse_range(start, end)
        budget = BudgetOptions(
            retain, retain_video, retain_audio, full, kv, allocation, config, skip_still
        )
        pruning = build_config(budget, context)
        longest = opt.parse_seconds("--max-audio", max_audio)
        check_stdin_is_free(video, question)
        check_file(video, talk, allow_local_urls=allow_local_urls, offline=offline)
        _check_film(film, video)
        asked = find_question(question, talk)
        calm_libraries(debug=debug, quiet=quiet)
        source = InputOptions(
            video, first, last, fps, max_frames, max_pixels, audio, audio_track, longest
        )
        chosen = ModelOptions(model, device, dtype.value, attn.value, revision, offline)
        record, clip = _run(
            source, asked, pruning, chosen, talk, max_new_tokens, seed, with_full=with_full
        )
    print_document(record.answer)
    if output is not None:
        _write(record, clip, output, talk, keeps_trace=trace is None)
    if film is not None:
        _render(record, clip, source, film, talk)


def _run(
    source: InputOptions,
    question: str,
    pruning: SeatsConfig | None,
    chosen: ModelOptions,
    talk: Talk,
    max_new_tokens: int,
    seed: int,
    *,
    with_full: bool,
) -> tuple[RunRecord, Clip]:
    """Ask the model, and where wanted the unpruned one too."""
    from seats_cli.engine.answer import ask

    loaded = open_model(chosen, talk)
    clip, read_s = read_input(source, loaded.sizing, talk)
    unpruned = None
    with talk.progress("Answering"):
        result = ask(
            loaded,
            clip,
            question,
            config=pruning,
            max_new_tokens=max_new_tokens,
            seed=seed,
            read_s=read_s,
        )
        if with_full:
            unpruned = ask(
                loaded, clip, question, config=None, max_new_tokens=max_new_tokens, seed=seed
            ).text
    for warning in result.warnings:
        talk.warning(warning)
    return record_answer(result, source, loaded.sizing, full_answer=unpruned), clip


def _check_output(output: Path | None, film: Path | None, *, keeps_trace: bool) -> None:
    """Refuse what could not be written, before anything is loaded."""
    if output is None and film is None:
        raise UsageError("Say where to draw to: -o DIR, --video FILE, or both.")
    if output is not None:
        if output.exists() and not output.is_dir():
            raise UsageError(f"-o {output} is a file; name a folder.")
        if output.is_dir():
            for name in (PAGE, *PICTURES, *([TRACE] if keeps_trace else [])):
                check_target(output / name, "-o")
        elif not output.absolute().parent.is_dir():
            raise UsageError(f"-o {output}: the folder around it does not exist.")
    if film is not None:
        if film.suffix.lower() != ".mp4":
            raise UsageError(f"--video {film} must end in .mp4.")
        check_target(film, "--video")


def _check_film(film: Path | None, path: str) -> None:
    """Refuse to render over the clip itself, a film of this program or not."""
    if film is not None and film.exists() and Path(path).exists() and film.samefile(path):
        raise UsageError(f"--video {film} is the clip itself; choose another name.")


def _write(record: RunRecord, clip: Clip, output: Path, talk: Talk, *, keeps_trace: bool) -> None:
    from seats_cli.show.png import pictures_of, save_png

    try:
        output.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"-o {output} cannot be made: {error.strerror}.") from error
    write_page([record], clip, output / PAGE, talk, "-o")
    for name, picture in pictures_of(record, clip).items():
        path = output / f"{name}.png"
        there = path.exists()
        with replacing(path, "-o") as part:
            save_png(picture, part)
        report_written(path, there, talk)
    if keeps_trace:
        write_trace(record, output / TRACE, talk, "-o")


def _render(record: RunRecord, clip: Clip, source: InputOptions, film: Path, talk: Talk) -> None:
    from seats_cli.cli.sources import local_path
    from seats_cli.show.film import render_film

    there = film.exists()

    def report(done: float) -> None:
        stop_if_interrupted()
        progress.update(f"{done:.0%}")

    with talk.progress("Rendering") as progress, replacing(film, "--video") as part:
        render_film(
            record,
            clip,
            local_path(source.path),
            part,
            on_progress=report,
        )
    report_written(film, there, talk)
