"""`seats plan`: tokens, FLOPs and bytes of a question, from metadata alone."""

from __future__ import annotations

from typing import Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk, print_document, stdout_is_unicode
from seats_cli.cli.outputs import print_result
from seats_cli.cli.sources import limit_pixels, local_path
from seats_cli.cli.to_config import BudgetOptions, build_config
from seats_cli.families.registry import BUNDLED, named_shapes

EPILOG = (
    "Examples: seats plan talk.mp4 --model qwen2.5-omni-7b, "
    "seats plan talk.mp4 --model qwen3-omni-30b-a3b --retain 10% --max-frames 256 --json."
)
# Shapes that are run in 32 bits where no GPU is, unless told otherwise.
_SMALL = ("bundled", "cpu-0.5b")


def plan(
    context: typer.Context,
    video: opt.Video,
    start: opt.Start = None,
    end: opt.End = None,
    fps: opt.Fps = 2.0,
    max_frames: opt.MaxFrames = 768,
    max_pixels: opt.MaxPixels = None,
    audio: opt.Audio = True,
    audio_track: opt.AudioTrack = None,
    max_audio: opt.MaxAudio = None,
    allow_local_urls: opt.AllowLocalUrls = False,
    text_tokens: Annotated[
        int,
        typer.Option(
            "--text-tokens",
            metavar="N",
            min=1,
            rich_help_panel="Input",
            help="Tokens of the question and the template around it.",
        ),
    ] = 40,
    retain: opt.Retain = None,
    retain_video: opt.RetainVideo = None,
    retain_audio: opt.RetainAudio = None,
    full: opt.Full = False,
    kv: opt.KvPolicy = None,
    allocation: opt.AllocationPolicy = None,
    config: opt.ConfigFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            show_default="bundled",
            envvar="SEATS_MODEL",
            rich_help_panel="Model",
            help=f"{', '.join(named_shapes())}, a folder, or a hub id.",
        ),
    ] = None,
    dtype: opt.Dtype = opt.DtypeChoice.AUTO,
    revision: opt.Revision = None,
    max_new_tokens: opt.MaxNewTokens = 128,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Show what a question would take: tokens, FLOPs, memory.

    Nothing is loaded and nothing but the file's index is read.
    """
    talk = Talk()
    first, last = opt.parse_range(start, end)
    budget = BudgetOptions(retain, retain_video, retain_audio, full, kv, allocation, config)
    pruning = build_config(budget, context)
    longest = opt.parse_seconds("--max-audio", max_audio)

    from seats_cli.cost.estimate import find_model, plan_run
    from seats_cli.media.inspection import outline_clip

    found = find_model(model or BUNDLED, revision)
    outline = outline_clip(
        local_path(video, talk, allow_local_urls=allow_local_urls),
        fps=fps,
        max_frames=max_frames,
        sizing=limit_pixels(found.sizing, max_pixels),
        start=first,
        end=last,
        audio=audio,
        audio_track=audio_track,
        max_audio=longest,
    )
    wide = dtype is opt.DtypeChoice.FLOAT32 or (
        dtype is opt.DtypeChoice.AUTO and found.name.lower() in _SMALL
    )
    planned = plan_run(
        outline,
        found,
        pruning,
        text_tokens=text_tokens,
        max_new_tokens=max_new_tokens,
        bytes_per_value=4 if wide else 2,
    )
    for warning in planned.warnings:
        talk.warning(warning)
    if as_json:
        from seats_cli.report.documents import dump_document, plan_document

        print_document(dump_document(plan_document(planned), ascii_only=not stdout_is_unicode()))
        return
    from seats_cli.report.plan_table import plan_report

    print_result(plan_report(planned))
