"""`seats eval`: how much accuracy each token buys, on a set of questions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import ProgressBar, Talk, calm_libraries, print_document
from seats_cli.cli.option_groups import FLAGS, grouped, was_typed
from seats_cli.cli.option_parsers import budget_option, input_option, model_option, output_option
from seats_cli.cli.outputs import print_json, print_result
from seats_cli.cli.runtime import stop_if_interrupted
from seats_cli.cli.sources import open_model, open_silently
from seats_cli.cli.to_config import build_specs
from seats_cli.files import check_folder, write_table

if TYPE_CHECKING:
    from seats_cli.evaluate.run import Outcome

CONFIG = "layers.toml"
EPILOG = (
    "Examples: seats eval synthetic --limit 300 --methods seats,random --retain 25%,10%, "
    "seats eval my.jsonl --model Qwen/Qwen2.5-Omni-7B, seats eval daily-omni --root DIR. "
    "Answers are appended to OUT/answers-*.jsonl at once; the same command resumes an interrupted "
    "run. Several GPUs: accelerate launch -m seats_cli eval ..."
)


@dataclass(frozen=True)
class QuestionFlags:
    """Which questions to ask, and what of the set's own protocol to replace."""

    root: Annotated[
        Path | None,
        input_option("--root DIR", "Folder of a benchmark's annotations and videos."),
    ] = None
    limit: Annotated[
        int | None,
        input_option(
            "--limit N",
            "Only the first N questions; of synthetic, N in all (1,500 by default).",
            min=1,
        ),
    ] = None
    set_seed: Annotated[
        int | None,
        input_option(
            "--set-seed N",
            "Another generated set, for example to choose settings on.",
            shown="the set's",
            min=0,
        ),
    ] = None
    only: Annotated[
        str | None,
        input_option(
            "--only NAME,...",
            "Only these families of questions or kinds of clips: color_order,moment.",
        ),
    ] = None
    fps: Annotated[
        float | None,
        input_option("--fps RATE", "Frames per second to sample.", shown="the set's"),
    ] = None
    max_frames: Annotated[
        int | None,
        input_option(
            "--max-frames N", "At most this many frames of a clip.", shown="the set's", min=2
        ),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        input_option("--max-new-tokens N", "Longest answer in tokens.", shown="the set's", min=1),
    ] = None
    system: opt.System = None


@dataclass(frozen=True)
class EvalOutput:
    """Where to store answers, and what to print."""

    out: Annotated[
        Path | None,
        output_option(
            "--out -o DIR",
            "Folder for answers and results; an unfinished run found there is resumed.",
            shown="seats-eval-<set>",
        ),
    ] = None
    retry_errors: Annotated[
        bool, output_option("--retry-errors", "Retry questions that failed before.")
    ] = False
    seed: opt.SweepSeed = 0
    form: opt.FormatName = "table"
    as_json: opt.Json = False
    plot: Annotated[
        bool, output_option("--plot", "Also draw OUT/accuracy.png; needs matplotlib.")
    ] = False
    quiet: opt.SweepQuiet = False
    debug: opt.Debug = False


@grouped
def evaluate(
    context: typer.Context,
    questions: Annotated[
        str,
        typer.Argument(
            metavar="QUESTIONS",
            help=(
                "'synthetic' (generated), a .jsonl file, or a benchmark with "
                "--root: daily-omni, worldsense, omnivideobench, video-mme, lvomnibench."
            ),
        ),
    ],
    *,
    chosen: QuestionFlags,
    sweep: opt.SweepFlags,
    variant: Annotated[
        list[Path] | None,
        budget_option(
            "--variant FILE",
            "Also a configuration from a .toml file, named after it; with every --retain.",
        ),
    ] = None,
    as_published: Annotated[
        bool,
        input_option(
            "--as-published",
            "Read and ask as the paper's authors do, to compare with their numbers: system turn, "
            "budgets, and no frame rate for the processor.",
        ),
    ] = False,
    find_layers: Annotated[
        bool,
        budget_option(
            "--find-layers",
            "Instead of methods, hide the video, the sound and both after every layer, and "
            "recommend drop and late layers for this model.",
        ),
    ] = False,
    model: opt.ModelFlags,
    workers: Annotated[
        int,
        model_option("--workers N", "Processes on this machine's CPU, each with the model.", min=1),
    ] = 1,
    output: EvalOutput,
) -> None:
    """Accuracy of methods and budgets on a question set, beside the unpruned model.

    The result goes to stdout and, in every form, into the folder OUT.
    """
    talk = Talk(quiet=output.quiet)
    calm_libraries(debug=output.debug, quiet=output.quiet)
    if output.plot:
        from seats_cli.report.plots import check_plot

        check_plot(Path("accuracy.png"))
    folder = output.out or Path(f"seats-eval-{Path(questions).stem}")
    check_folder(folder, "-o")
    if find_layers:
        named = (*(part.name for part in fields(opt.SweepFlags)), "variant", "plot")
        idle = [FLAGS[name] for name in named if was_typed(context, name)]
        if idle:
            talk.warning(f"--find-layers runs no method: {', '.join(idle)} without effect.")
    asked = (context, sweep, output.seed, variant or (), model.model, model.revision)
    specs = [] if find_layers else build_specs(*asked)
    protocol = ("fps", "max_frames", "max_new_tokens", "system")
    # What is not to be changed is not changed by settings either.
    fixed = questions == "synthetic" or as_published
    taken = [name for name in protocol if not fixed or was_typed(context, name)]
    replaced = {name: getattr(chosen, name) for name in taken}
    from seats_cli.evaluate.run import Host, Job, check_errors, run_job

    job = Job(
        name=questions,
        root=chosen.root,
        limit=chosen.limit,
        set_seed=chosen.set_seed,
        only=tuple(part.strip() for part in (chosen.only or "").split(",") if part.strip()),
        protocol={name: value for name, value in replaced.items() if value is not None},
        specs=tuple(specs),
        as_published=as_published,
        find_layers=find_layers,
        model=model,
        out=folder,
        seed=output.seed,
        retry_errors=output.retry_errors,
        workers=workers,
    )
    host = Host(
        load=partial(open_model, talk=talk),
        load_silently=open_silently,
        warn=talk.warning,
        check=stop_if_interrupted,
        progress=partial(ProgressBar, talk),
    )
    outcome = run_job(job, host)
    if outcome is None:
        return
    form = "json" if output.as_json else output.form
    if find_layers or form != "table":  # that has them
        for note in outcome.notes:
            talk.notice(note)
        for setting in outcome.refused:
            if setting.number is not None:  # the others were named at the start
                talk.warning(setting.sentence)
    if find_layers:
        _show_layers(outcome, form, job.out, talk)
    else:
        _show(outcome, form, job.out, talk, plot=output.plot)
    check_errors(outcome.records)


def _show_layers(outcome: Outcome, form: str, folder: Path, talk: Talk) -> None:
    """The curve and what it recommends, on stdout and in the folder.

    Parameters
    ----------
    form : {"table", "json", "csv", "md"}
    folder : Path
        Gets the results, and "layers.toml" for `--config`.
    """
    from seats_cli.evaluate.layer_curve import layer_curve, recommend
    from seats_cli.report import layers_table
    from seats_cli.report.documents import dump_document

    curve = layer_curve(outcome.records, outcome.num_layers)
    plan = recommend(curve)
    document = layers_table.layers_document(curve, plan)
    texts = {
        "layers.json": dump_document(document),
        "layers.csv": layers_table.layers_csv(curve),
        "layers.md": layers_table.layers_markdown(curve, plan),
    }
    for name, text in texts.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    write_table(folder / CONFIG, plan.as_dict())
    talk.notice(f"Wrote {', '.join(texts)} and {CONFIG} (for --config) in {folder}.")
    if form == "table":
        print_result(layers_table.layers_report(curve, plan))
    elif form == "json":
        print_json(document)
    else:
        print_document(texts[f"layers.{form}"])


def _show(outcome: Outcome, form: str, folder: Path, talk: Talk, *, plot: bool) -> None:
    """The result on stdout in the form asked for, and in every form in the folder."""
    from seats_cli.evaluate.summary import summarise
    from seats_cli.report.documents import dump_document, eval_csv, eval_document
    from seats_cli.report.eval_table import eval_markdown, eval_report
    from seats_cli.report.plots import plot_evaluation

    with talk.progress("Counting"):
        summary = summarise(outcome.questions.name, outcome.records)
        refused = [asdict(setting) for setting in outcome.refused]
        left_out = [setting.sentence for setting in outcome.refused]
        details = {**outcome.description, "refused": refused, "notes": outcome.notes}
        document = dump_document(eval_document(summary, details))
    texts = {
        "results.json": document,
        "results.csv": eval_csv(summary),
        "results.md": eval_markdown(summary, outcome.notes, left_out),
    }
    for name, text in texts.items():
        (folder / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    if plot:
        plot_evaluation(summary, folder / "accuracy.png")
    talk.notice(f"Wrote {', '.join(texts)}{', accuracy.png' if plot else ''} in {folder}.")
    if form == "table":
        print_result(eval_report(summary, notes=outcome.notes, left_out=left_out))
    elif form == "json":
        print_json(eval_document(summary, details))
    else:
        print_document(texts[f"results.{form}"].rstrip("\n"))
