"""The options of the commands: groups of them, and single ones that several commands take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from typer.models import OptionInfo

from seats_cli.cli.question import is_text
from seats_cli.config import ALLOCATIONS, KV_POLICIES, ModelOptions
from seats_cli.errors import UsageError
from seats_cli.families.registry import named_shapes
from seats_cli.media.clip import ReadOptions
from seats_cli.media.timecode import parse_time

if TYPE_CHECKING:
    Kv: TypeAlias = str
    Allocation: TypeAlias = str
    Format: TypeAlias = str
    Dtype: TypeAlias = str
    Attention: TypeAlias = str
else:

    def _choices(name: str, values: Sequence[str]) -> type[Enum]:
        """What Typer shows as choices; commands get the plain strings, see `grouped`."""
        return Enum(name, {value: value for value in values}, type=str)

    Kv = _choices("Kv", KV_POLICIES)
    Allocation = _choices("Allocation", ALLOCATIONS)
    Format = _choices("Format", ("table", "json", "csv", "md"))
    Dtype = _choices("Dtype", ("auto", "float32", "bfloat16", "float16"))
    Attention = _choices("Attention", ("sdpa", "stock-sdpa", "eager", "flash_attention_2"))


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


def parse_clock(text: str) -> float:
    """Seconds, written as `parse_time` reads them."""
    try:
        return parse_time(str(text))
    except UsageError as error:
        raise typer.BadParameter(str(error)) from error


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


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not math.isfinite(number):
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


# One panel of the help each.
input_option = partial(typer.Option, rich_help_panel="Input")
budget_option = partial(typer.Option, rich_help_panel="Budget")
model_option = partial(typer.Option, rich_help_panel="Model")
output_option = partial(typer.Option, rich_help_panel="Output")

_VIDEO = typer.Argument(
    metavar="VIDEO",
    show_default=False,
    help="Video, sound or picture: a file, an http(s) URL, or '-' for stdin.",
)
Video = Annotated[str, _VIDEO]
OptionalVideo = Annotated[str | None, _VIDEO]
Question = Annotated[
    str | None,
    typer.Argument(
        metavar="QUESTION",
        show_default=False,
        help="The question; read from stdin when piped there, or for '-'.",
    ),
]
AllowLocalUrls = Annotated[
    bool,
    input_option("--allow-local-urls", help="Let a URL lead to this machine or its own network."),
]


@dataclass(frozen=True)
class ReadFlags(ReadOptions):
    """What of a file to read."""

    start: Annotated[
        float | None,
        input_option(
            "--start",
            metavar="TIME",
            parser=parse_clock,
            show_default=False,
            help="Where to begin: 75, 1:15 or 00:01:15.5.",
        ),
    ]
    end: Annotated[
        float | None,
        input_option(
            "--end", metavar="TIME", parser=parse_clock, show_default=False, help="Where to stop."
        ),
    ]
    fps: Annotated[
        float,
        input_option(
            "--fps", metavar="RATE", parser=parse_positive, help="Frames per second to sample."
        ),
    ]
    max_frames: Annotated[
        int,
        input_option(
            "--max-frames",
            metavar="N",
            min=2,
            help="At most this many frames; a longer clip is sampled more thinly.",
        ),
    ]
    max_pixels: Annotated[
        int | None,
        input_option(
            "--max-pixels",
            metavar="N",
            min=1,
            show_default="the model's",
            help="At most this many pixels per frame (width x height).",
        ),
    ]
    audio: Annotated[
        bool, input_option("--audio/--no-audio", help="Listen to the sound, or don't.")
    ]
    audio_track: Annotated[
        int | None,
        input_option(
            "--audio-track",
            metavar="N",
            min=0,
            show_default="the file's default",
            help="Which audio track, counted from 0.",
        ),
    ]
    max_audio: Annotated[
        float | None,
        input_option(
            "--max-audio",
            metavar="TIME",
            parser=parse_clock,
            show_default="all of it",
            help="At most this much sound; the rest is left out, with a warning.",
        ),
    ]


KvPolicy = Annotated[
    Kv | None,
    budget_option(
        "--kv",
        show_default="layerwise",
        help="Each layer caches what it saw, or only what survived every drop.",
    ),
]
AllocationPolicy = Annotated[
    Allocation | None,
    budget_option(
        "--allocation", show_default="reference", help="How the budget is spread over time."
    ),
]
ConfigFile = Annotated[
    Path | None,
    budget_option(
        "--config",
        metavar="FILE",
        show_default=False,
        help="Pruning settings from TOML or JSON; other flags override them.",
    ),
]


@dataclass(frozen=True)
class BudgetFlags:
    """One configuration; None is what was not set. Names are those of `SeatsConfig`."""

    retain: Annotated[
        float | None,
        budget_option(
            "--retain",
            metavar="SHARE",
            parser=parse_ratio,
            show_default="25%",
            help="Share of audio and video tokens to keep, averaged over layers: 0.1 or 10%.",
        ),
    ] = None
    retain_video: Annotated[
        float | None,
        budget_option(
            "--retain-video",
            metavar="SHARE",
            parser=parse_ratio,
            show_default="by preset",
            help="The same for video tokens alone.",
        ),
    ] = None
    retain_audio: Annotated[
        float | None,
        budget_option(
            "--retain-audio",
            metavar="SHARE",
            parser=parse_ratio,
            show_default="by preset",
            help="The same for audio tokens alone.",
        ),
    ] = None
    method: Annotated[
        str | None,
        budget_option(
            "--method",
            metavar="NAME",
            show_default="seats",
            help="Selection method: seats, random, fastv and so on.",
        ),
    ] = None
    full: Annotated[bool, budget_option("--full", help="Prune nothing.")] = False
    still_tolerance: Annotated[
        float | None,
        budget_option(
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
    ] = None
    kv: KvPolicy = None
    allocation: AllocationPolicy = None
    config_file: ConfigFile = None


@dataclass(frozen=True)
class SweepFlags:
    """Several configurations: each method with each budget and each tolerance of Stage 0."""

    retain: Annotated[
        str | None,
        budget_option(
            "--retain",
            metavar="SHARE,...",
            show_default="25%",
            help="Shares of audio and video tokens to keep, each one setting: 35%,25%,15%,10%.",
        ),
    ] = None
    method: Annotated[
        str | None,
        budget_option(
            "--method",
            "--methods",
            metavar="NAME,...",
            show_default="seats",
            help="Selection methods, or 'all': seats,random,fastv.",
        ),
    ] = None
    still_tolerance: Annotated[
        str | None,
        budget_option(
            "--skip-still",
            metavar="LEVELS,...",
            show_default="off",
            help=(
                "Do not encode places of the picture again that changed by no more than this many "
                "grey levels (0 to 255), each one setting: off,2."
            ),
        ),
    ] = None
    kv: KvPolicy = None
    allocation: AllocationPolicy = None
    config_file: ConfigFile = None


def _model(help_text: str) -> OptionInfo:
    # SEATS_MODEL is read as every other setting is, see `defaults`; `envvar` is for the help.
    found: OptionInfo = model_option(
        "--model",
        "-m",
        metavar="MODEL",
        show_default="bundled",
        envvar="SEATS_MODEL",
        help=help_text,
    )
    return found


DtypeName = Annotated[
    Dtype, model_option("--dtype", metavar="DTYPE", help="auto, float32, bfloat16 or float16.")
]
Revision = Annotated[
    str | None,
    model_option(
        "--revision", metavar="REV", show_default=False, help="Branch, tag or commit on the hub."
    ),
]


@dataclass(frozen=True)
class ModelFlags(ModelOptions):
    """Which model, and how to load it."""

    model: Annotated[str | None, _model("Hub id or local folder.")]
    device: Annotated[
        str,
        model_option(
            "--device",
            metavar="DEVICE",
            help="auto, cpu, cuda, cuda:1, mps, or spread over all GPUs.",
        ),
    ]
    dtype: DtypeName
    attention: Annotated[
        Attention,
        model_option(
            "--attn", metavar="NAME", help="sdpa, stock-sdpa, eager or flash_attention_2."
        ),
    ]
    revision: Revision
    offline: Annotated[bool, model_option("--offline", help="Never use the network.")]


_SHAPES = list(named_shapes())


@dataclass(frozen=True)
class AnyModelFlags(ModelFlags):
    """A checkpoint, or an architecture with random weights."""

    model: Annotated[str | None, _model("Hub id or local folder.")]
    random_weights: Annotated[
        str | None,
        model_option(
            "--random-weights",
            metavar="ARCH",
            show_default=False,
            help=(
                "Measure a real architecture with random weights: "
                f"{', '.join(_SHAPES[:-1])} or {_SHAPES[-1]}."
            ),
        ),
    ] = None
    layers: Annotated[
        int | None,
        model_option(
            "--layers",
            metavar="N",
            min=1,
            show_default="the real number",
            help="Decoder layers of --random-weights.",
        ),
    ] = None
    hidden: Annotated[
        int | None,
        model_option(
            "--hidden",
            metavar="N",
            min=1,
            show_default="the real width",
            help="Decoder width of --random-weights; heads and MLP follow.",
        ),
    ] = None


@dataclass(frozen=True)
class ShapeFlags:
    """Whose shapes to count with; nothing of the model is loaded."""

    model: Annotated[str | None, _model(f"{', '.join(_SHAPES)}, a folder, or a hub id.")] = None
    dtype: DtypeName = "auto"
    revision: Revision = None


MaxNewTokens = Annotated[
    int, output_option("--max-new-tokens", metavar="N", min=1, help="Longest answer, in tokens.")
]
Seed = Annotated[
    int, output_option("--seed", metavar="N", parser=parse_seed, help="Seed for sampling.")
]
SweepSeed = Annotated[
    int,
    output_option(
        "--seed",
        metavar="N",
        parser=parse_seed,
        help="Seed of methods that draw at random, and of random weights.",
    ),
]


@dataclass(frozen=True)
class GenerationFlags:
    """How to answer; names are those of `seats_cli.engine.answer.ask`."""

    max_new_tokens: MaxNewTokens = 128
    temperature: Annotated[
        float,
        output_option(
            "--temperature",
            metavar="T",
            parser=parse_temperature,
            help="0 always takes the likeliest token; above 0 samples.",
        ),
    ] = 0.0
    top_p: Annotated[
        float,
        output_option(
            "--top-p",
            metavar="P",
            parser=parse_top_p,
            help="Sample from the likeliest tokens with this much probability.",
        ),
    ] = 1.0
    seed: Seed = 0
    choices: Annotated[
        str | None,
        output_option(
            "--choices",
            metavar="A,B,...",
            show_default=False,
            help='Answer with the likeliest of these: "red,green,blue".',
        ),
    ] = None


FormatName = Annotated[
    Format, output_option("--format", help="A table, JSON, CSV or Markdown on stdout.")
]
Json = Annotated[
    bool, output_option("--json", help="Print one JSON document and nothing else on stdout.")
]
Html = Annotated[
    Path | None,
    output_option(
        "--html",
        metavar="FILE",
        show_default=False,
        help="Also write a page that shows what was kept.",
    ),
]
Quiet = Annotated[
    bool,
    output_option(
        "--quiet", "-q", help="No report, notices or progress; warnings about lost input stay."
    ),
]
SweepQuiet = Annotated[
    bool,
    output_option("--quiet", "-q", help="No notices or progress; warnings about lost input stay."),
]
Debug = Annotated[
    bool, output_option("--debug", help="Show tracebacks and the libraries' own messages.")
]
