"""The options of the commands: groups of them, and single ones that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from typer.models import OptionInfo

from seats_cli.cli.option_parsers import (
    budget_option,
    cluster_option,
    input_option,
    model_option,
    output_option,
    parse_seed,
)
from seats_cli.config import ALLOCATIONS, KV_POLICIES, QUANTIZE, ModelOptions
from seats_cli.families.registry import named_shapes
from seats_cli.media.clip import ReadOptions

if TYPE_CHECKING:
    Kv: TypeAlias = str
    Allocation: TypeAlias = str
    Format: TypeAlias = str
    Dtype: TypeAlias = str
    Attention: TypeAlias = str
    Quantize: TypeAlias = str
else:
    # What Typer shows as choices; commands get the plain strings, see `grouped`.
    def _choices(name: str, values: Sequence[str]) -> type[Enum]:
        return Enum(name, {value: value for value in values}, type=str)

    Kv = _choices("Kv", KV_POLICIES)
    Allocation = _choices("Allocation", ALLOCATIONS)
    Format = _choices("Format", ("table", "json", "csv", "md"))
    Dtype = _choices("Dtype", ("auto", "float32", "bfloat16", "float16"))
    Attention = _choices("Attention", ("sdpa", "stock-sdpa", "eager", "flash_attention_2"))
    Quantize = _choices("Quantize", QUANTIZE)


_VIDEO = typer.Argument(
    metavar="VIDEO", help="Video, sound or picture: a file, an http(s) URL, or '-' for stdin."
)
Video = Annotated[str, _VIDEO]
OptionalVideo = Annotated[str | None, _VIDEO]
# Where an indexed clip will do.
AskedVideo = Annotated[
    str,
    typer.Argument(
        metavar="VIDEO",
        help="Video, sound or picture: a file, an http(s) URL, or '-' for stdin; or an index "
        "(.seats).",
    ),
]
Question = Annotated[
    str | None,
    typer.Argument(
        metavar="QUESTION", help="The question; read from stdin when piped there, or for '-'."
    ),
]
System = Annotated[
    str | None,
    input_option(
        "--system TEXT",
        "System turn of the prompt; '' for an empty one.",
        shown="the model's usual",
    ),
]
AllowLocalUrls = Annotated[
    bool, input_option("--allow-local-urls", "Let a URL lead to this machine or its own network.")
]


@dataclass(frozen=True)
class ReadFlags(ReadOptions):
    """What of a file to read."""

    start: Annotated[
        float | None, input_option("--start TIME", "Where to begin: 75, 1:15 or 00:01:15.5.")
    ]
    end: Annotated[float | None, input_option("--end TIME", "Where to stop.")]
    fps: Annotated[float, input_option("--fps RATE", "Frames per second to sample.")]
    max_frames: Annotated[
        int,
        input_option(
            "--max-frames N",
            "At most this many frames; a longer clip is sampled more thinly.",
            min=2,
        ),
    ]
    max_pixels: Annotated[
        int | None,
        input_option(
            "--max-pixels N",
            "At most this many pixels per frame (width x height).",
            shown="the model's",
            min=1,
        ),
    ]
    total_pixels: Annotated[
        int | None,
        input_option(
            "--total-pixels N",
            "At most this many pixels in all frames together, two counted as one.",
            shown="the official budget",
            min=1,
        ),
    ]
    video_track: Annotated[
        int | None,
        input_option(
            "--video-track N",
            "Which video track, counted from 0.",
            shown="the one players show",
            min=0,
        ),
    ]
    audio: Annotated[bool, input_option("--audio/--no-audio", "Use the sound track.")]
    audio_track: Annotated[
        int | None,
        input_option(
            "--audio-track N",
            "Which audio track, counted from 0.",
            shown="the file's default",
            min=0,
        ),
    ]
    max_audio: Annotated[
        float | None,
        input_option(
            "--max-audio TIME",
            "At most this much sound; the rest is left out, with a warning.",
            shown="all of it",
        ),
    ]


KvPolicy = Annotated[
    Kv | None,
    budget_option(
        "--kv",
        "Each layer caches what it saw, or only what survived every drop.",
        shown="layerwise",
    ),
]
AllocationPolicy = Annotated[
    Allocation | None,
    budget_option("--allocation", "How the budget is spread over time.", shown="reference"),
]
ConfigFile = Annotated[
    Path | None,
    budget_option(
        "--config FILE", "Pruning settings from TOML or JSON; other flags override them."
    ),
]


_REUSE = "In the vision encoder, reuse what is this alike (cosine) to what was there before"
_KEEP = "Carry at most this share of the picture through the vision encoder"


@dataclass(frozen=True)
class BudgetFlags:
    """One configuration; None is what was not set. Names are those of `SeatsConfig`."""

    retain: Annotated[
        float | None,
        budget_option(
            "--retain SHARE",
            "Share of audio and video tokens to keep, averaged over layers: 0.1 or 10%.",
            shown="25%",
        ),
    ] = None
    retain_video: Annotated[
        float | None,
        budget_option(
            "--retain-video SHARE", "The same for video tokens alone.", shown="by preset"
        ),
    ] = None
    retain_audio: Annotated[
        float | None,
        budget_option(
            "--retain-audio SHARE", "The same for audio tokens alone.", shown="by preset"
        ),
    ] = None
    method: Annotated[
        str | None,
        budget_option(
            "--method NAME", "Selection method: seats, random, fastv and so on.", shown="seats"
        ),
    ] = None
    full: Annotated[bool, budget_option("--full", "Prune nothing.")] = False
    still_tolerance: Annotated[
        float | None,
        budget_option(
            "--skip-still LEVELS",
            "Do not re-encode parts of the picture that changed by at most this many "
            "grey levels, such as 2; 0 skips exact repeats only.",
            shown="off",
            min=0.0,
            max=255.0,
        ),
    ] = None
    encoder_reuse: Annotated[
        float | None,
        budget_option("--encoder-reuse COSINE", f"{_REUSE}, such as 0.99; or off.", shown="off"),
    ] = None
    encoder_keep: Annotated[
        float | None, budget_option("--encoder-keep SHARE", f"{_KEEP}: 35%.", shown="off")
    ] = None
    kv: KvPolicy = None
    allocation: AllocationPolicy = None
    config_file: ConfigFile = None


@dataclass(frozen=True)
class SweepFlags:
    """Several configurations: each method with each budget and each setting of the encoder."""

    retain: Annotated[
        str | None,
        budget_option(
            "--retain SHARE,...",
            "Shares of audio and video tokens to keep, each one setting: 35%,25%,15%,10%.",
            shown="25%",
        ),
    ] = None
    method: Annotated[
        str | None,
        budget_option(
            "--method --methods NAME,...",
            "Selection methods, or 'all': seats,random,fastv.",
            shown="seats",
        ),
    ] = None
    still_tolerance: Annotated[
        str | None,
        budget_option(
            "--skip-still LEVELS,...",
            "Do not re-encode what changed by at most so many grey levels (0 to 255): off,2.",
            shown="off",
        ),
    ] = None
    encoder_reuse: Annotated[
        str | None,
        budget_option("--encoder-reuse COSINE,...", f"{_REUSE}: off,0.99.", shown="off"),
    ] = None
    encoder_keep: Annotated[
        str | None, budget_option("--encoder-keep SHARE,...", f"{_KEEP}: off,35%.", shown="off")
    ] = None
    kv: KvPolicy = None
    allocation: AllocationPolicy = None
    config_file: ConfigFile = None


def _model_option(text: str) -> OptionInfo:
    # SEATS_MODEL is read as every other setting is, see `defaults`; `envvar` is for the help.
    return model_option("--model -m MODEL", text, shown="bundled", envvar="SEATS_MODEL")


_SHAPES = list(named_shapes())
Model = Annotated[str | None, _model_option("Hub id or local folder.")]
DtypeName = Annotated[Dtype, model_option("--dtype DTYPE", "auto, float32, bfloat16 or float16.")]
Revision = Annotated[
    str | None, model_option("--revision REV", "Branch, tag or commit on the hub.")
]


@dataclass(frozen=True)
class ModelFlags(ModelOptions):
    """Which model, and how to load it."""

    model: Model
    device: Annotated[
        str,
        model_option("--device DEVICE", "auto, cpu, cuda, cuda:1, mps, or spread over all GPUs."),
    ]
    dtype: DtypeName
    attention: Annotated[
        Attention, model_option("--attn NAME", "sdpa, stock-sdpa, eager or flash_attention_2.")
    ]
    revision: Revision
    offline: Annotated[bool, model_option("--offline", "Never use the network.")]
    quantize: Annotated[
        Quantize | None,
        model_option(
            "--quantize BITS",
            "4bit or 8bit weights in the decoder, by bitsandbytes (Qwen2.5-Omni).",
            shown="as stored",
        ),
    ]
    adapter: Annotated[
        str | None,
        model_option("--adapter DIR", "LoRA adapter of the model, as PEFT saves it.", shown="none"),
    ]


@dataclass(frozen=True)
class AnyModelFlags(ModelFlags):
    """A checkpoint, or an architecture with random weights."""

    model: Model
    random_weights: Annotated[
        str | None,
        model_option(
            "--random-weights ARCH",
            "Measure a real architecture with random weights: "
            f"{', '.join(_SHAPES[:-1])} or {_SHAPES[-1]}.",
        ),
    ] = None
    layers: Annotated[
        int | None,
        model_option(
            "--layers N", "Decoder layers of --random-weights.", shown="the real number", min=1
        ),
    ] = None
    hidden: Annotated[
        int | None,
        model_option(
            "--hidden N",
            "Decoder width of --random-weights; heads and MLP follow.",
            shown="the real width",
            min=1,
        ),
    ] = None


@dataclass(frozen=True)
class ShapeFlags:
    """Whose shapes to count with; nothing of the model is loaded."""

    model: Annotated[str | None, _model_option(f"{', '.join(_SHAPES)}, a folder, or a hub id.")] = (
        None
    )
    dtype: DtypeName = "auto"
    revision: Revision = None


MaxNewTokens = Annotated[
    int, output_option("--max-new-tokens N", "Longest answer, in tokens.", min=1)
]
# Where the checkpoint has a say.
OwnMaxNewTokens = Annotated[
    int | None,
    output_option(
        "--max-new-tokens N",
        "Longest answer in tokens, thinking included.",
        shown="128, or the model's own",
        min=1,
    ),
]
Seed = Annotated[int, output_option("--seed N", "Seed for sampling.", parser=parse_seed)]
SweepSeed = Annotated[
    int,
    output_option(
        "--seed N", "Seed of methods that draw at random, and of random weights.", parser=parse_seed
    ),
]


@dataclass(frozen=True)
class GenerationFlags:
    """How to answer; names are those of `seats_cli.engine.answer.ask`."""

    max_new_tokens: OwnMaxNewTokens = None
    temperature: Annotated[
        float | None,
        output_option(
            "--temperature T",
            "0 always takes the likeliest token; above 0 samples.",
            shown="0, or the model's own",
        ),
    ] = None
    top_p: Annotated[
        float | None,
        output_option(
            "--top-p P",
            "Sample from the likeliest tokens with this much probability.",
            shown="1, or the model's own",
        ),
    ] = None
    top_k: Annotated[
        int | None,
        output_option(
            "--top-k N",
            "Sample from this many likeliest tokens; 0 from all.",
            shown="0, or the model's own",
            min=0,
        ),
    ] = None
    seed: Seed = 0
    choices: Annotated[
        str | None,
        output_option("--choices A,B,...", 'Answer with the likeliest of these: "red,green,blue".'),
    ] = None


FormatName = Annotated[
    Format, output_option("--format", "A table, JSON, CSV or Markdown on stdout.")
]
Json = Annotated[
    bool, output_option("--json", "Print one JSON document and nothing else on stdout.")
]
Html = Annotated[
    Path | None, output_option("--html FILE", "Also write a page that shows what was kept.")
]
Quiet = Annotated[
    bool,
    output_option("--quiet -q", "No report, notices or progress; warnings about lost input stay."),
]
SweepQuiet = Annotated[
    bool, output_option("--quiet -q", "No notices or progress; warnings about lost input stay.")
]
ShowThinking = Annotated[
    bool, output_option("--show-thinking", "Show on stderr what a model thinks before it answers.")
]
Debug = Annotated[
    bool, output_option("--debug", "Show tracebacks and the libraries' own messages.")
]


@dataclass(frozen=True)
class ClusterFlags:
    """Whether a Ray cluster does the work, and how."""

    ray: Annotated[
        str | None,
        cluster_option(
            "--ray [ADDRESS]",
            "Run on a Ray cluster: HOST:PORT of its head, 'auto' or 'local'; without ADDRESS the "
            "cluster that this machine is in, else a local one.",
        ),
    ] = None
    actors: Annotated[
        int | None,
        cluster_option(
            "--actors N", "Models on the cluster.", shown="as many as GPUs, else machines", min=1
        ),
    ] = None
    gpus_per_actor: Annotated[
        float,
        cluster_option(
            "--gpus-per-actor N", "0 runs the models on CPUs, 0.5 two on each GPU.", min=0
        ),
    ] = 1.0
