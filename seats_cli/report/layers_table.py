"""How long a model looks at the clip: the curve as tables, and the layers that follow from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.report.documents import SCHEMA_VERSION

if TYPE_CHECKING:
    from seats_cli.evaluate.layer_curve import LayerCurve, LayerPlan


HEADERS = ("after layer", "no video", "no audio", "neither")
_HIDDEN = ("video", "audio", "both")


def layers_report(curve: LayerCurve, plan: LayerPlan) -> RenderableType:
    """The curve, and the recommendation below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in HEADERS:
        table.add_column(header, justify="right")
    for row in _rows(curve):
        table.add_row(*row)
    heading = Text(
        f"Accuracy with something hidden from the rest of {curve.num_layers} layers, in per cent "
        f"({curve.questions:,} questions)",
        style="bold",
    )
    return Group(heading, Text(), table, Text(), Text(recommendation(curve, plan)))


def layers_markdown(curve: LayerCurve, plan: LayerPlan) -> str:
    """The same in Markdown."""
    lines = ["| " + " | ".join(HEADERS) + " |", "| " + " | ".join("---:" for _ in HEADERS) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in _rows(curve)]
    return "\n".join([*lines, "", recommendation(curve, plan)])


def layers_csv(curve: LayerCurve) -> str:
    """One line for each layer; accuracies are ratios."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["after_layer", "no_video", "no_audio", "neither"])
    for layer in range(1, curve.num_layers):
        writer.writerow([layer, *(curve.after_layer[name][layer] for name in _HIDDEN)])
    writer.writerow([curve.num_layers, *([curve.full] * len(_HIDDEN))])
    return text.getvalue().rstrip("\n")


def layers_document(curve: LayerCurve, plan: LayerPlan) -> dict[str, Any]:
    """What `seats eval --find-layers --json` prints; accuracies are ratios."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "layers",
        "questions": curve.questions,
        "num_layers": curve.num_layers,
        "accuracy_full": curve.full,
        "accuracy_hidden_after_layer": {
            name: {str(layer): value for layer, value in values.items()}
            for name, values in curve.after_layer.items()
        },
        "last_layer_needed": {name: curve.last_needed(name) for name in _HIDDEN},
        "recommended": plan.as_dict(),
    }


def recommendation(curve: LayerCurve, plan: LayerPlan) -> str:
    """What the curve says, in sentences."""
    needed = {name: curve.last_needed(name) for name in _HIDDEN}
    drops = ", ".join(map(str, plan.drop_layers)) or "none"
    late = "no late block" if plan.late_layer is None else f"late block from {plan.late_layer}"
    return (
        f"The answers need the video up to layer {needed['video']}, the sound up to layer "
        f"{needed['audio']}, one of them up to layer {needed['both']} (what is hidden later costs "
        "at most one point). "
        f"Recommended: drops after layers {drops}, {late}, encoder scale {plan.encoder_scale:g}."
    )


def _rows(curve: LayerCurve) -> Iterator[tuple[str, ...]]:
    for layer in range(1, curve.num_layers):
        values = (curve.after_layer[name][layer] for name in _HIDDEN)
        yield (str(layer), *(f"{100 * value:.1f}" for value in values))
    yield ("nothing", *(f"{100 * curve.full:.1f}" for _ in _HIDDEN))
