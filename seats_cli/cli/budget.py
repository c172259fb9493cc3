"""From budget options to a pruning configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seats_cli.cli.settings import from_command_line
from seats_cli.cli.values import Allocation, Kv
from seats_cli.errors import UsageError
from seats_cli.plan import FULL

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig

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
