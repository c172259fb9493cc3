"""Plans, profiles and comparisons as JSON documents and CSV; times are seconds."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from seats_cli.report.documents import SCHEMA_VERSION, cost_values, still_values
from seats_cli.results import STAGE1_PARTS, STAGES, TOTALS, jsonable, versions

if TYPE_CHECKING:
    from seats_cli.cost.estimate import PlannedRun
    from seats_cli.families.base import Architecture
    from seats_cli.results import Answer, ComparedRun, Comparison, MeasuredRun, Profile, Spread


FLOPS_CONVENTION = "2 per multiply-add, LM head on the last position only"
PAPER_CONVENTION = "1 per multiply-add, LM head on every position"


def plan_document(planned: PlannedRun) -> dict[str, Any]:
    """What `seats plan --json` prints."""
    return _document(
        {
            "kind": "plan",
            "media": {
                **dataclasses.asdict(planned.media),
                "effective_fps": planned.effective_fps,
            },
            "model": planned.model.name,
            "architecture": _architecture(planned.model.architecture),
            "config": None if planned.config is None else planned.config.to_dict(),
            "plan": None if planned.plan is None else planned.plan.to_dict(),
            "tokens": {
                "offered": _counts(planned.offered),
                "video_windows": list(planned.video_windows),
                "audio_windows": list(planned.audio_windows),
                "alive_per_layer": [_counts(counts) for counts in planned.alive],
                "average_retention": planned.average_retention,
            },
            "cost": {
                "flops_convention": FLOPS_CONVENTION,
                "paper_convention": PAPER_CONVENTION,
                **{
                    name: getattr(planned, name)
                    for name in (
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
                },
            },
            "warnings": list(planned.warnings),
        }
    )


def profile_document(profile: Profile) -> dict[str, Any]:
    """What `seats profile --json` prints."""
    return _document(
        {
            "kind": "profile",
            "question": profile.question,
            "media": {
                **dataclasses.asdict(profile.media),
                "effective_fps": profile.effective_fps,
            },
            "model": dataclasses.asdict(profile.model),
            "architecture": _architecture(profile.architecture),
            "tokens": {"offered": _counts(profile.offered)},
            "clock": profile.clock,
            "warm_ups": profile.warm_ups,
            "repeats": profile.repeats,
            "cpu_threads": profile.threads,
            "load_s": profile.load_s,
            "reading": {name: spread_values(value) for name, value in profile.reading.items()},
            "flops_convention": FLOPS_CONVENTION,
            "paper_convention": PAPER_CONVENTION,
            "unpruned_fits": profile.full is not None,
            "runs": [_measured(run, profile.full) for run in profile.runs],
            "failed": [dataclasses.asdict(run) for run in profile.failed],
            "seed": profile.seed,
            "warnings": list(profile.warnings),
        }
    )


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """What `seats compare --format json` prints."""
    return _document(
        {
            "kind": "comparison",
            "question": comparison.question,
            "media": {
                **dataclasses.asdict(comparison.media),
                "effective_fps": comparison.effective_fps,
            },
            "model": dataclasses.asdict(comparison.model),
            "architecture": _architecture(comparison.architecture),
            "flops_convention": FLOPS_CONVENTION,
            "paper_convention": PAPER_CONVENTION,
            "unpruned_fits": comparison.unpruned_fits,
            "runs": [compared_row(run) for run in comparison.runs],
            "seed": comparison.seed,
            "warnings": list(comparison.warnings),
        }
    )


def compared_row(run: ComparedRun) -> dict[str, Any]:
    """One run of a comparison as a flat mapping; null where it could not run."""
    return {
        "label": run.label,
        "method": run.method,
        "retain": run.retain,
        "answer": None if run.answer is None else run.answer.text,
        "same_answer": run.same_answer,
        "same_first_token": run.same_first_token,
        "first_token_kl_nats": run.first_token_kl_nats,
        "token_agreement": run.token_agreement,
        "prefill_and_selection_s": run.prefill_and_selection_s,
        **_answer_numbers(run.answer),
        "error": run.error,
    }


def _answer_numbers(answer: Answer | None) -> dict[str, Any]:
    names = (
        "average_retention",
        "final_tokens",
        "prompt_tokens",
        "prefill_flops",
        "selection_flops",
        "encoder_flops",
        "full_encoder_flops",
        "kv_bytes",
        "peak_host_bytes",
        "peak_gpu_bytes",
        "select_s",
        "prefill_s",
        "first_token_s",
        "total_s",
    )
    if answer is None:
        return dict.fromkeys(names)
    trace, cost, timing = answer.trace, answer.cost, answer.timing
    values = {
        "average_retention": trace.average_retention()[2],
        "final_tokens": int(trace.stages[-1].kept.numel()) if trace.stages else trace.length,
        "prompt_tokens": trace.length,
    }
    return {
        name: values.get(name, getattr(cost, name, getattr(timing, name, None))) for name in names
    }


def _measured(run: MeasuredRun, full: MeasuredRun | None) -> dict[str, Any]:
    times = {name: run.times[name] for name in (*STAGES, *STAGE1_PARTS, *TOTALS)}
    return {
        "label": run.label,
        "method": run.method,
        "retain": run.retain,
        "stages": {name: spread_values(value) for name, value in times.items()},
        "speed_up": {name: run.speed_up(full, name) for name in times},
        "prefill_segments": [
            {
                "first_layer": segment.first_layer,
                "last_layer": segment.last_layer,
                "tokens": segment.tokens,
                "flops": segment.flops,
                **spread_values(segment.time),
            }
            for segment in run.segments
        ],
        "alive_per_layer": [_counts(counts) for counts in run.alive],
        "average_retention": run.average_retention,
        "decode_tokens": run.decode_tokens,
        "cost": cost_values(run.cost),
        "still": still_values(run.cost),
        "prefill_flops_ratio": run.flops_ratio,
        "achieved_flops_per_s": run.achieved_flops_per_s,
        "encoder_share_of_first_token": run.encoder_share,
        "selection_share_of_prefill": run.selection_share,
    }


def _document(content: dict[str, Any]) -> dict[str, Any]:
    plain = jsonable({"schema_version": SCHEMA_VERSION, **content, "versions": versions()})
    assert isinstance(plain, dict)
    return plain


def _architecture(shape: Architecture) -> dict[str, Any]:
    return {
        "family": shape.family,
        "num_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "max_positions": shape.max_positions,
        "layers_from": shape.layers_from,
    }


def _counts(counts: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("video", "audio", "text", "total"), (*counts, sum(counts)), strict=True))


def spread_values(value: Spread) -> dict[str, float]:
    """Median, p10 and p90 by name."""
    return dataclasses.asdict(value)


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
