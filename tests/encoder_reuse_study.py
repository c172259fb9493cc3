"""What each rule of encoder reuse is worth: variants of it on the bundled model and questions.

    python -m tests.encoder_reuse_study --limit 300 > study.md

`seats eval --encoder-reuse` compares thresholds and shares; this compares what no option offers:
the start block, motion, merging, anchors. Every variant is asked the same questions about the same
reading of every clip, unpruned and at `--retain`.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import seats_cli.engine.prune as engine
from seats_cli.config import FULL, SeatsConfig
from seats_cli.evaluate.generated import synthetic_set
from seats_cli.evaluate.run_folder import ItemRecord
from seats_cli.evaluate.runner import evaluate
from seats_cli.models import load_model
from seats_cli.results import RunSpec
from seats_cli.selection.alike_units import Likeness

COSINES = (0.99, 0.98, 0.97, 0.95)
_USUAL = Likeness(0.98)
VARIANTS = {
    **{f"{cosine:g}": Likeness(cosine) for cosine in COSINES},
    **{f"{cosine:g} from block 1": Likeness(cosine, start=1) for cosine in (0.999, 0.995, 0.99)},
    **{f"{cosine:g} from block 3": Likeness(cosine, start=3) for cosine in (0.99, 0.98)},
    **{f"{cosine:g}, motion": Likeness(cosine, neighbours=True) for cosine in (0.99, 0.98)},
    **{f"{cosine:g}, merged": Likeness(cosine, merged=True) for cosine in (0.99, 0.98)},
    **{f"0.98, anchor {every}": replace(_USUAL, anchor=every) for every in (4, 8)},
    **{f"share {share:.0%}": Likeness(share=share) for share in (0.5, 0.35, 0.25)},
}


def settings(variants: Sequence[str], retain: float) -> list[RunSpec]:
    """Each variant under a cosine of its own, by which `_variant` knows it again."""
    specs = []
    for name in ("off", *variants):
        cosine = None if name == "off" else (1 + list(VARIANTS).index(name)) / 1000
        for method, share in ((FULL, None), ("seats", retain)):
            config = SeatsConfig(method=method, retain=share, encoder_reuse=cosine)
            specs.append(RunSpec(f"{method} {name}", config))
    return specs


def _variant(cosine: float, _share: float | None) -> Likeness:
    return list(VARIANTS.values())[round(1000 * cosine) - 1]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=300, help="questions")
    parser.add_argument("--retain", type=float, default=0.1)
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), help="names of variants")
    options = parser.parse_args()
    questions = synthetic_set().limited(options.limit)
    records: list[ItemRecord] = []
    engine.Likeness = _variant  # type: ignore[assignment, misc]
    evaluate(
        load_model("bundled", device="cpu"),
        questions,
        settings(options.only, options.retain),
        done=set(),
        store=records.append,
        seed=0,
    )
    rows = defaultdict(list)
    for record in records:
        if record.error is not None:
            raise SystemExit(record.error)
        rows[record.label].append(record)
    baselines = {
        method: {one.item_id: one.correct for one in rows[f"{method} off"]}
        for method in (FULL, "seats")
    }
    sys.stdout.write("| variant | moment: right | others: right | lost, won | encoder FLOPs |\n")
    sys.stdout.write("|---|---:|---:|---:|---:|\n")
    for label, found in rows.items():
        before = baselines[label.split()[0]]
        parts = [
            [one for one in found if (one.kind == "moment") is still] for still in (True, False)
        ]
        right = [f"{sum(one.correct for one in part) / max(len(part), 1):.1%}" for part in parts]
        lost = sum(before[one.item_id] and not one.correct for one in found)
        won = sum(one.correct and not before[one.item_id] for one in found)
        spent = sum(one.encoder_flops for one in found)
        whole = sum(one.encoder_flops for one in rows[f"{label.split()[0]} off"])
        sys.stdout.write(
            f"| {label} | {right[0]} | {right[1]} | {lost}, {won} | {spent / whole:.0%} |\n"
        )


if __name__ == "__main__":
    main()
