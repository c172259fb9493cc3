"""Answers and measurements as JSON documents, and measurements as CSV.

Units are part of the key names: `*_s` are seconds, `*_bytes` bytes, `*_flops` two per
multiply-add, `*_macs` one per multiply-add, retention and probability are ratios 0..1.
What was not measured or does not exist is null, never NaN.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from seats_cli.report.columns import csv_text
from seats_cli.report.session_table import session_keys, session_rows
from seats_cli.results import STAGE1_PARTS, STAGES, TOTALS, jsonable, versions

if TYPE_CHECKING:
    from seats_cli.cost.context import ContextUse
    from seats_cli.cost.estimate import PlannedRun
    from seats_cli.evaluate.statistics import Estimate
    from seats_cli.evaluate.summary import Group, SettingSummary, Summary
    from seats_cli.families.base import Architecture
    from seats_cli.results import (
        Answer,
        ComparedRun,
        Comparison,
        Cost,
        MeasuredRun,
        Measurement,
        Profile,
    )
    from seats_cli.selection.trace import SelectionTrace


# Raised when a key changes its meaning or disappears; new keys alone do not raise it.
SCHEMA_VERSION = "1"
CONVENTIONS = {
    "flops_convention": "2 per multiply-add, LM head on the last position only",
    "paper_convention": "1 per multiply-add, LM head on every position",
}


def document(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as plain values that `json.dumps` takes, between schema and software versions.

    Keys are in the order a reader looks for them; strings are valid Unicode, numbers finite.
    """
    plain: dict[str, Any] = jsonable(
        {"schema_version": SCHEMA_VERSION, **content, "versions": versions()}
    )
    return plain


def dump_document(
    content: Mapping[str, Any], *, ascii_only: bool = False, indent: int | None = 2
) -> str:
    """The document as JSON text, on one line without `indent`.

    NaN is an error here, `jsonable` has removed it.
    """
    return json.dumps(content, indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def answer_document(answer: Answer) -> dict[str, Any]:
    """Everything known about an answer: what `seats ask --json` prints."""
    cost, timing = answer.cost, answer.timing
    return document(
        {
            "question": answer.question,
            "system": answer.system,
            "history_turns": len(answer.history),
            "answer": answer.text,
            "thinking": answer.thinking or None,
            "finish_reason": answer.finish_reason,
            "answer_tokens": len(answer.token_ids),
            "choices": answer.choices,
            "evidence": answer.evidence,
            "warnings": answer.warnings,
            **_subject(answer),
            **_request(answer),
            "tokens": tokens_of(answer.trace),
            "context": _context(answer.context),
            "cost": {
                **CONVENTIONS,
                **_cost(cost),
                "prefill_flops_ratio": _ratio(cost.prefill_flops, cost.full_prefill_flops),
                "paper_prefill_macs_ratio": _ratio(
                    cost.paper_prefill_macs, cost.paper_full_prefill_macs
                ),
                "kv_bytes_ratio": _ratio(cost.kv_bytes, cost.full_kv_bytes),
            },
            "still": _still(cost),
            "encoder_reuse": cost.carried and asdict(cost.carried),
            "timing": {**asdict(timing), "decode_tokens_per_s": timing.decode_tokens_per_s},
            "sampling": answer.sampling,
            "seed": answer.seed,
        }
    )


def answers_document(answers: Sequence[Answer]) -> dict[str, Any]:
    """Several questions about one clip: the document of each answer, in the order asked."""
    return {
        "schema_version": SCHEMA_VERSION,
        "answers": [answer_document(answer) for answer in answers],
    }


def plan_document(planned: PlannedRun, *, memory: bool = False) -> dict[str, Any]:
    """What `seats plan --json` prints, and with `--memory` how much of it there has to be."""
    costs = (
        "encoder_flops",
        "selection_flops",
        "prefill_flops",
        "full_prefill_flops",
        "paper_prefill_macs",
        "paper_full_prefill_macs",
        "kv_bytes",
        "full_kv_bytes",
        "activation_bytes",
        "full_activation_bytes",
        "bytes_per_value",
    )
    return document(
        {
            "kind": "plan",
            "media": _media(planned),
            "model": planned.model.name,
            "architecture": _architecture(planned.model.architecture),
            **_request(planned),
            "tokens": {
                "offered": _counts(planned.offered),
                "video_windows": planned.video_windows,
                "audio_windows": planned.audio_windows,
                "alive_per_layer": list(map(_counts, planned.alive)),
                "average_retention": planned.average_retention,
            },
            "context": _context(planned.context),
            "cost": {**CONVENTIONS, **{name: getattr(planned, name) for name in costs}},
            **({"memory": planned.memory.to_dict()} if memory else {}),
            "warnings": planned.warnings,
        }
    )


def profile_document(profile: Profile) -> dict[str, Any]:
    """What `seats profile --json` prints."""
    return document(
        {
            "kind": "profile",
            "question": profile.question,
            "system": profile.system,
            **_subject(profile),
            "tokens": {"offered": _counts(profile.offered)},
            "clock": profile.clock,
            "warm_ups": profile.warm_ups,
            "repeats": profile.repeats,
            "cpu_threads": profile.threads,
            "load_s": profile.load_s,
            "reading": profile.reading,
            **CONVENTIONS,
            "unpruned_fits": profile.full is not None,
            "runs": [_measured(run, profile.full) for run in profile.runs],
            "failed": profile.failed,
            **session_keys(profile),
            "seed": profile.seed,
            "warnings": profile.warnings,
        }
    )


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """What `seats compare --format json` prints."""
    return document(
        {
            "kind": "comparison",
            "question": comparison.question,
            "system": comparison.system,
            **_subject(comparison),
            **CONVENTIONS,
            "unpruned_fits": comparison.unpruned_fits,
            "runs": [compared_row(run) for run in comparison.runs],
            "seed": comparison.seed,
            "warnings": comparison.warnings,
        }
    )


_ANSWER_COSTS = (
    "prefill_flops",
    "selection_flops",
    "encoder_flops",
    "full_encoder_flops",
    "kv_bytes",
    "peak_host_bytes",
    "peak_gpu_bytes",
)
_ANSWER_TIMES = ("select_s", "prefill_s", "first_token_s", "total_s")


def compared_row(run: ComparedRun) -> dict[str, Any]:
    """One run of a comparison as a flat mapping; null where it could not run."""
    answer = run.answer
    names = ("average_retention", "final_tokens", "prompt_tokens", *_ANSWER_COSTS, *_ANSWER_TIMES)
    row = {
        "label": run.label,
        "method": run.method,
        "retain": run.retain,
        "answer": None if answer is None else answer.text,
        "same_answer": run.same_answer,
        "same_first_token": run.same_first_token,
        "first_token_kl_nats": run.first_token_kl_nats,
        "token_agreement": run.token_agreement,
        "prefill_and_selection_s": run.prefill_and_selection_s,
        **dict.fromkeys(names),
        "error": run.error,
    }
    if answer is not None:
        trace = answer.trace
        row["average_retention"] = trace.average_retention()[2]
        row["final_tokens"] = trace.stages[-1].kept.numel() if trace.stages else trace.length
        row["prompt_tokens"] = trace.length
        row |= {name: getattr(answer.cost, name) for name in _ANSWER_COSTS}
        row |= {name: getattr(answer.timing, name) for name in _ANSWER_TIMES}
    return row


def eval_document(summary: Summary, details: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `seats eval --json` prints; `details` (model, device, command) stand before results."""
    return document(
        {
            "kind": "evaluation",
            "question_set": summary.name,
            "items": summary.items,
            "clips": summary.clips,
            **(details or {}),
            "flops_convention": CONVENTIONS["flops_convention"],
            "intervals": summary.intervals,
            "bootstrap_seed": summary.seed,
            "bootstrap_resamples": summary.resamples,
            "errors": summary.errors,
            "settings": [_setting(setting) for setting in summary.settings],
        }
    )


def comparison_csv(comparison: Comparison) -> str:
    """One line for each run, with a header."""
    return csv_text([compared_row(run) for run in comparison.runs])


def profile_csv(profile: Profile) -> str:
    """One line for each run and stage, with a header; a run that failed has one line."""
    rows: list[dict[str, Any]] = []
    for run in profile.runs:
        for stage, value in {**profile.reading, **run.times}.items():
            rows.append(
                {
                    "label": run.label,
                    "method": run.method,
                    "retain": run.retain,
                    "stage": stage,
                    **asdict(value),
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
    rows += [{**empty, **row} for row in session_rows(profile)]
    return csv_text(rows + [{**empty, **asdict(run)} for run in profile.failed])


def eval_csv(summary: Summary) -> str:
    """One line for each setting and group (all, each family, each kind of clip), with a header.

    Costs are given with the line of all questions.
    """
    rows: list[dict[str, Any]] = []
    for setting in summary.settings:
        costs = asdict(setting.cost)
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


def _subject(result: Answer | Measurement) -> dict[str, Any]:
    """The clip and the model of a run."""
    return {
        "media": _media(result),
        "model": result.model,
        "architecture": _architecture(result.architecture),
    }


def _media(result: Answer | Measurement | PlannedRun) -> dict[str, Any]:
    return {**asdict(result.media), "effective_fps": result.effective_fps}


def _architecture(shape: Architecture) -> dict[str, Any]:
    names = ("family", "num_layers", "hidden_size", "max_positions", "layers_from")
    return {name: getattr(shape, name) for name in names}


def _request(result: Answer | PlannedRun) -> dict[str, Any]:
    """What was asked of the pruning, and what came of it; null for an unpruned run."""
    asked = {"config": result.config, "plan": result.plan}
    return {name: None if one is None else one.to_dict() for name, one in asked.items()}


def _context(use: ContextUse | None) -> dict[str, Any] | None:
    """What a question takes of the model's context."""
    if use is None:
        return None
    return {
        "entering": _counts(use.entering),
        "answer": use.answer,
        "largest_position": use.largest_position,
        "limit": use.limit,
        "fits": use.fits,
        "positions_fit": use.positions_fit,
    }


def _counts(counts: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("video", "audio", "text", "total"), (*counts, sum(counts)), strict=True))


def tokens_of(trace: SelectionTrace) -> dict[str, Any]:
    """Tokens of a prompt: offered, alive after each stage and at the end, and on average."""
    counts = [(stage.video, stage.audio, stage.text) for stage in trace.stages]
    stages = [
        {"kind": stage.kind, "after_layer": stage.after_layer, **_counts(alive)}
        for stage, alive in zip(trace.stages, counts, strict=True)
    ]
    means = zip(("video", "audio", "overall"), trace.average_retention(), strict=True)
    return {
        "offered": _counts(trace.offered),
        "stages": stages,
        "final": _counts(counts[-1] if counts else trace.offered),
        "average_retention": dict(means),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _cost(cost: Cost) -> dict[str, Any]:
    """FLOPs and bytes by name."""
    values = asdict(cost)
    del values["still"], values["carried"]
    return values


def _still(cost: Cost) -> dict[str, Any] | None:
    """What Stage 0 left out; None where it was off."""
    if cost.still is None:
        return None
    return {**asdict(cost.still), "partial_grids": cost.still.partial_grids}


def _measured(run: MeasuredRun, full: MeasuredRun | None) -> dict[str, Any]:
    times = {name: run.times[name] for name in (*STAGES, *STAGE1_PARTS, *TOTALS)}
    return {
        "label": run.label,
        "method": run.method,
        "retain": run.retain,
        "stages": times,
        "speed_up": {name: run.speed_up(full, name) for name in times},
        "prefill_segments": [
            {
                "first_layer": segment.first_layer,
                "last_layer": segment.last_layer,
                "tokens": segment.tokens,
                "flops": segment.flops,
                **asdict(segment.time),
            }
            for segment in run.segments
        ],
        "alive_per_layer": list(map(_counts, run.alive)),
        "average_retention": run.average_retention,
        "decode_tokens": run.decode_tokens,
        "cost": _cost(run.cost),
        "still": _still(run.cost),
        "encoder_reuse": run.cost.carried and asdict(run.cost.carried),
        "prefill_flops_ratio": run.cost.full_prefill_flops / run.cost.prefill_flops,
        "achieved_flops_per_s": run.achieved_flops_per_s,
        "encoder_share_of_first_token": run.encoder_share,
        "bottleneck": run.bottleneck,
        "selection_share_of_prefill": run.selection_share,
    }


def _setting(setting: SettingSummary) -> dict[str, Any]:
    return {
        "label": setting.label,
        "method": setting.method,
        "retain": setting.retain,
        **_group(setting.overall),
        **asdict(setting.cost),
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
