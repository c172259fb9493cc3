"""`seats eval`: how much accuracy each token buys, on a set of questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli import to_config
from seats_cli.cli.console import Talk, calm_libraries, print_document, stdout_is_unicode
from seats_cli.cli.options import Format
from seats_cli.cli.outputs import print_result
from seats_cli.cli.sources import ModelOptions
from seats_cli.evaluate.run import EvalReading, Job, Outcome, check_errors, run_job

if TYPE_CHECKING:
    from seats_cli.evaluate.run import Outcome


CONFIG = "layers.toml"


def show_layers(outcome: Outcome, form: str, folder: Path, talk: Talk) -> None:
    """The curve and what it recommends, on stdout and in the folder.

    Parameters
    ----------
    outcome : Outcome
    form : {"table", "json", "csv", "md"}
    folder : Path
        Gets the results, and "layers.toml" for `--config`.
    talk : Talk
    """
    from seats_cli.config import write_table
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
        print_document(dump_document(document, ascii_only=not stdout_is_unicode()))
    else:
        print_document(texts[f"layers.{form}"])


EPILOG = (
    "Examples: seats eval synthetic --limit 300 --methods seats,random --retain 25%,10%, "
    "seats eval my.jsonl --model Qwen/Qwen2.5-Omni-7B, seats eval daily-omni --root DIR. "
    "Answers are appended to OUT/answers-*.jsonl at once; the same command again goes on where "
    "an interrupted run ended. Several GPUs: accelerate launch -m seats_cli eval ..."
)


def evaluate(
    context: typer.Context,
    questions: Annotated[
        str,
        typer.Argument(
            metavar="QUESTIONS",
            show_default=False,
            help=(
                "'synthetic' (bundled), a .jsonl file, or a benchmark with --root: daily-omni, "
                "worldsense, omnivideobench, video-mme, lvomnibench."
            ),
        ),
    ],
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="DIR",
            show_default=False,
            rich_help_panel="Input",
            help="Folder of a benchmark's annotations and videos.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            show_default=False,
            rich_help_panel="Input",
            help="Only the first N questions (synthetic: so many; 1,200 if not given).",
        ),
    ] = None,
    set_seed: Annotated[
        int | None,
        typer.Option(
            "--set-seed",
            metavar="N",
            min=0,
            show_default="2026",
            rich_help_panel="Input",
            help="Another synthetic set, for example to choose settings on.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="NAME,...",
            show_default=False,
            rich_help_panel="Input",
            help="Only these families of questions or kinds of clips: color_order,moment.",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="RATE",
            parser=opt.parse_positive,
            show_default="the set's",
            rich_help_panel="Input",
            help="Frames per second to sample.",
        ),
    ] = None,
    max_frames: Annotated[
        int | None,
        typer.Option(
            "--max-frames",
            metavar="N",
            min=2,
            show_default="the set's",
            rich_help_panel="Input",
            help="At most this many frames of a clip.",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            metavar="N",
            min=1,
            show_default="the set's",
            rich_help_panel="Input",
            help="Longest answer in tokens.",
        ),
    ] = None,
    retain: to_config.Retains = None,
    method: to_config.Methods = None,
    skip_still: to_config.Stills = None,
    kv: opt.KvPolicy = None,
    allocation: opt.AllocationPolicy = None,
    config: opt.ConfigFile = None,
    variant: Annotated[
        list[Path] | None,
        typer.Option(
            "--variant",
            metavar="FILE",
            show_default=False,
            rich_help_panel="Budget",
            help="Also a configuration from a .toml file, named after it; with every --retain.",
        ),
    ] = None,
    find_layers: Annotated[
        bool,
        typer.Option(
            "--find-layers",
            rich_help_panel="Budget",
            help=(
                "Instead of methods, hide the video, the sound and both after every layer, and "
                "recommend drop and late layers for this model."
            ),
        ),
    ] = False,
    model: opt.Model = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = opt.DtypeChoice.AUTO,
    attn: opt.Attn = opt.Attention.SDPA,
    revision: opt.Revision = None,
    offline: opt.Offline = False,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            rich_help_panel="Model",
            help="Processes on this machine's CPU, each with the model.",
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            show_default="seats-eval-<set>",
            rich_help_panel="Output",
            help="Folder for answers and results; one that holds this run is gone on with.",
        ),
    ] = None,
    retry_errors: Annotated[
        bool,
        typer.Option(
            "--retry-errors", rich_help_panel="Output", help="Ask again what failed before."
        ),
    ] = False,
    seed: to_config.Seed = 0,
    form: Annotated[
        Format,
        typer.Option(
            "--format", rich_help_panel="Output", help="A table, JSON, CSV or Markdown on stdout."
        ),
    ] = Format.TABLE,
    as_json: opt.Json = False,
    plot: Annotated[
        bool,
        typer.Option(
            "--plot", rich_help_panel="Output", help="Also draw OUT/accuracy.png; needs matplotlib."
        ),
    ] = False,
    quiet: to_config.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Accuracy of methods and budgets on a question set, beside the unpruned model.

    The result goes to stdout and, in every form, into the folder OUT.
    """
    talk = Talk(quiet=quiet)
    calm_libraries(debug=debug, quiet=quiet)
    if plot:
        from seats_cli.report.plots import check_plot

        check_plot(Path("accuracy.png"))
    settings = (
        []
        if find_layers
        else to_config.build_settings(
            context,
            retain,
            method,
            kv,
            allocation,
            config,
            seed,
            variants=variant or (),
            skip_still=skip_still,
        )
    )
    job = Job(
        name=questions,
        root=root,
        limit=limit,
        set_seed=set_seed,
        only=tuple(part.strip() for part in (only or "").split(",") if part.strip()),
        reading=EvalReading(fps, max_frames, max_new_tokens),
        settings=tuple(settings),
        find_layers=find_layers,
        model=ModelOptions(model, device, dtype.value, attn.value, revision, offline),
        out=out or Path(f"seats-eval-{Path(questions).stem}"),
        seed=seed,
        retry_errors=retry_errors,
        workers=workers,
    )
    outcome = run_job(job, talk)
    if outcome is None:
        return
    if find_layers:
        show_layers(outcome, "json" if as_json else form.value, job.out, talk)
    else:
        show(outcome, Format.JSON if as_json else form, job.out, plot=plot, talk=talk)
    check_errors(outcome.records)


def show(outcome: Outcome, form: Format, folder: Path, *, plot: bool, talk: Talk) -> None:
    """The result on stdout in the form asked for, and in every form in the folder."""
    from seats_cli.evaluate.summary import summarise
    from seats_cli.report.documents import dump_document, eval_csv, eval_document
    from seats_cli.report.eval_table import eval_markdown, eval_report
    from seats_cli.report.plots import plot_evaluation

    with talk.progress("Counting"):
        summary = summarise(outcome.questions.name, outcome.records)
        refused = [{"label": label, "reason": reason} for label, reason in outcome.refused]
        details = {**outcome.description, "refused": refused}
        document = dump_document(eval_document(summary, details))
    texts = {
        "results.json": document,
        "results.csv": eval_csv(summary),
        "results.md": eval_markdown(summary),
    }
    for name, text in texts.items():
        (folder / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    if plot:
        plot_evaluation(summary, folder / "accuracy.png")
    talk.notice(f"Wrote {', '.join(texts)}{', accuracy.png' if plot else ''} in {folder}.")
    if form is Format.TABLE:
        print_result(eval_report(summary))
    elif form is Format.JSON and not stdout_is_unicode():
        print_document(dump_document(eval_document(summary, details), ascii_only=True))
    else:
        print_document(texts[f"results.{form.value}"].rstrip("\n"))
