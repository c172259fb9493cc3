"""Options that several commands share, grouped as the help shows them.

Each is a type for a command's signature; the defaults stand in the signature.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from seats_cli.cli import values

# One panel of the help each.
_input = partial(typer.Option, rich_help_panel="Input")
_budget = partial(typer.Option, rich_help_panel="Budget")
_model = partial(typer.Option, rich_help_panel="Model")
_output = partial(typer.Option, rich_help_panel="Output")

Video = Annotated[
    str,
    typer.Argument(
        metavar="VIDEO",
        show_default=False,
        help="Video, sound or picture: a file, an http(s) URL, or '-' for stdin.",
    ),
]

# Input
Start = Annotated[
    str | None,
    _input(
        "--start",
        metavar="TIME",
        show_default=False,
        help="Where to begin: 75, 1:15 or 00:01:15.5.",
    ),
]
End = Annotated[
    str | None, _input("--end", metavar="TIME", show_default=False, help="Where to stop.")
]
Fps = Annotated[
    float,
    _input(
        "--fps", metavar="RATE", parser=values.parse_positive, help="Frames per second to sample."
    ),
]
MaxFrames = Annotated[
    int,
    _input(
        "--max-frames",
        metavar="N",
        min=2,
        help="At most this many frames; a longer clip is sampled more thinly.",
    ),
]
MaxPixels = Annotated[
    int | None,
    _input(
        "--max-pixels",
        metavar="N",
        min=1,
        show_default="the model's",
        help="At most this many pixels per frame (width x height).",
    ),
]
Audio = Annotated[bool, _input("--audio/--no-audio", help="Listen to the sound, or don't.")]
AudioTrack = Annotated[
    int | None,
    _input(
        "--audio-track",
        metavar="N",
        min=0,
        show_default="the file's default",
        help="Which audio track, counted from 0.",
    ),
]
MaxAudio = Annotated[
    str | None,
    _input(
        "--max-audio",
        metavar="TIME",
        show_default="all of it",
        help="At most this much sound; the rest is left out, with a warning.",
    ),
]
AllowLocalUrls = Annotated[
    bool,
    _input("--allow-local-urls", help="Let a URL lead to this machine or its own network."),
]

# Budget
Retain = Annotated[
    float | None,
    _budget(
        "--retain",
        metavar="SHARE",
        parser=values.parse_ratio,
        show_default="25%",
        help="Share of audio and video tokens to keep, averaged over layers: 0.1 or 10%.",
    ),
]
RetainVideo = Annotated[
    float | None,
    _budget(
        "--retain-video",
        metavar="SHARE",
        parser=values.parse_ratio,
        show_default="by preset",
        help="The same for video tokens alone.",
    ),
]
RetainAudio = Annotated[
    float | None,
    _budget(
        "--retain-audio",
        metavar="SHARE",
        parser=values.parse_ratio,
        show_default="by preset",
        help="The same for audio tokens alone.",
    ),
]
SkipStill = Annotated[
    float | None,
    _budget(
        "--skip-still",
        metavar="LEVELS",
        min=0.0,
        max=255.0,
        show_default="off",
        help=(
            "Do not encode places of the picture again that changed by no more than this many "
            "grey levels, such as 2; 0 skips exact repeats only."
        ),
    ),
]
Full = Annotated[bool, _budget("--full", help="Prune nothing.")]
KvPolicy = Annotated[
    values.Kv | None,
    _budget(
        "--kv",
        show_default="layerwise",
        help="Each layer caches what it saw, or only what survived every drop.",
    ),
]
AllocationPolicy = Annotated[
    values.Allocation | None,
    _budget("--allocation", show_default="reference", help="How the budget is spread over time."),
]
ConfigFile = Annotated[
    Path | None,
    _budget(
        "--config",
        metavar="FILE",
        show_default=False,
        help="Pruning settings from TOML or JSON; other flags override them.",
    ),
]

# Model
Model = Annotated[
    str | None,
    _model(
        "--model",
        "-m",
        metavar="MODEL",
        show_default="bundled",
        envvar="SEATS_MODEL",
        help="Hub id or local folder.",
    ),
]
Device = Annotated[
    str,
    _model(
        "--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps, or spread over all GPUs."
    ),
]
Dtype = Annotated[
    values.Dtype, _model("--dtype", metavar="DTYPE", help="auto, float32, bfloat16 or float16.")
]
Attn = Annotated[
    values.Attention,
    _model("--attn", metavar="NAME", help="sdpa, stock-sdpa, eager or flash_attention_2."),
]
Revision = Annotated[
    str | None,
    _model(
        "--revision", metavar="REV", show_default=False, help="Branch, tag or commit on the hub."
    ),
]
Offline = Annotated[bool, _model("--offline", help="Never use the network.")]

# Output
Json = Annotated[
    bool, _output("--json", help="Print one JSON document and nothing else on stdout.")
]
Quiet = Annotated[
    bool,
    _output(
        "--quiet", "-q", help="No report, notices or progress; warnings about lost input stay."
    ),
]
Debug = Annotated[bool, _output("--debug", help="Show tracebacks and the libraries' own messages.")]

# Generation, shown with the output
MaxNewTokens = Annotated[
    int, _output("--max-new-tokens", metavar="N", min=1, help="Longest answer, in tokens.")
]
Temperature = Annotated[
    float,
    _output(
        "--temperature",
        metavar="T",
        parser=values.parse_temperature,
        help="0 always takes the likeliest token; above 0 samples.",
    ),
]
TopP = Annotated[
    float,
    _output(
        "--top-p",
        metavar="P",
        parser=values.parse_top_p,
        help="Sample from the likeliest tokens with this much probability.",
    ),
]
Seed = Annotated[
    int, _output("--seed", metavar="N", parser=values.parse_seed, help="Seed for sampling.")
]
Choices = Annotated[
    str | None,
    _output(
        "--choices",
        metavar="A,B,...",
        show_default=False,
        help='Answer with the likeliest of these: "red,green,blue".',
    ),
]
NoStream = Annotated[
    bool, _output("--no-stream", help="Print the answer at once when it is complete.")
]
