"""`seats compare`: the unpruned answer and pruned ones side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk, calm_libraries, print_document
from seats_cli.cli.option_groups import grouped
from seats_cli.cli.outputs import print_json, print_result, record_answer, write_page
from seats_cli.cli.question import check_stdin_is_free, find_question
from seats_cli.cli.sources import check_random, fit_input, open_any, open_input, read_input
from seats_cli.cli.to_config import build_specs
from seats_cli.files import check_target

if TYPE_CHECKING:
    from seats_cli.results import Comparison


EPILOG = (
    'Examples: seats compare talk.mp4 "What is shown first?" --retain 25%,10%, '
    'seats compare talk.mp4 "Who laughs?" --methods all --format md > table.md.'
)


@dataclass(frozen=True)
class CompareOutput:
    """What to print and write."""

    form: opt.FormatName = "table"
    as_json: opt.Json = False
    html: opt.Html = None
    quiet: opt.SweepQuiet = False
    debug: opt.Debug = False


@grouped
def compare(
    context: typer.Context,
    video: opt.Video,
    question: opt.Question = None,
    *,
    system: opt.System = None,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    sweep: opt.SweepFlags,
    model: opt.AnyModelFlags,
    max_new_tokens: opt.MaxNewTokens = 128,
    seed: opt.SweepSeed = 0,
    output: CompareOutput,
) -> None:
    """Answer without pruning and with each method and budget, and say how far they agree.

    Answers are greedy. A budget that a method cannot reach is a row that says so.
    """
    talk = Talk(quiet=output.quiet)
    check_random(model, context)
    if output.html is not None:
        check_target(output.html, "--html")
    check_stdin_is_free(video, question)
    file = open_input(video, talk, allow_local_urls=allow_local_urls, offline=model.offline)
    text = find_question(question, talk)
    calm_libraries(debug=output.debug, quiet=output.quiet)
    specs = build_specs(context, sweep, seed, model=model.model, revision=model.revision)

    from seats_cli.engine.comparison import run_comparison

    loaded = open_any(model, seed, talk)
    configs = [spec.config for spec in specs]
    fitted, notes = fit_input(file, read, loaded, [text], configs, max_new_tokens, (), system)
    clip, read_s = read_input(file, fitted, loaded.sizing, talk, notes)
    with talk.progress("Answering") as progress:
        result = run_comparison(
            loaded,
            clip,
            text,
            specs,
            system=system,
            max_new_tokens=max_new_tokens,
            seed=seed,
            read_s=read_s,
            on_progress=progress.update,
        )
    _show(result, "json" if output.as_json else output.form)
    if output.html is not None:
        records = [
            record_answer(run.answer, clip, fitted, loaded.sizing, label=run.label)
            for run in result.runs
            if run.answer is not None
        ]
        write_page(records, clip, output.html, talk)


def _show(result: Comparison, form: str) -> None:
    """The comparison on stdout in the form asked for."""
    from seats_cli.report import compare_table, documents

    if form == "table":
        print_result(compare_table.comparison_report(result))
    elif form == "json":
        print_json(documents.comparison_document(result))
    elif form == "csv":
        print_document(documents.comparison_csv(result))
    else:
        print_document(compare_table.comparison_markdown(result))
