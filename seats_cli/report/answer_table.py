"""The report a person reads after an answer; fits 80 columns, plain where there is no colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.config import FULL
from seats_cli.report.columns import MISSING, columns, facts, table
from seats_cli.report.phrases import (
    UNPRUNED,
    audio_phrase,
    cost_row,
    file_name,
    format_bytes,
    format_count,
    format_percent,
    format_ratio,
    format_seconds,
    format_si,
    frames_phrase,
    kept_phrase,
    name_phrase,
    precision_phrase,
    schedule_phrase,
    size_phrase,
    targets_phrase,
)

if TYPE_CHECKING:
    from seats_cli.results import Answer, Cost
    from seats_cli.selection.alike_units import CarriedFacts
    from seats_cli.selection.static_regions import ReuseFacts


# Video and audio of one file rarely end at exactly the same time.
_END_TOLERANCE_S = 0.1

# Seconds of `Timing`, in lines.
_TIMES = (
    ("load", "read", "preprocess"),
    ("vision", "audio", "select", "prefill"),
    ("first_token", "decode", "total"),
)
# Of the unpruned prefill: what choosing took is told where a method's own layers cost as much.
_NOTABLE = 0.05
_CONVENTION = (
    "FLOPs count 2 per multiply-add with the LM head on the last position, selection included. The "
    "paper counts 1 per multiply-add with the LM head on every position, without selection."
)


def print_report(answer: Answer, console: Console) -> None:
    """Print the report, set off from the answer by an empty line."""
    console.print()
    console.print(report(answer))


def summary(answer: Answer) -> str:
    """What an answer took, in one line."""
    kept = answer.trace.average_retention()[2]
    share = "" if kept is None else f"kept {format_percent(kept)} of picture and sound, "
    if answer.plan is None or answer.plan.config.method == FULL:
        share = "unpruned, "
    first, total = answer.timing.first_token_s, answer.timing.total_s
    line = f"{share}first token after {format_seconds(first)}, {format_seconds(total)} in all."
    return line[0].upper() + line[1:]


def report(answer: Answer) -> RenderableType:
    """The whole report as one Rich renderable."""
    parts: list[RenderableType] = [facts(_run_facts(answer))]
    if answer.choices:
        ordered = sorted(answer.choices, key=lambda choice: -choice.probability)
        shares = [(choice.text, format_percent(choice.probability)) for choice in ordered]
        parts += [Text(), table(columns("Choice", "probability", wraps=True), shares)]
    parts += [Text(), _tokens(answer), Text(), _cost(answer.cost), Text(_CONVENTION, style="dim")]
    parts += [Text(), facts(_measured_facts(answer))]
    return Group(*parts)


def _run_facts(answer: Answer) -> list[tuple[str, str]]:
    model, still, carried = answer.model, answer.cost.still, answer.cost.carried
    name = f"{name_phrase(model, revision=True)} ({model.family}, {size_phrase(model.parameters)})"
    lines = [
        ("Clip", _clip_line(answer)),
        ("Model", f"{name}, {model.device}, {precision_phrase(model)}, {model.attention}"),
        ("Plan", _plan_line(answer)),
    ]
    if still is not None:
        lines.append(("Stage 0", _still_line(answer.cost, still)))
    if carried is not None:
        lines.append(("Reuse", _carried_line(answer.cost, carried)))
    return lines


def _clip_line(answer: Answer) -> str:
    """File name, duration, and the frames and audio that the model was given."""
    media = answer.media
    parts = [file_name(media.path), format_seconds(media.duration_s)]
    end, duration = media.end_s, media.duration_s
    cut = end is not None and duration is not None and end < duration - _END_TOLERANCE_S
    if media.start_s or cut:
        parts.append(f"used {media.start_s:.4g} s to {f'{end:.4g} s' if cut else 'the end'}")
    return ", ".join([*parts, frames_phrase(media, answer.effective_fps), audio_phrase(media)])


def _plan_line(answer: Answer) -> str:
    """What the pruning was asked to keep, and where in the model it acts."""
    plan = answer.plan
    if plan is None or plan.config.method == FULL:
        return UNPRUNED
    parts = [plan.config.method]
    if plan.target_video is not None and plan.target_audio is not None:
        parts.append(targets_phrase(plan.target_video, plan.target_audio))
    parts.append(schedule_phrase(plan.drop_layers, plan.late_layer))
    return ", ".join([*parts, f"{plan.config.allocation} allocation", f"{plan.config.kv} KV cache"])


def _still_line(cost: Cost, still: ReuseFacts) -> str:
    """What Stage 0 did not encode again, and what that saved."""
    grids = (
        f"{still.whole_grids} encoded whole, {still.partial_grids} in part, "
        f"{still.still_grids} not at all"
    )
    return (
        f"of {still.grids} grids {grids}; {format_ratio(still.encoded_tokens, still.tokens)} of "
        f"the picture encoded, {still.tolerance_levels:g} levels tolerated, encoder FLOPs "
        f"{format_si(cost.encoder_flops)} instead of {format_si(cost.full_encoder_flops)}"
    )


def _carried_line(cost: Cost, carried: CarriedFacts) -> str:
    """What encoder reuse carried through the later blocks, and what all of it saved."""
    limits = [] if carried.threshold is None else [f"cosine {carried.threshold:g}"]
    if carried.share is not None:
        limits.append(f"{format_percent(carried.share)} asked")
    asked = ", ".join(limits)
    return (
        f"{format_ratio(carried.carried_tokens, carried.tokens)} of the picture carried through "
        f"blocks {carried.start_block + 1} to {carried.blocks} of the vision encoder, {asked}, "
        f"encoder FLOPs {format_si(cost.encoder_flops)} instead of "
        f"{format_si(cost.full_encoder_flops)}"
    )


def _tokens(answer: Answer) -> Table:
    trace = answer.trace
    video, audio, text = trace.offered
    # The share makes the stages comparable; on the first row it would only say 100 %.
    offered = (f"{count:,}" if count else MISSING for count in (video, audio))
    rows = [("offered", *offered, format_count(text), format_count(trace.length))]
    for stage in trace.stages:
        rows.append(
            (
                stage.label,
                kept_phrase(stage.video, video),
                kept_phrase(stage.audio, audio),
                format_count(stage.text),
                kept_phrase(stage.kept.numel(), trace.length),
            )
        )
    means = [
        MISSING if mean is None else format_percent(mean) for mean in trace.average_retention()
    ]
    whole = format_percent(1.0) if text else MISSING
    rows.append(("mean over layers", *means[:2], whole, f"{means[2]} a+v"))
    headers = columns("Tokens", "video", "audio", "text", "total", wraps=True)
    return table(headers, rows, bold=lambda row: row is rows[-1])


def _cost(cost: Cost) -> Table:
    rows: list[Sequence[str]] = [
        cost_row("FLOPs", cost.full_prefill_flops, cost.prefill_and_selection_flops, format_si),
        cost_row("paper's count", cost.paper_full_prefill_macs, cost.paper_prefill_macs, format_si),
        cost_row("KV cache", cost.full_kv_bytes, cost.kv_bytes, format_bytes),
    ]
    if cost.selection_flops >= _NOTABLE * cost.full_prefill_flops > 0:
        share = format_percent(cost.selection_flops / cost.full_prefill_flops)
        rows.insert(1, ("of it selection", "", format_si(cost.selection_flops), share))
    return table(columns("LLM prefill", "full", "pruned", "ratio", wraps=True), rows)


def _measured_facts(answer: Answer) -> list[tuple[str, str]]:
    timing, cost = answer.timing, answer.cost

    def took(name: str) -> str:
        return f"{name.replace('_', ' ')} {format_seconds(getattr(timing, f'{name}_s'))}"

    lines = [", ".join(map(took, names)) for names in _TIMES]
    speed = timing.decode_tokens_per_s
    lines[-1] += "" if speed is None else f", {speed:.1f} tokens/s"
    memory = f"host {format_bytes(cost.peak_host_bytes)}"
    if cost.peak_gpu_bytes is not None:
        memory += f", GPU {format_bytes(cost.peak_gpu_bytes)}"
    facts = [("Time", "\n".join(lines)), ("Peak memory", memory)]
    by_itself = cost.encoder_flops + cost.prefill_and_selection_flops
    if 0 < cost.executed_flops < by_itself:
        executed, alone = format_si(cost.executed_flops), format_si(by_itself)
        left = "the rest was left by an earlier question about the clip"
        words = f"{executed} of {alone} FLOPs of encoders, selection and prefill; {left}"
        facts.append(("Executed", words))
    return facts
