"""Profiles and comparisons as CSV; the columns are named as in the JSON documents."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seats_cli.report.measured_documents import compared_row, spread_values

if TYPE_CHECKING:
    from seats_cli.measurements import Comparison, Profile


def profile_csv(profile: Profile) -> str:
    """One line for each run and stage, with a header; a run that failed has one line."""
    rows: list[dict[str, Any]] = []
    for run in profile.runs:
        times = {**profile.reading, **run.times}
        for stage, value in times.items():
            rows.append(
                {
                    "label": run.label,
                    "method": run.method,
                    "retain": run.retain,
                    "stage": stage,
                    **spread_values(value),
                    "speed_up": run.speed_up(profile.full, stage) if stage in run.times else None,
                    "average_retention": run.average_retention,
                    "prefill_flops": run.cost.prefill_flops,
                    "selection_flops": run.cost.selection_flops,
                    "encoder_flops": run.cost.encoder_flops,
                    "kv_bytes": run.cost.kv_bytes,
                    "peak_host_bytes": run.cost.peak_host_bytes,
                    "peak_gpu_bytes": run.cost.peak_gpu_bytes,
                    "error": None,
                }
            )
    empty = dict.fromkeys(rows[0])
    rows += [{**empty, **dataclasses.asdict(run)} for run in profile.failed]
    return csv_text(rows)


def comparison_csv(comparison: Comparison) -> str:
    """One line for each run, with a header."""
    return csv_text([compared_row(run) for run in comparison.runs])


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as CSV with a header and no final newline."""
    target = io.StringIO()
    writer = csv.DictWriter(target, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue().rstrip("\n")
