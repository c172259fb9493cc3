"""`seats profile`: where the time goes, and what pruning buys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk, calm_libraries
from seats_cli.cli.option_groups import grouped
from seats_cli.cli.option_parsers import input_option, output_option
from seats_cli.cli.outputs import print_json, print_result
from seats_cli.cli.sources import (
    check_random,
    check_synthetic,
    fit_input,
    open_any,
    open_input,
    read_input,
)
from seats_cli.cli.to_config import build_specs
from seats_cli.errors import UsageError
from seats_cli.files import check_writable

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip, ReadOptions
    from seats_cli.results import Profile


EPILOG = (
    "Examples: seats profile talk.mp4 --retain 35%,25%,15%,10% --plot talk.png, "
    "seats profile --random-weights cpu-0.5b --synthetic 10 --retain 10%."
)
QUESTION = "What happens in this clip?"
# Asked after it, different in words and length.
FURTHER = (
    "What color is shown first?",
    "Which kind of sound is heard?",
    "How many beeps do you hear?",
    "In which order do the colors appear?",
    "Which shape is shown at the end?",
    "Is the sound rising or falling?",
    "Which color was on screen while someone was talking?",
)


@dataclass(frozen=True)
class RepeatFlags:
    """How often to measure; names are those of `seats_cli.engine.profiling.run_profile`."""

    repeats: Annotated[
        int, output_option("--repeats N", "Measured runs of each setting.", min=1)
    ] = 5
    warm_ups: Annotated[
        int, output_option("--warm-ups N", "Unmeasured runs before those.", min=0)
    ] = 1
    new_tokens: Annotated[
        int,
        output_option(
            "--new-tokens N", "Answer tokens of each run, so that all decode alike.", min=1
        ),
    ] = 16
    seed: opt.SweepSeed = 0


@dataclass(frozen=True)
class ProfileOutput:
    """What to print and write."""

    as_json: opt.Json = False
    csv: Annotated[
        Path | None, output_option("--csv FILE", "Also write every run and stage as CSV.")
    ] = None
    plot: Annotated[
        Path | None,
        output_option("--plot FILE", "Also draw it: .png, .svg or .pdf; needs matplotlib."),
    ] = None
    quiet: opt.SweepQuiet = False
    debug: opt.Debug = False


@grouped
def profile(
    context: typer.Context,
    video: opt.OptionalVideo = None,
    synthetic: Annotated[
        float | None,
        input_option(
            "--synthetic SECONDS", "A clip of this length made in memory instead of a file."
        ),
    ] = None,
    question: Annotated[
        list[str] | None,
        input_option(
            "--question TEXT",
            "What is asked, by default what happens in the clip; given again, one of --questions.",
        ),
    ] = None,
    questions: Annotated[
        int | None,
        output_option(
            "--questions N",
            "Also ask N different questions in one session: the first reads and encodes the clip.",
            min=2,
        ),
    ] = None,
    *,
    system: opt.System = None,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    sweep: opt.SweepFlags,
    model: opt.AnyModelFlags,
    repeats: RepeatFlags,
    output: ProfileOutput,
) -> None:
    """Measure each stage without and with pruning, in turn, on this machine.

    The report goes to stdout.
    """
    talk = Talk(quiet=output.quiet)
    check_synthetic(video, synthetic, context)
    check_random(model, context)
    file = None
    if video is not None:
        file = open_input(video, talk, allow_local_urls=allow_local_urls, offline=model.offline)
    if output.plot is not None:
        from seats_cli.report.plots import check_plot

        check_plot(output.plot)
        check_writable(output.plot, "--plot")
    if output.csv is not None:
        check_writable(output.csv, "--csv")
    calm_libraries(debug=output.debug, quiet=output.quiet)
    specs = build_specs(context, sweep, repeats.seed, model=model.model, revision=model.revision)
    asked = _questions(question or [QUESTION], questions)

    from seats_cli.engine.profiling import run_profile
    from seats_cli.media.probe import probe
    from seats_cli.media.survey import forget_survey
    from seats_cli.media.synthetic_clip import synthetic_clip

    loaded = open_any(model, repeats.seed, talk)
    fitted: ReadOptions = read
    notes: tuple[str, ...] = ()
    if file is not None:
        configs = [spec.config for spec in specs]
        fitted, notes = fit_input(
            file, read, loaded, asked, configs, repeats.new_tokens, (), system
        )
    reader = Talk(quiet=True)  # reading is repeated: its warnings once, its spinner never

    def read_again() -> Clip:
        if file is not None:
            forget_survey()
            return read_input(file, fitted, loaded.sizing, reader, notes)[0]
        assert synthetic is not None
        return synthetic_clip(
            synthetic,
            fps=read.fps,
            max_frames=read.max_frames,
            sizing=read.bound(loaded.sizing),
            audio=read.audio,
        )

    with talk.progress("Measuring") as progress:
        result = run_profile(
            loaded,
            read_again,
            asked[0],
            specs,
            questions=asked if len(asked) > 1 else (),
            system=system,
            probe=None if file is None else lambda: probe(file.path),
            on_progress=progress.update,
            **vars(repeats),
        )
    if output.as_json:
        from seats_cli.report.documents import profile_document

        print_json(profile_document(result))
    else:
        from seats_cli.report.profile_table import profile_report

        print_result(profile_report(result))
    _write(result, output, talk)


def _questions(given: list[str], number: int | None) -> list[str]:
    """The questions to ask: those given, then others up to the number wanted."""
    wanted = number or len(given)
    if wanted < len(given):
        raise UsageError(f"--questions {wanted} is fewer than the {len(given)} that are given.")
    found = list(dict.fromkeys(given))
    if len(found) < len(given):
        raise UsageError("Every --question must be another: an equal one would only be repeated.")
    found += [text for text in FURTHER if text not in found]
    found += [f"What is shown and heard after {second} seconds?" for second in range(1, wanted)]
    return found[:wanted]


def _write(result: Profile, output: ProfileOutput, talk: Talk) -> None:
    """The files that were asked for."""
    if output.csv is not None:
        from seats_cli.report.documents import profile_csv

        try:
            output.csv.write_text(profile_csv(result) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--csv {output.csv} cannot be written: {error.strerror}.") from error
        talk.notice(f"Wrote {output.csv}.")
    if output.plot is not None:
        from seats_cli.report.plots import plot_profile

        plot_profile(result, output.plot)
        talk.notice(f"Wrote {output.plot}.")
