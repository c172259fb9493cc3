"""What `seats-plus` and each of its switches is worth on the bundled model and questions.

    python -m tests.variants_study --limit 300 --retain 10%,5% > study.md

Unpruned, random, published SEATS and every variant are asked the same questions about the same
reading of every clip. Differences are paired, to published SEATS at the same budget, with 95 %
bootstrap intervals over clips; FLOPs are those of prefill and selection together.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import Any

from seats_cli.cli.to_config import parse_shares
from seats_cli.config import SeatsConfig
from seats_cli.evaluate.benchmarks import question_set
from seats_cli.evaluate.paired import compare_paired
from seats_cli.evaluate.run_folder import ItemRecord
from seats_cli.evaluate.runner import evaluate, refusals
from seats_cli.models import load_model
from seats_cli.results import RunSpec

SEATS, RANDOM, FULL = "seats", "random", "unpruned"
PUBLISHED = {"question_weight": 0.0}  # with it alone `seats-plus` is `seats`
# Fields of `SeatsConfig` by the variant's name, beside `PUBLISHED`; options stand beside settings.
# What ships as `seats-plus` is "asked-mostly".
VARIANTS: dict[str, dict[str, Any]] = {
    "adaptive": {"allocation": "adaptive"},
    "floor": {"allocation": "adaptive-floor"},
    "split": {"allocation": "adaptive", "modality_split": "relevance"},
    "question": {"relevance_query": "question"},
    "next-layer": {"relevance_layer": "next"},
    "max-head": {"relevance_heads": "max"},
    "av-heads": {"relevance_heads": "audiovisual"},
    "merge-entry": {"merging": "entry"},
    "merge-layers": {"merging": "layers"},
    "merge-both": {"merging": "both"},
    "asked-lightly": {"question_weight": 0.25},
    "asked-entry": {"question_weight": 0.5},
    "asked-mostly": {"question_weight": 0.75},
    "asked-most": {"question_weight": 0.9},
    "damped": {"importance_power": 0.5},
    "diverse": {"importance_power": 0.0},
    "diverse-asked": {"importance_power": 0.0, "question_weight": 0.5},
    "diverse-asked-mostly": {"importance_power": 0.0, "question_weight": 0.75},
    "diverse-asked-most": {"importance_power": 0.0, "question_weight": 0.9},
    "asked-mostly-merge": {"question_weight": 0.75, "merging": "entry"},
    "asked-merge": {"question_weight": 0.5, "merging": "entry"},
    "novelty": {"entry_windows": "novelty"},
    "novelty-merge": {"entry_windows": "novelty", "merging": "entry"},
    "grid-floor": {"grid_floor": True},
    "all-inside": {
        "allocation": "adaptive-floor",
        "relevance_query": "question",
        "relevance_layer": "next",
        "relevance_heads": "audiovisual",
    },
}


def settings(variants: Sequence[str], retain: Sequence[float]) -> list[RunSpec]:
    """The unpruned model, and at every budget random choice, published SEATS and the variants."""
    specs = [RunSpec(FULL, None)]
    for share in retain:
        for name in (RANDOM, SEATS, *variants):
            values: dict[str, Any] = {"method": name}
            if name in VARIANTS:
                values = {"method": "seats-plus", **PUBLISHED, **VARIANTS[name]}
            config = SeatsConfig.from_dict({"retain": share, **values})
            specs.append(RunSpec(label(name, share), config))
    return specs


def label(name: str, share: float) -> str:
    """How a table calls a setting."""
    return f"{name} {100 * share:g}%"


def table(records: Sequence[ItemRecord], variants: Sequence[str], retain: Sequence[float]) -> str:
    """Markdown: one row for each setting, and its difference to published SEATS."""
    by_label: Mapping[str, list[ItemRecord]] = defaultdict(list)
    for record in records:
        by_label[record.label].append(record)
    lines = [
        "| | right | to seats (95 %) | won, lost | p | tokens | FLOPs to seats |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    full = by_label[FULL]
    lines.append(f"| {FULL} | {_right(full)} | | | | 100 % | |")
    for share in retain:
        reference = label(SEATS, share)
        for name in (RANDOM, SEATS, *variants):
            own = by_label[label(name, share)]
            if not own:
                lines.append(f"| {label(name, share)} | - | out of reach | | | | |")
                continue
            cells = ["", "", ""]
            if name != SEATS:
                found = compare_paired(records, label(name, share), reference)
                low, high = (100 * end for end in found.difference.interval or (nan, nan))
                cells = [
                    f"{100 * found.difference.value:+.1f} ({low:+.1f} to {high:+.1f})",
                    f"{found.only_first}, {found.only_second}",
                    f"{found.p:.2g}",
                ]
            tokens = sum(one.average_retention or 0.0 for one in own) / len(own)
            ratio = _flops(own) / _flops(by_label[reference])
            lines.append(
                f"| {label(name, share)} | {_right(own)} | {' | '.join(cells)} | "
                f"{100 * tokens:.1f} % | {ratio:.3f} |"
            )
    return "\n".join(lines) + "\n"


def _right(records: Sequence[ItemRecord]) -> str:
    return f"{100 * sum(one.correct for one in records) / len(records):.1f}"


def _flops(records: Sequence[ItemRecord]) -> float:
    return sum((one.prefill_flops or 0) + (one.selection_flops or 0) for one in records)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=300, help="questions")
    parser.add_argument("--retain", default="10%,5%", help="budgets, for example 10%%,5%%")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help="names of variants")
    parser.add_argument("--kinds", nargs="*", default=[], help="families or kinds of questions")
    parser.add_argument("--set-seed", type=int, help="of the questions")
    parser.add_argument(
        "--answers", type=Path, help="file of the records: what it holds is not asked again"
    )
    options = parser.parse_args()
    unknown = [name for name in options.only if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variants {', '.join(unknown)}: choose from {', '.join(VARIANTS)}")
    retain = parse_shares(options.retain)
    questions = question_set(
        "synthetic",
        root=None,
        limit=options.limit,
        set_seed=options.set_seed,
        only=tuple(options.kinds),
    )
    records: list[ItemRecord] = []
    if options.answers is not None and options.answers.exists():
        lines = options.answers.read_text(encoding="utf-8").split("\n")[:-1]  # the rest is torn
        options.answers.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        records = [ItemRecord.from_dict(json.loads(line)) for line in lines]

    def store(record: ItemRecord) -> None:
        records.append(record)
        if options.answers is not None and record.error is None:  # a failure is asked again
            with options.answers.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record)) + "\n")

    evaluate(
        load_model("bundled", device="cpu"),
        questions,
        settings(options.only, retain),
        done=tuple(records),
        store=store,
        seed=0,
    )
    failed = [record for record in records if record.error is not None and not record.refused]
    if failed:
        raise SystemExit(f"{failed[0].item_id}, {failed[0].label}: {failed[0].error}")
    refused = refusals(questions, records)
    for name, record in refused.items():
        sys.stderr.write(f"{name}: {record.error}\n")
    asked = {item.id for item in questions.items}
    records = [one for one in records if one.item_id in asked and one.label not in refused]
    sys.stdout.write(table(records, options.only, retain))


if __name__ == "__main__":
    main()
