"""An evaluation as a JSON document and as CSV.

Accuracies, retention and their intervals are shares 0..1; units stand in the key names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seats_cli.report.columns import csv_text
from seats_cli.report.documents import CONVENTIONS, document

if TYPE_CHECKING:
    from seats_cli.evaluate.statistics import Estimate
    from seats_cli.evaluate.summary import Group, SettingSummary, Summary


INTERVALS = "95 % percentile bootstrap over clips; exact binomial where all answers are the same"


def eval_document(summary: Summary, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `seats eval --json` prints.

    Parameters
    ----------
    summary : Summary
    details : mapping, optional
        More keys to put in front of the results: model, device, configuration, command.
    """
    return document(
        {
            "kind": "evaluation",
            "question_set": summary.name,
            "items": summary.items,
            "clips": summary.clips,
            **(details or {}),
            "flops_convention": CONVENTIONS["flops_convention"],
            "intervals": INTERVALS,
            "bootstrap_seed": summary.seed,
            "bootstrap_resamples": summary.resamples,
            "errors": summary.errors,
            "settings": [_setting(setting) for setting in summary.settings],
        }
    )


def _setting(setting: SettingSummary) -> dict[str, Any]:
    return {
        "label": setting.label,
        "method": setting.method,
        "retain": setting.retain,
        **_group(setting.overall),
        **dataclasses.asdict(setting.cost),
        "families": {group.name: _group(group) for group in setting.families},
        "clip_kinds": {group.name: _group(group) for group in setting.kinds},
        "error_reasons": dict(setting.error_reasons),
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "asked": group.asked,
        "answered": group.answered,
        "errors": group.errors,
        "right": group.right,
        "unparsed": group.unparsed,
        **_estimate("accuracy", group.accuracy),
        **_estimate("difference_to_full", group.difference),
        **_estimate("accuracy_kept", group.kept),
        "gained": group.gained,
        "lost": group.lost,
        "mcnemar_p": group.p,
    }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    values = (None,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def eval_csv(summary: Summary) -> str:
    """One line for each setting and group (all, each family, each kind of clip), with a header.

    Costs are given with the line of all questions.
    """
    rows: list[dict[str, Any]] = []
    for setting in summary.settings:
        costs = dataclasses.asdict(setting.cost)
        groups = [
            ("all", setting.overall),
            *(("family", group) for group in setting.families),
            *(("clip_kind", group) for group in setting.kinds),
        ]
        for by, group in groups:
            rows.append(
                {
                    "label": setting.label,
                    "method": setting.method,
                    "retain": setting.retain,
                    "group_by": by,
                    "group": group.name,
                    **_group(group),
                    **(costs if by == "all" else dict.fromkeys(costs)),
                }
            )
    return csv_text(rows)
