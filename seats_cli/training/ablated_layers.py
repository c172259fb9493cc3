"""Up to which layer the model uses the clip, and the SEATS layers that follow from it.

    python -m seats_cli.training.ablated_layers seats_cli/models/bundled

Hides all video and audio tokens from every layer after layer l, for each l, and measures what the
answers lose. Where nothing more is lost, the late block may begin.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from seats_cli.evaluate.layer_curve import LayerCurve
from seats_cli.training.forward import Thinker, Thinning
from seats_cli.training.held_out import accuracy_by_family, macro, validation_batches

log = logging.getLogger(__name__)

_DEPTHS = (0.57, 0.64, 0.71)  # of the drop layers in the published settings
_LATE_DEPTH = 0.86  # of the late block
_FIRST_LAYER = 3  # with an earlier cut, answers are guesses


def measure(model: Thinker, processor: Any, *, clips: int = 200) -> LayerCurve:
    """Accuracy for every layer after which the clip is hidden, on `clips` held-out clips."""
    batches = validation_batches(processor, clips=10, count=-(-clips // 10))
    full = accuracy_by_family(model, batches)
    layers = len(model.model.language_model.layers)
    after: dict[int, float] = {}
    for layer in range(_FIRST_LAYER, layers):
        after[layer] = macro(accuracy_by_family(model, batches, Thinning(cut_layer=layer)))
        log.info("after layer %d: %.3f", layer, after[layer])
    questions = sum(asked for _, asked in full.values())
    return LayerCurve(macro(full), {"both": after}, questions, layers)


def first_blind_layer(curve: LayerCurve) -> int:
    """First layer (from 1) from which on the clip may be hidden at less than the tolerated loss."""
    return min(curve.last_needed("both") + 1, curve.num_layers)


def seats_layers(curve: LayerCurve, layers: int) -> tuple[tuple[int, ...], int]:
    """Drop layers and first layer of the late block (both from 1) for a measured curve.

    The published depths, with the late block moved up where the model still uses the clip. It is
    never moved down: with an encoder scale of 1.4 the tokens that enter the LLM could then not
    reach the requested average.
    """
    late = max(round(_LATE_DEPTH * layers), first_blind_layer(curve))
    return tuple(round(depth * layers) for depth in _DEPTHS), late


def write_settings(folder: Path, curve: LayerCurve, layers: int) -> dict[str, Any]:
    """Put the layers into the model's config.json (for the adapter) and, with why, seats.json."""
    drops, late = seats_layers(curve, layers)
    entry: dict[str, Any] = {"drop_layers": list(drops), "late_layer": late}
    blind, hidden = first_blind_layer(curve), curve.after_layer["both"]
    why = (
        f"Hiding all video and audio from layer {blind} of {layers} on costs "
        f"{100 * (curve.full - hidden[blind - 1]):.1f} points of macro accuracy, from "
        f"layer {late} on {100 * (curve.full - hidden[late - 1]):.1f} "
        f"({curve.questions} held-out questions). The published depths (57, 64, 71 and 86 %) are "
        "used unless the model needs the clip for longer."
    )
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text())
    config["seats"] = {**config.get("seats", {}), **entry}
    config_path.write_text(json.dumps(config, indent=2) + "\n")
    record = {
        **entry,
        "why": why,
        "questions": curve.questions,
        "accuracy_full": round(curve.full, 4),
        "accuracy_hidden_after_layer": {
            str(layer): round(value, 4) for layer, value in hidden.items()
        },
    }
    (folder / "seats.json").write_text(json.dumps(record, indent=2) + "\n")
    return record


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="folder of the model; its settings are updated")
    parser.add_argument("--clips", type=int, default=200)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
        options.model, dtype=torch.float32
    ).eval()
    processor = Qwen2_5OmniProcessor.from_pretrained(options.model)
    curve = measure(model, processor, clips=options.clips)
    record = write_settings(options.model, curve, len(model.model.language_model.layers))
    log.info("%s", json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
