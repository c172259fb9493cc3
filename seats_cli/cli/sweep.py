"""Options that `seats profile` and `seats compare` share, and the settings they lead to."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli.budget import BudgetOptions, build_config
from seats_cli.cli.values import Allocation, Kv, parse_positive, parse_ratio, parse_seed
from seats_cli.errors import UsageError
from seats_cli.plan import FULL

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from seats_cli.config import SeatsConfig
    from seats_cli.measurements import Setting

_input = partial(typer.Option, rich_help_panel="Input")
_budget = partial(typer.Option, rich_help_panel="Budget")
_model = partial(typer.Option, rich_help_panel="Model")
_output = partial(typer.Option, rich_help_panel="Output")

ALL = "all"
OFF = "off"

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
            "Measure a real architecture with random weights: qwen2.5-omni-3b, "
            "qwen2.5-omni-7b, qwen3-omni-30b-a3b or cpu-0.5b."
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
) -> list[Setting]:
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
    from seats_cli.measurements import Setting

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
            settings[label] = Setting(label, SeatsConfig(method=FULL, still_tolerance=level))
    for name, config in named:
        for share in shares or (None,):
            at = config if share is None else _at_share(config, share)
            label = _label(name, at, named=share is not None)
            for level in stills or (config.still_tolerance,):
                own = label if level is None else f"{label} still {level:g}"
                if own in settings:
                    raise UsageError(f"Two settings are called '{own}': rename the file.")
                settings[own] = Setting(own, dataclasses.replace(at, still_tolerance=level))
    return list(settings.values())


def _at_share(config: SeatsConfig, share: float) -> SeatsConfig:
    return dataclasses.replace(config, retain=share, retain_video=None, retain_audio=None)


def _methods(text: str | None, default: str) -> Sequence[str]:
    if text is None:
        return (default,)
    from seats_cli.selection.method import METHODS

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
