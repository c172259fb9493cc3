"""Up to which layer a model needs the clip: the curve, and the layers that follow from it."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from seats_cli.report.columns import Column, csv_text, markdown, table
from seats_cli.report.documents import SCHEMA_VERSION

if TYPE_CHECKING:
    from seats_cli.evaluate.layer_curve import LayerCurve, LayerPlan


# The name of the CSV column for each thing that is hidden.
_HIDDEN = {"video": "no_video", "audio": "no_audio", "both": "neither"}


def layers_report(curve: LayerCurve, plan: LayerPlan) -> RenderableType:
    """The curve, and the recommendation below it."""
    heading = Text(
        f"Accuracy with a modality hidden after one of {curve.num_layers} layers, in per cent "
        f"({curve.questions:,} questions)",
        style="bold",
    )
    found = table(_columns(curve), _rows(curve))
    return Group(heading, Text(), found, Text(), Text(recommendation(curve, plan)))


def layers_markdown(curve: LayerCurve, plan: LayerPlan) -> str:
    """The curve and the recommendation in Markdown."""
    return f"{markdown(_columns(curve), _rows(curve))}\n\n{recommendation(curve, plan)}"


def layers_csv(curve: LayerCurve) -> str:
    """One line for each layer; accuracies are ratios."""
    return csv_text(_rows(curve))


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
    """What follows from the curve, in sentences."""
    needed = {name: curve.last_needed(name) for name in _HIDDEN}
    drops = ", ".join(map(str, plan.drop_layers)) or "none"
    late = "no late block" if plan.late_layer is None else f"late block from {plan.late_layer}"
    return (
        f"The answers need the video up to layer {needed['video']}, the sound up to layer "
        f"{needed['audio']}, one of them up to layer {needed['both']} (hiding it later costs "
        "at most one point). "
        f"Recommended: drops after layers {drops}, {late}, encoder scale {plan.encoder_scale:g}."
    )


def _columns(curve: LayerCurve) -> list[Column]:
    last, layer = curve.num_layers, itemgetter("after_layer")
    # After the last layer there is nothing left to hide anything from.
    found = [Column("after layer", layer, lambda at: str(at) if at < last else "nothing")]
    for key in _HIDDEN.values():
        header = key.replace("_", " ")
        found.append(Column(header, itemgetter(key), lambda share: f"{100 * share:.1f}"))
    return found


def _rows(curve: LayerCurve) -> list[dict[str, Any]]:
    """Accuracies after each layer; after the last one, with nothing hidden."""
    return [
        {
            "after_layer": layer,
            **{
                key: curve.after_layer[name].get(layer, curve.full) for name, key in _HIDDEN.items()
            },
        }
        for layer in range(1, curve.num_layers + 1)
    ]
