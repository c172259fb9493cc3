"""From options to configurations: one for a question, several to measure and compare."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seats_cli.cli.defaults import from_command_line
from seats_cli.cli.options import Allocation, Kv, parse_positive, parse_ratio, parse_seed
from seats_cli.config import FULL
from seats_cli.errors import UsageError
from seats_cli.families.registry import named_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seats_cli.config import SeatsConfig
    from seats_cli.results import RunSpec


# The paper's second-smallest cut: a clear gain on long clips at an accuracy close to full.
DEFAULT_PRESET = "25%"


@dataclasses.dataclass(frozen=True)
class BudgetOptions:
    """The budget options of a command, None where not set."""

    retain: float | None = None
    retain_video: float | None = None
    retain_audio: float | None = None
    full: bool = False
    kv: Kv | None = None
    allocation: Allocation | None = None
    config_file: Path | None = None
    skip_still: float | None = None


def build_config(options: BudgetOptions, context: typer.Context) -> SeatsConfig | None:
    """The pruning configuration, or None for an unpruned run.

    Values that were typed win over `--config`, which wins over values from settings.

    Raises
    ------
    UsageError
        Options that contradict each other.
    ConfigError
        A file that cannot be read, or a value out of range.
    """
    given = {
        name: value
        for name, value in (
            ("retain", options.retain),
            ("retain_video", options.retain_video),
            ("retain_audio", options.retain_audio),
            ("kv", options.kv),
            ("allocation", options.allocation),
            ("still_tolerance", options.skip_still),
        )
        if value is not None
    }
    typed = {name for name in given if from_command_line(context, name)}
    if options.full:
        _refuse_with_full(typed, options.config_file)
        if options.skip_still is None:
            return None

    from seats_cli.config import SeatsConfig

    if options.full:
        return SeatsConfig(method=FULL, still_tolerance=options.skip_still)

    if options.config_file is not None:
        config = SeatsConfig.load(options.config_file.expanduser())
        given = {n: v for n, v in given.items() if n in typed or n == "still_tolerance"}
    else:
        if "retain" in typed:  # a typed target for all beats a split from the settings
            others = ("kv", "allocation", "still_tolerance")
            given = {k: v for k, v in given.items() if k in typed or k in others}
        config = SeatsConfig.preset(DEFAULT_PRESET)
    changes: dict[str, Any] = {
        name: value.value if isinstance(value, Kv | Allocation) else value
        for name, value in given.items()
    }
    if "retain" in changes:
        # A target for both together replaces the base's split, unless the split is given too.
        changes = {"retain_video": None, "retain_audio": None, **changes}
    return dataclasses.replace(config, **changes) if changes else config


def _refuse_with_full(typed: set[str], config_file: Path | None) -> None:
    clash = sorted(f"--{name.replace('_', '-')}" for name in typed)
    clash += ["--config"] if config_file is not None else []
    if clash:
        raise UsageError(f"--full prunes nothing, so it cannot be combined with {clash[0]}.")


_input = partial(typer.Option, rich_help_panel="Input")
_budget = partial(typer.Option, rich_help_panel="Budget")
_model = partial(typer.Option, rich_help_panel="Model")
_output = partial(typer.Option, rich_help_panel="Output")

ALL = "all"
OFF = "off"

_SHAPES = list(named_shapes())

OptionalVideo = Annotated[
    str | None,
    typer.Argument(
        metavar="VIDEO",
        show_default=False,
        help="Video, sound or picture: a file, an http(s) URL, or '-' for stdin.",
    ),
]
Synthetic = Annotated[
    float | None,
    _input(
        "--synthetic",
        metavar="SECONDS",
        parser=parse_positive,
        show_default=False,
        help="A clip of this length made in memory instead of a file.",
    ),
]
Retains = Annotated[
    str | None,
    _budget(
        "--retain",
        metavar="SHARE,...",
        show_default="25%",
        help="Shares of audio and video tokens to keep, each one setting: 35%,25%,15%,10%.",
    ),
]
Methods = Annotated[
    str | None,
    _budget(
        "--method",
        "--methods",
        metavar="NAME,...",
        show_default="seats",
        help="Selection methods, or 'all': seats,random,fastv.",
    ),
]
Stills = Annotated[
    str | None,
    _budget(
        "--skip-still",
        metavar="LEVELS,...",
        show_default="off",
        help=(
            "Do not encode places of the picture again that changed by no more than this many "
            "grey levels (0 to 255), each one setting: off,2."
        ),
    ),
]
RandomWeights = Annotated[
    str | None,
    _model(
        "--random-weights",
        metavar="ARCH",
        show_default=False,
        help=(
            "Measure a real architecture with random weights: "
            f"{', '.join(_SHAPES[:-1])} or {_SHAPES[-1]}."
        ),
    ),
]
Layers = Annotated[
    int | None,
    _model(
        "--layers",
        metavar="N",
        min=1,
        show_default="the real number",
        help="Decoder layers of --random-weights.",
    ),
]
Hidden = Annotated[
    int | None,
    _model(
        "--hidden",
        metavar="N",
        min=1,
        show_default="the real width",
        help="Decoder width of --random-weights; heads and MLP follow.",
    ),
]
Seed = Annotated[
    int,
    _output(
        "--seed",
        metavar="N",
        parser=parse_seed,
        help="Seed of methods that draw at random, and of random weights.",
    ),
]
Quiet = Annotated[
    bool,
    _output("--quiet", "-q", help="No notices or progress; warnings about lost input stay."),
]


def parse_shares(text: str | None) -> tuple[float, ...]:
    """The shares of `--retain 35%,0.25`, without repetitions; nothing when it was not given.

    Raises
    ------
    BadParameter
        A part is no share of the tokens.
    """
    if text is None:
        return ()
    return tuple(dict.fromkeys(parse_ratio(part) for part in str(text).split(",")))


def parse_stills(text: str | None) -> tuple[float | None, ...]:
    """The tolerances of `--skip-still off,2`, None for "off"; nothing when it was not given.

    Raises
    ------
    BadParameter
        A part is neither.
    """
    if text is None:
        return ()
    found: dict[float | None, None] = {}
    for part in str(text).split(","):
        word = part.strip().lower()
        try:
            level = None if word == OFF else float(word)
        except ValueError:
            level = -1.0
        if level is not None and not 0.0 <= level <= 255.0:
            raise typer.BadParameter(
                f"{part.strip()!r} is neither 'off' nor a number of grey levels, 0 to 255.",
                param_hint="--skip-still",
            )
        found[level] = None
    return tuple(found)


def build_settings(
    context: typer.Context,
    retain: str | None,
    methods: str | None,
    kv: Kv | None,
    allocation: Allocation | None,
    config_file: Path | None,
    seed: int,
    variants: Sequence[Path] = (),
    skip_still: str | None = None,
) -> list[RunSpec]:
    """Every method and variant with every share; without shares, the file's or the default budget.

    With tolerances of Stage 0, each of these with every one of them, after the unpruned model with
    every one of them.

    Raises
    ------
    UsageError
        If a method is unknown.
    ConfigError
        If the file cannot be read.
    """
    from seats_cli.config import SeatsConfig
    from seats_cli.results import RunSpec
    from seats_cli.selection.methods import with_default_options

    shares, stills = parse_shares(retain), parse_stills(skip_still)
    base = build_config(
        BudgetOptions(kv=kv, allocation=allocation, config_file=config_file), context
    )
    assert base is not None
    named = [
        (method, dataclasses.replace(base, method=method, seed=seed))
        for method in _methods(methods, base.method)
    ]
    for path in variants:
        found = SeatsConfig.load(path.expanduser())
        named.append((path.stem, dataclasses.replace(found, seed=seed)))
    settings = {}
    for level in stills:
        if level is not None:
            label = f"{FULL} still {level:g}"
            settings[label] = RunSpec(label, SeatsConfig(method=FULL, still_tolerance=level))
    for name, config in named:
        for share in shares or (None,):
            at = config if share is None else _at_share(config, share)
            label = _label(name, at, named=share is not None)
            for level in stills or (config.still_tolerance,):
                own = label if level is None else f"{label} still {level:g}"
                if own in settings:
                    raise UsageError(f"Two settings are called '{own}': rename the file.")
                spelled_out = with_default_options(dataclasses.replace(at, still_tolerance=level))
                settings[own] = RunSpec(own, spelled_out)
    return list(settings.values())


def _at_share(config: SeatsConfig, share: float) -> SeatsConfig:
    return dataclasses.replace(config, retain=share, retain_video=None, retain_audio=None)


def _methods(text: str | None, default: str) -> Sequence[str]:
    if text is None:
        return (default,)
    from seats_cli.selection.methods import METHODS

    known = [name for name in METHODS if name != "full"]  # the unpruned model always runs
    if text.strip().lower() == ALL:
        return known
    wanted = list(dict.fromkeys(part.strip().lower() for part in text.split(",")))
    for name in wanted:
        if name != "full" and name not in METHODS:
            raise UsageError(
                f"--method {name!r} is no selection method: choose from {', '.join(known)}, or all."
            )
    return [name for name in wanted if name != "full"]


def _label(name: str, config: SeatsConfig, *, named: bool) -> str:
    if config.retain is None or not (named or config.retain_video is None):
        return f"{name} as configured"
    return f"{name} {100 * config.retain:.4g}%"
