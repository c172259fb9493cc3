"""The registry of methods.

A method is one file in this package with a subclass of `Method` and one line in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from seats_cli.errors import ConfigError
from seats_cli.selection.base import Entry, LayerTokens, Method, Modality, PromptTokens
from seats_cli.selection.divprune import DivPrune
from seats_cli.selection.dycoke import DyCoke
from seats_cli.selection.fastv import FastV
from seats_cli.selection.full import Full
from seats_cli.selection.omnidrop import OmniDrop
from seats_cli.selection.omnizip import OmniZip
from seats_cli.selection.random_tokens import Random
from seats_cli.selection.seats import Seats
from seats_cli.selection.visionzip import VisionZip

if TYPE_CHECKING:
    from seats_cli.plan import PruningPlan

__all__ = ["METHODS", "Entry", "LayerTokens", "Method", "Modality", "PromptTokens", "method_for"]

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
