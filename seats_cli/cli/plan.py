"""`seats plan`: tokens, FLOPs and bytes of a question, from metadata alone."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk
from seats_cli.cli.option_groups import Omit, grouped, with_flags
from seats_cli.cli.option_parsers import input_option, output_option
from seats_cli.cli.outputs import print_json, print_result
from seats_cli.cli.sources import local_path
from seats_cli.cli.to_config import SKIPS, build_config
from seats_cli.families.registry import BUNDLED

EPILOG = (
    "Examples: seats plan talk.mp4 --model qwen2.5-omni-7b, "
    "seats plan talk.mp4 --model qwen3-omni-30b-a3b --retain 10% --max-frames 256 --json."
)
# Shapes that are run in 32 bits where no GPU is, unless requested otherwise.
_SMALL = ("bundled", "cpu-0.5b")


@grouped
def plan(
    context: typer.Context,
    video: opt.Video,
    *,
    system: opt.System = None,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    text_tokens: Annotated[
        int,
        input_option(
            "--text-tokens N", "Tokens of the question and the template around it.", min=1
        ),
    ] = 40,
    budget: Annotated[opt.BudgetFlags, Omit("method", *SKIPS)],
    model: opt.ShapeFlags,
    max_new_tokens: opt.MaxNewTokens = 128,
    memory: Annotated[
        bool,
        output_option("--memory", "Also show which GPUs it fits on, in 16, 8 and 4 bits."),
    ] = False,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Show what a question would take: tokens, FLOPs, memory.

    Nothing is loaded and nothing but the file's index is read.
    """
    talk = Talk()
    config = build_config(budget, context)

    from seats_cli.cost.estimate import find_model, plan_file

    found = find_model(model.model or BUNDLED, model.revision)
    path = local_path(video, talk, allow_local_urls=allow_local_urls)
    small = model.dtype == "auto" and found.name.lower() in _SMALL
    planned = plan_file(
        path,
        read,
        found,
        config,
        text_tokens=text_tokens,
        system=system,
        max_new_tokens=max_new_tokens,
        bytes_per_value=4 if small or model.dtype == "float32" else 2,
    )
    planned = dataclasses.replace(planned, warnings=tuple(map(with_flags, planned.warnings)))
    for warning in planned.warnings:
        talk.warning(warning)
    if as_json:
        from seats_cli.report.documents import plan_document

        print_json(plan_document(planned, memory=memory))
        return
    from seats_cli.report.plan_table import plan_report

    print_result(plan_report(planned, memory=memory))
