"""The selection methods of the package; importing them makes them known by name.

A method is one file, here or anywhere else, that ends up in `METHODS` by
`seats_cli.selection.method.register_method`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from seats_cli.config import SEATS, SETTINGS
from seats_cli.errors import ConfigError
from seats_cli.selection.method import METHODS, class_of, options_of, register_method

# isort: off
# Reports list the methods in the order of these lines.
from seats_cli.selection.methods import baselines, fastv, visionzip  # noqa: F401
from seats_cli.selection.methods import divprune, dycoke, omnizip  # noqa: F401
from seats_cli.selection.methods import omnidrop, omnipack, omnisift  # noqa: F401
from seats_cli.selection.methods import echoingpixels  # noqa: F401
from seats_cli.selection.methods import seats, seats_plus  # noqa: F401
# isort: on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from seats_cli.config import SeatsConfig
    from seats_cli.schedule import PruningPlan
    from seats_cli.selection.method import Method

__all__ = [
    "METHODS",
    "acting_config",
    "acting_settings",
    "method_for",
    "register_method",
    "weightless_methods",
    "with_default_options",
]


def method_for(plan: PruningPlan) -> Method:
    """The method that `plan` names.

    Raises
    ------
    ConfigError
        If there is no such method, or it cannot act in a model of that depth.
    """
    return _find(plan.config.method)(plan)


def weightless_methods() -> list[str]:
    """Names of the methods that any model can run: without trained weights of their own."""
    return [name for name in METHODS if not class_of(METHODS[name]).weights_prefix]


def with_default_options(config: SeatsConfig) -> SeatsConfig:
    """The configuration with every option of its method, as reports and saved runs show it.

    Raises
    ------
    ConfigError
        If there is no such method.
    """
    own = options_of(class_of(_find(config.method)))
    options = {**{option.name: option.default for option in own}, **config.options}
    same = options == config.options
    return config if same else dataclasses.replace(config, options=options)


def acting_config(config: SeatsConfig) -> SeatsConfig:
    """`with_default_options` without those of other methods, which have no effect."""
    return with_default_options(config.without_options(config.idle_options))


def acting_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration in `SeatsConfig.to_dict`'s form without options of methods that do not run.

    Two runs with equal values here do the same, whatever else their configurations name.
    """
    make = METHODS.get(str(values.get("method", SEATS)))
    own = {option.name for option in options_of(class_of(make))} if make else set(values)
    return {name: value for name, value in values.items() if name in SETTINGS or name in own}


def _find(name: str) -> Callable[[PruningPlan], Method]:
    if name not in METHODS:
        raise ConfigError(f"Unknown method '{name}': choose from {', '.join(METHODS)}.")
    return METHODS[name]
