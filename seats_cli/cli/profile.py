"""`seats profile`: where the time goes, and what pruning buys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli import sources, to_config
from seats_cli.cli.console import Talk, calm_libraries, print_document, stdout_is_unicode
from seats_cli.cli.defaults import from_command_line
from seats_cli.cli.outputs import print_result
from seats_cli.cli.sources import InputOptions, ModelOptions, check_file, local_path

if TYPE_CHECKING:
    from seats_cli.results import Profile


EPILOG = (
    "Examples: seats profile talk.mp4 --retain 35%,25%,15%,10% --plot talk.png, "
    "seats profile --random-weights cpu-0.5b --synthetic 10 --retain 10%."
)
QUESTION = "What happens in this clip?"


def profile(
    context: typer.Context,
    video: to_config.OptionalVideo = None,
    synthetic: to_config.Synthetic = None,
    question: Annotated[
        str,
        typer.Option("--question", metavar="TEXT", rich_help_panel="Input", help="What is asked."),
    ] = QUESTION,
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
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats", metavar="N", min=1, rich_help_panel="Output", help="Measured runs of each."
        ),
    ] = 5,
    warm_ups: Annotated[
        int,
        typer.Option(
            "--warm-ups", metavar="N", min=0, rich_help_panel="Output", help="Runs before those."
        ),
    ] = 1,
    new_tokens: Annotated[
        int,
        typer.Option(
            "--new-tokens",
            metavar="N",
            min=1,
            rich_help_panel="Output",
            help="Answer tokens of each run, so that all decode alike.",
        ),
    ] = 16,
    seed: to_config.Seed = 0,
    as_json: opt.Json = False,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            show_default=False,
            rich_help_panel="Output",
            help="Also write every run and stage as CSV.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            show_default=False,
            rich_help_panel="Output",
            help="Also draw it: .png, .svg or .pdf; needs matplotlib.",
        ),
    ] = None,
    quiet: to_config.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Measure each stage without and with pruning, in turn, on this machine.

    The report goes to stdout.
    """
    talk = Talk(quiet=quiet)
    first, last = opt.parse_range(start, end)
    longest = opt.parse_seconds("--max-audio", max_audio)
    chosen = ModelOptions(model, device, dtype.value, attn.value, revision, offline)
    random = sources.RandomOptions(random_weights, layers, hidden, seed)
    source = InputOptions(
        video or "", first, last, fps, max_frames, max_pixels, audio, audio_track, longest
    )
    sources.check_source(source, synthetic)
    sources.check_random(random, chosen, model_typed=from_command_line(context, "model"))
    if video is not None:
        check_file(video, talk, allow_local_urls=allow_local_urls, offline=offline)
    if plot is not None:
        from seats_cli.report.plots import check_plot

        check_plot(plot)
    calm_libraries(debug=debug, quiet=quiet)
    settings = to_config.build_settings(
        context, retain, method, kv, allocation, config, seed, skip_still=skip_still
    )

    from seats_cli.engine.profiling import run_profile as measure
    from seats_cli.media.probe import probe

    loaded = sources.open_any(chosen, random, talk)
    reader = Talk(quiet=True)  # reading is repeated: its warnings once, its spinner never
    with talk.progress("Measuring") as progress:
        result = measure(
            loaded,
            lambda: sources.any_clip(source, synthetic, loaded, reader)[0],
            question,
            settings,
            probe=None if video is None else lambda: probe(local_path(video)),
            repeats=repeats,
            warm_ups=warm_ups,
            new_tokens=new_tokens,
            seed=seed,
            on_progress=progress.update,
        )
    show(result, as_json=as_json)
    write(result, csv, plot, talk)


def show(result: Profile, *, as_json: bool) -> None:
    """The report, or the document, on stdout."""
    if as_json:
        from seats_cli.report.documents import dump_document, profile_document

        print_document(dump_document(profile_document(result), ascii_only=not stdout_is_unicode()))
        return
    from seats_cli.report.profile_table import profile_report

    print_result(profile_report(result))


def write(result: Profile, csv: Path | None, plot: Path | None, talk: Talk) -> None:
    """The files that were asked for."""
    if csv is not None:
        from seats_cli.errors import UsageError
        from seats_cli.report.documents import profile_csv

        try:
            csv.write_text(profile_csv(result) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--csv {csv} cannot be written: {error.strerror}.") from error
        talk.notice(f"Wrote {csv}.")
    if plot is not None:
        from seats_cli.report.plots import plot_profile

        plot_profile(result, plot)
        talk.notice(f"Wrote {plot}.")
