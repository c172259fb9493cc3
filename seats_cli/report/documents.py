"""An answer as one JSON document.

Units are part of the key names: `*_s` are seconds, `*_bytes` bytes, `*_flops` two per
multiply-add, `*_macs` one per multiply-add, retention and probability are ratios 0..1.
What was not measured or does not exist is null, never NaN.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seats_cli.results import jsonable, versions

if TYPE_CHECKING:
    from seats_cli.results import Answer, Cost, Timing
    from seats_cli.selection.trace import SelectionTrace


# Raised when a key changes its meaning or disappears; new keys alone do not raise it.
SCHEMA_VERSION = "1"


def answer_document(answer: Answer) -> dict[str, Any]:
    """Everything known about an answer, as plain values that `json.dumps` takes.

    Parameters
    ----------
    answer : Answer
        The result of one question.

    Returns
    -------
    dict
        Keys in the order a reader looks for them; strings are valid Unicode, numbers finite.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "question": answer.question,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "answer_tokens": len(answer.token_ids),
        "choices": [dataclasses.asdict(choice) for choice in answer.choices],
        "warnings": list(answer.warnings),
        "media": {**dataclasses.asdict(answer.media), "effective_fps": answer.effective_fps},
        "model": dataclasses.asdict(answer.model),
        "architecture": _architecture(answer),
        "config": None if answer.config is None else answer.config.to_dict(),
        "plan": None if answer.plan is None else answer.plan.to_dict(),
        "tokens": _tokens(answer.trace),
        "cost": _cost(answer.cost),
        "still": still_values(answer.cost),
        "timing": _timing(answer.timing),
        "seed": answer.seed,
        "versions": versions(),
    }
    plain = jsonable(document)
    assert isinstance(plain, dict)
    return plain


def answers_document(answers: Sequence[Answer]) -> dict[str, Any]:
    """Several questions about one clip: the document of each answer, in the order asked."""
    return {
        "schema_version": SCHEMA_VERSION,
        "answers": [answer_document(answer) for answer in answers],
    }


def dump_document(document: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """The document as indented JSON text; NaN is an error here, `jsonable` has removed it."""
    return json.dumps(document, indent=2, ensure_ascii=ascii_only, allow_nan=False)


def _architecture(answer: Answer) -> dict[str, Any]:
    shape = answer.architecture
    return {
        "family": shape.family,
        "num_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "max_positions": shape.max_positions,
        "layers_from": shape.layers_from,
    }


def _counts(video: int, audio: int, text: int) -> dict[str, int]:
    return {"video": video, "audio": audio, "text": text, "total": video + audio + text}


def _tokens(trace: SelectionTrace) -> dict[str, Any]:
    video, audio, overall = trace.average_retention()
    last = trace.stages[-1] if trace.stages else None
    return {
        "offered": _counts(*trace.offered),
        "stages": [
            {
                "kind": stage.kind,
                "after_layer": stage.after_layer,
                **_counts(stage.video, stage.audio, stage.text),
            }
            for stage in trace.stages
        ],
        "final": _counts(*trace.offered)
        if last is None
        else _counts(last.video, last.audio, last.text),
        "average_retention": {"video": video, "audio": audio, "overall": overall},
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "flops_convention": "2 per multiply-add, LM head on the last position only",
        "paper_convention": "1 per multiply-add, LM head on every position",
        **cost_values(cost),
        "prefill_flops_ratio": _ratio(cost.prefill_flops, cost.full_prefill_flops),
        "paper_prefill_macs_ratio": _ratio(cost.paper_prefill_macs, cost.paper_full_prefill_macs),
        "kv_bytes_ratio": _ratio(cost.kv_bytes, cost.full_kv_bytes),
    }


def cost_values(cost: Cost) -> dict[str, Any]:
    """FLOPs and bytes by name."""
    values = dataclasses.asdict(cost)
    del values["still"]
    return values


def still_values(cost: Cost) -> dict[str, Any] | None:
    """What Stage 0 left out; None where it was off."""
    if cost.still is None:
        return None
    return {**dataclasses.asdict(cost.still), "partial_grids": cost.still.partial_grids}


def _timing(timing: Timing) -> dict[str, Any]:
    return {**dataclasses.asdict(timing), "decode_tokens_per_s": timing.decode_tokens_per_s}
