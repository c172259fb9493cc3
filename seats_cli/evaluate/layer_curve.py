"""Down to which layer a model needs the clip, and the drop and late layers that follow.

The video, the sound, or both are hidden from every layer after layer l, for each l, and the
answers say what is lost (the layer analysis of arXiv 2605.20035).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seats_cli.config import FULL
from seats_cli.errors import UsageError

if TYPE_CHECKING:
    from seats_cli.evaluate.run_folder import ItemRecord
    from seats_cli.results import RunSpec


TOLERATED_LOSS = 0.01  # of the accuracy
# The published layers of Qwen2.5-Omni (16, 18, 20 and 24 of 28) as fractions of the 23 layers that
# see the clip, and its 1.4 as a multiple of an even spread over these.
DROP_DEPTHS = (16 / 23, 18 / 23, 20 / 23)
ENTERING = 1.4 * 23 / 28
HIDDEN = {"video": (True, False), "audio": (False, True), "both": (True, True)}


@dataclass(frozen=True)
class LayerCurve:
    """Accuracy with something hidden behind each layer."""

    full: float  # nothing hidden
    # For "video", "audio" and "both": accuracy by the last layer (from 1) that sees it.
    after_layer: dict[str, dict[int, float]]
    questions: int  # answers behind each value
    num_layers: int

    def last_needed(self, hidden: str, tolerated: float = TOLERATED_LOSS) -> int:
        """The last layer (from 1) that must see it: hiding it later costs no more than tolerated.

        Parameters
        ----------
        hidden : {"video", "audio", "both"}
        tolerated : float
            Loss of accuracy, 0 to 1.
        """
        needed = self.num_layers
        for layer in sorted(self.after_layer[hidden], reverse=True):
            if self.full - self.after_layer[hidden][layer] > tolerated:
                break
            needed = layer
        return needed


def blind_specs(num_layers: int) -> list[RunSpec]:
    """A setting for each modality and layer."""
    from seats_cli.config import SeatsConfig
    from seats_cli.results import RunSpec
    from seats_cli.selection.methods.ablation import ModalityAblation

    everything = SeatsConfig(method=FULL)
    return [
        RunSpec(_label(hidden, layer), everything, ModalityAblation(layer, video, audio))
        for layer in range(1, num_layers)
        for hidden, (video, audio) in HIDDEN.items()
    ]


def layer_curve(records: Sequence[ItemRecord], num_layers: int) -> LayerCurve:
    """The curves from the records of `blind_specs` and of the unpruned model.

    Only items that every setting has answered count, so that all values are about the same.

    Raises
    ------
    UsageError
        No item was answered by all.
    """
    labels = [FULL, *(_label(name, layer) for name in HIDDEN for layer in range(1, num_layers))]
    right: dict[str, dict[str, bool]] = {label: {} for label in labels}
    for record in records:
        if record.error is None and record.label in right:
            right[record.label][record.item_id] = record.correct
    common = set.intersection(*(set(answers) for answers in right.values()))
    if not common:
        raise UsageError("No question was answered with every layer: there is no curve.")

    def accuracy(label: str) -> float:
        return sum(right[label][item] for item in common) / len(common)

    return LayerCurve(
        accuracy(FULL),
        {
            name: {layer: accuracy(_label(name, layer)) for layer in range(1, num_layers)}
            for name in HIDDEN
        },
        len(common),
        num_layers,
    )


def _label(hidden: str, layer: int) -> str:
    return f"no {hidden} after layer {layer}"


@dataclass(frozen=True)
class LayerPlan:
    """Layers for a model, from its curve."""

    drop_layers: tuple[int, ...]  # after which Stage II drops tokens
    # First layer without audio-visual tokens; None if every layer needs them.
    late_layer: int | None
    encoder_scale: float  # tokens that enter the LLM, as a multiple of the average retention

    def as_dict(self) -> dict[str, Any]:
        """As in a configuration file."""
        late = "none" if self.late_layer is None else self.late_layer
        return {
            "drop_layers": list(self.drop_layers),
            "late_layer": late,
            "encoder_scale": self.encoder_scale,
        }


def recommend(curve: LayerCurve, tolerated: float = TOLERATED_LOSS) -> LayerPlan:
    """The published proportions, on the layers in which this model needs the clip.

    The late block begins behind the last layer that needs video or sound. The three drops lie at
    the same fractions of that depth as in the paper, and as many tokens enter, in proportion to
    what an even spread over these layers would allow.
    """
    last = curve.last_needed("both", tolerated)
    drops: list[int] = []
    for depth in DROP_DEPTHS:
        drops.append(max(1, round(depth * last), drops[-1] + 1 if drops else 1))
    return LayerPlan(
        tuple(layer for layer in drops if layer < last),
        None if last >= curve.num_layers else max(2, last + 1),
        round(ENTERING * curve.num_layers / last, 2),
    )
