"""Reads the golden cases of single functions (see tests/golden/README.md)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

UNITS = Path(__file__).parent / "golden" / "units"


class Case(NamedTuple):
    """One golden case: its facts and its tensors."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def name(self) -> str:
        return str(self.facts["case"])


@cache
def family_facts(family: str) -> dict[str, Any]:
    """Everything in the family's JSON file."""
    facts: dict[str, Any] = json.loads((UNITS / f"{family}.json").read_text())
    return facts


@cache
def family_cases(family: str) -> list[Case]:
    """All cases of a family, those that the authors' code refuses included."""
    path = UNITS / f"{family}.safetensors"
    tensors = load_file(path) if path.exists() else {}
    return [
        Case(facts, {name: tensors[f"{facts['case']}/{name}"] for name in facts["tensors"]})
        for facts in family_facts(family)["cases"]
    ]


def cases_with_result(family: str) -> list[Case]:
    """The cases for which the authors' code gives a result."""
    return [case for case in family_cases(family) if "error" not in case.facts]
