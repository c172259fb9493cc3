"""Options that several commands share, grouped as the help shows them, and their parsers."""

from __future__ import annotations

import math
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from seats_cli.cli.question import is_text
from seats_cli.errors import UsageError


class Kv(str, Enum):
    """KV-cache policies."""

    LAYERWISE = "layerwise"
    SURVIVORS = "survivors"


class Allocation(str, Enum):
    """How the budget is spread over windows."""

    REFERENCE = "reference"
    ADAPTIVE = "adaptive"
    ADAPTIVE_CONTRAST = "adaptive-contrast"
    ADAPTIVE_FLOOR = "adaptive-floor"
    GLOBAL = "global"


class Format(str, Enum):
    """How a comparison or an evaluation is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    MD = "md"


class DtypeChoice(str, Enum):
    """Number formats of the weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Attention(str, Enum):
    """Attention implementations, under their transformers names where they have one."""

    SDPA = "sdpa"
    STOCK_SDPA = "stock-sdpa"
    EAGER = "eager"
    FLASH_ATTENTION_2 = "flash_attention_2"


def parse_ratio(text: str) -> float:
    """A share of tokens, `0.25` or `25%`, above 0 and at most 1."""
    cleaned = str(text).strip()
    percent = cleaned.endswith("%")
    number = _number(cleaned.rstrip("%").strip()) / (100 if percent else 1)
    if not 0 < number <= 1:
        raise typer.BadParameter(
            f"{cleaned!r} is no share of the tokens; write one above 0 and up to 1, 0.25 or 25%"
        )
    return number


def parse_positive(text: str) -> float:
    """A finite number above 0."""
    number = _number(str(text))
    if number <= 0:
        raise typer.BadParameter(f"{text!r} must be above 0")
    return number


def parse_temperature(text: str) -> float:
    """A finite number, 0 (greedy) or above."""
    number = _number(str(text))
    if number < 0:
        raise typer.BadParameter(f"{text!r} must be 0 or above")
    return number


def parse_top_p(text: str) -> float:
    """A probability mass above 0 and at most 1."""
    number = _number(str(text))
    if not 0 < number <= 1:
        raise typer.BadParameter(f"{text!r} must be above 0 and at most 1")
    return number


def parse_seed(text: str) -> int:
    """A seed that every random generator takes."""
    try:
        seed = int(str(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None
    if not 0 <= seed < 2**32:
        raise typer.BadParameter(f"{text!r} must be from 0 to {2**32 - 1}")
    return seed


def split_choices(text: str | None) -> tuple[str, ...]:
    """The options of `--choices "red, green"`; nothing when it was not given."""
    if text is None:
        return ()
    choices = tuple(part.strip() for part in text.split(","))
    if len(choices) < 2 or "" in choices or len(set(choices)) < len(choices) or not is_text(text):
        raise UsageError(
            f"--choices needs two or more different options between commas, not {text!r}."
        )
    return choices


def parse_range(start: str | None, end: str | None) -> tuple[float | None, float | None]:
    """`--start` and `--end` in seconds, in order."""
    if start is None and end is None:
        return None, None
    from seats_cli.media import parse_time

    seconds: list[float | None] = []
    for name, text in (("--start", start), ("--end", end)):
        try:
            seconds.append(None if text is None else parse_time(text))
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
    first, last = seconds
    if first is not None and last is not None and first >= last:
        raise UsageError(f"--start {start} is not before --end {end}.")
    return first, last


def parse_seconds(option: str, text: str | None) -> float | None:
    """A length of time above 0, written like `--start`."""
    if text is None:
        return None
    from seats_cli.media import parse_time

    try:
        seconds = parse_time(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}") from error
    if seconds <= 0:
        raise UsageError(f"{option} must be above 0, not {text}.")
    return seconds


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


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
    _input("--fps", metavar="RATE", parser=parse_positive, help="Frames per second to sample."),
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
        parser=parse_ratio,
        show_default="25%",
        help="Share of audio and video tokens to keep, averaged over layers: 0.1 or 10%.",
    ),
]
RetainVideo = Annotated[
    float | None,
    _budget(
        "--retain-video",
        metavar="SHARE",
        parser=parse_ratio,
        show_default="by preset",
        help="The same for video tokens alone.",
    ),
]
RetainAudio = Annotated[
    float | None,
    _budget(
        "--retain-audio",
        metavar="SHARE",
        parser=parse_ratio,
        show_default="by preset",
        help="The same for audio tokens alone.",
    ),
]
EncoderReuse = Annotated[
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
    Kv | None,
    _budget(
        "--kv",
        show_default="layerwise",
        help="Each layer caches what it saw, or only what survived every drop.",
    ),
]
AllocationPolicy = Annotated[
    Allocation | None,
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
    DtypeChoice, _model("--dtype", metavar="DTYPE", help="auto, float32, bfloat16 or float16.")
]
Attn = Annotated[
    Attention,
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
        parser=parse_temperature,
        help="0 always takes the likeliest token; above 0 samples.",
    ),
]
TopP = Annotated[
    float,
    _output(
        "--top-p",
        metavar="P",
        parser=parse_top_p,
        help="Sample from the likeliest tokens with this much probability.",
    ),
]
Seed = Annotated[int, _output("--seed", metavar="N", parser=parse_seed, help="Seed for sampling.")]
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
