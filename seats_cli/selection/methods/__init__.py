"""The registry of selection methods."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from seats_cli.errors import ConfigError
from seats_cli.selection.method import Method
from seats_cli.selection.methods.baselines import Full, Random
from seats_cli.selection.methods.divprune import DivPrune
from seats_cli.selection.methods.dycoke import DyCoke
from seats_cli.selection.methods.fastv import FastV
from seats_cli.selection.methods.omnidrop import OmniDrop
from seats_cli.selection.methods.omnizip import OmniZip
from seats_cli.selection.methods.seats import Seats
from seats_cli.selection.methods.visionzip import VisionZip

if TYPE_CHECKING:
    from seats_cli.schedule import PruningPlan


METHODS: dict[str, Callable[[PruningPlan], Method]] = {
    "full": Full,
    "random": Random,
    "fastv": FastV,
    "fastv-om": partial(FastV, omni=True),
    "visionzip": VisionZip,
    "visionzip-om": partial(VisionZip, omni=True),
    "divprune": DivPrune,
    "divprune-om": partial(DivPrune, omni=True),
    "dycoke": DyCoke,
    "omnizip": OmniZip,
    "omnidrop": OmniDrop,
    "seats": Seats,
}


def method_for(plan: PruningPlan) -> Method:
    """The method that `plan` names.

    Raises
    ------
    ConfigError
        If there is no such method, or it cannot act in a model of that depth.
    """
    if plan.method not in METHODS:
        raise ConfigError(f"Unknown method '{plan.method}': choose from {', '.join(METHODS)}.")
    return METHODS[plan.method](plan)
