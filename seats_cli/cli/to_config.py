"""From options to configurations: one for a question, several to measure and compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seats_cli.cli.console import Talk
from seats_cli.cli.option_groups import FLAGS, was_typed
from seats_cli.cli.option_parsers import OFF, parse_cosine, parse_ratio
from seats_cli.cli.options import BudgetFlags, SweepFlags
from seats_cli.config import FULL, RETENTION, SETTINGS, SeatsConfig
from seats_cli.errors import ModelError, UsageError
from seats_cli.report.phrases import skips_words

if TYPE_CHECKING:
    from seats_cli.results import RunSpec

# The paper's second-smallest cut: a clear gain on long clips at an accuracy close to full.
DEFAULT_PRESET = "25%"
ALL = "all"
# What the vision encoder skips is beside the budget, and possible without one.
SKIPS = ("still_tolerance", "encoder_reuse", "encoder_keep")


def build_config(budget: BudgetFlags | SweepFlags, context: typer.Context) -> SeatsConfig | None:
    """The pruning configuration, or None for an unpruned run.

    Values that were typed win over `--config`, which wins over values from settings. Of a sweep,
    only what all its runs share is looked at.

    Raises
    ------
    UsageError
        Options that contradict each other.
    ConfigError
        A file that cannot be read, or a value out of range.
    """
    shared = ("kv", "allocation") if isinstance(budget, SweepFlags) else _FIELDS
    given: dict[str, Any] = {
        name: getattr(budget, name) for name in shared if getattr(budget, name) is not None
    }
    typed = {name for name in given if was_typed(context, name)}
    # A typed budget beats `full` from the settings.
    asked = budget.full if isinstance(budget, BudgetFlags) else False
    if asked and not was_typed(context, "full"):
        asked = not typed - {*SKIPS} and not was_typed(context, "config_file")
    if isinstance(budget, BudgetFlags) and asked:
        clash = sorted(FLAGS[name] for name in typed if name not in SKIPS)
        clash += ["--config"] if budget.config_file is not None else []
        if clash:
            raise UsageError(f"--full prunes nothing, so it cannot be combined with {clash[0]}.")
        return unpruned({name: given.get(name) for name in SKIPS})
    if "method" in given:
        given["method"] = _checked(given["method"].strip().lower())
    if budget.config_file is not None:
        config = SeatsConfig.load(budget.config_file.expanduser())
        given = {k: v for k, v in given.items() if k in typed or k in SKIPS}
    else:
        config = SeatsConfig.preset(DEFAULT_PRESET)
        if "retain" in typed:  # a typed target for all beats a split from the settings
            split = {"retain_video", "retain_audio"} - typed
            given = {k: v for k, v in given.items() if k not in split}
        if given.get("method") == FULL:  # no share but a typed one is asked for
            config = SeatsConfig()
            given = {k: v for k, v in given.items() if k not in RETENTION or k in typed}
    if given.get("encoder_reuse") == 1.0:
        given["encoder_reuse"] = None
    if "retain" in given:
        # A target for both together replaces the base's split, unless the split is given too.
        given = {"retain_video": None, "retain_audio": None, **given}
    return replace(config, **given)


_FIELDS = (
    *("retain", "retain_video", "retain_audio", "method", *SKIPS),
    *("kv", "allocation"),
)


def unpruned(skips: Mapping[str, Any]) -> SeatsConfig | None:
    """The unpruned model with what its vision encoder skips; None if that is nothing."""
    if skips.get("encoder_reuse") == 1.0:
        skips = {**skips, "encoder_reuse": None}
    found = SeatsConfig(method=FULL, **skips)
    return None if found.encoder_skips is None else found


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


def parse_reuses(cosines: str | None, shares: str | None) -> list[dict[str, float | None]]:
    """The settings of `--encoder-reuse off,0.99` and `--encoder-keep 50%,35%`, "off" once.

    Raises
    ------
    BadParameter
        A part is neither "off" nor a cosine or a share.
    """
    found: dict[tuple[float | None, float | None], None] = {}
    for text, name in ((cosines, "--encoder-reuse"), (shares, "--encoder-keep")):
        for part in () if text is None else str(text).split(","):
            reads = name == "--encoder-reuse"
            try:
                if part.strip().lower() == OFF:
                    found[None, None] = None
                elif reads:
                    found[parse_cosine(part), None] = None
                else:
                    found[None, parse_ratio(part)] = None
            except typer.BadParameter as error:
                raise typer.BadParameter(error.message, param_hint=name) from None
    return [{"encoder_reuse": cosine, "encoder_keep": share} for cosine, share in found]


def build_specs(
    context: typer.Context,
    sweep: SweepFlags,
    seed: int,
    variants: Sequence[Path] = (),
    model: str | None = None,
    revision: str | None = None,
) -> list[RunSpec]:
    """Every method and variant with every share; without shares, the file's or the default budget.

    With settings of the encoder (Stage 0, encoder reuse), each of these with every one of them,
    after the unpruned model with every one of them. "all" holds trained methods where `model` has
    their weights.

    Raises
    ------
    UsageError
        If a method is unknown.
    ConfigError
        If a file cannot be read.
    """
    from seats_cli.results import RunSpec
    from seats_cli.selection.methods import with_default_options

    shares, stills = parse_shares(sweep.retain), parse_stills(sweep.still_tolerance)
    base = build_config(sweep, context)
    assert base is not None
    methods = (base.method,) if sweep.method is None else _methods(sweep.method, model, revision)
    named = _by_method(replace(base, seed=seed), methods)
    for path in variants:
        variant = replace(SeatsConfig.load(path.expanduser()), seed=seed)
        named += [(path.stem, config) for _, config in _by_method(variant, (variant.method,))]
    reuses = parse_reuses(sweep.encoder_reuse, sweep.encoder_keep)
    skips: list[dict[str, Any]] = [
        {**({} if level is _UNASKED else {"still_tolerance": level}), **reuse}
        for level in (stills or (_UNASKED,))
        for reuse in (reuses or ({},))
    ]
    specs = {}
    for asked in skips:
        alone = unpruned(asked)
        if alone is not None:
            label = FULL + skips_words(alone)
            specs[label] = RunSpec(label, alone)
    for name, config in named:
        for share in shares or (None,):
            at = config if share is None else _at_share(config, share)
            label = _label(name, at, named=share is not None)
            for asked in skips:
                spelled_out = with_default_options(replace(at, **asked))
                own = label + skips_words(spelled_out)
                if own in specs:
                    raise UsageError(f"Two settings are called '{own}': rename the file.")
                specs[own] = RunSpec(own, spelled_out)
    return list(specs.values())


def _by_method(base: SeatsConfig, methods: Sequence[str]) -> list[tuple[str, SeatsConfig]]:
    """A configuration for each method, with what it follows of `base` and what none of them does.

    Of the latter, a warning says so; runs with it repeat it in their results.
    """
    configs = [replace(base, method=name) for name in methods]
    everything = {*SETTINGS, *base.options}
    idle = everything.intersection(*(config.idle_options for config in configs))
    found = [config.without_options(set(config.idle_options) - idle) for config in configs]
    for warning in found[0].idle_warnings() if found else ():
        Talk().warning(warning)
    return [(config.method, config) for config in found]


_UNASKED: Any = object()


def _at_share(config: SeatsConfig, share: float) -> SeatsConfig:
    return replace(config, retain=share, retain_video=None, retain_audio=None)


def _methods(text: str, model: str | None, revision: str | None) -> list[str]:
    """The methods of `--method seats,random` or "all"; the unpruned model runs in any case."""
    known = _known_methods()
    if text.strip().lower() == ALL:
        return _runnable(known, model, revision)
    wanted = dict.fromkeys(part.strip().lower() for part in text.split(","))
    return [_checked(name, f"{', '.join(known)}, or all") for name in wanted if name != FULL]


def _runnable(known: list[str], model: str | None, revision: str | None) -> list[str]:
    """Of all methods those that `model` has the weights for; a line on stderr says what is not."""
    from seats_cli.families.checkpoint_folder import find_folder
    from seats_cli.families.registry import BUNDLED
    from seats_cli.models.method_weights import stored_for
    from seats_cli.selection.methods import weightless_methods

    trained = [name for name in known if name not in weightless_methods()]
    try:
        folder = find_folder(model or BUNDLED, revision).path
    except ModelError:  # a random shape, or what loading it will complain about
        missing = trained
    else:
        missing = [name for name in trained if not stored_for(folder, name)]
    if missing:
        typer.echo(
            f"'all' leaves out {', '.join(missing)}, whose weights this checkpoint does not have.",
            err=True,
        )
    return [name for name in known if name not in missing]


def _checked(name: str, choices: str = "") -> str:
    from seats_cli.selection.methods import METHODS

    if name not in METHODS:
        choices = choices or ", ".join(_known_methods())
        raise UsageError(f"--method {name!r} is not a selection method: choose from {choices}.")
    return name


def _known_methods() -> list[str]:
    from seats_cli.selection.methods import METHODS

    return [name for name in METHODS if name != FULL]


def _label(name: str, config: SeatsConfig, *, named: bool) -> str:
    if config.retain is None or not (named or config.retain_video is None):
        return f"{name} as configured"
    return f"{name} {100 * config.retain:.4g}%"
