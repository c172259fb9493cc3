"""The report a person reads after an answer; fits 80 columns, plain where there is no colour."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.config import FULL
from seats_cli.report.format import (
    format_bytes,
    format_count,
    format_percent,
    format_ratio,
    format_seconds,
    format_si,
)

if TYPE_CHECKING:
    from seats_cli.results import Answer, Cost, ReuseFacts


# Picture and sound of one file rarely end at the very same moment.
_END_TOLERANCE_S = 0.1

_CONVENTION = (
    "FLOPs count 2 per multiply-add with the LM head on the last position. The paper counts "
    "1 per multiply-add with the LM head on every position."
)


def report(answer: Answer) -> RenderableType:
    """The whole report as one Rich renderable."""
    parts: list[RenderableType] = [_facts(answer)]
    if answer.choices:
        parts += [Text(), _choices(answer)]
    parts += [Text(), _tokens(answer), Text(), _cost(answer), Text(_CONVENTION, style="dim")]
    parts += [Text(), _times(answer)]
    return Group(*parts)


def print_report(answer: Answer, console: Console) -> None:
    """Print the report, set off from the answer by an empty line."""
    console.print()
    console.print(report(answer))


def clip_line(answer: Answer) -> str:
    """File name, duration, frames and sound that the model was given."""
    media = answer.media
    name = PurePath(media.path).name or media.path
    parts = [name.encode("utf-8", "replace").decode("utf-8"), format_seconds(media.duration_s)]
    end, duration = media.end_s, media.duration_s
    cut = end is not None and duration is not None and end < duration - _END_TOLERANCE_S
    if media.start_s or cut:
        parts.append(f"used {media.start_s:.4g} s to {f'{end:.4g} s' if cut else 'the end'}")
    if media.frames_used:
        rate = "" if answer.effective_fps is None else f" at {answer.effective_fps:.3g} fps"
        parts.append(f"{media.frames_used} frames {media.width}x{media.height}{rate}")
    else:
        parts.append("no video")
    parts.append(f"{media.audio_used_s:.1f} s of sound" if media.audio_used_s else "no sound")
    return ", ".join(parts)


def plan_line(answer: Answer) -> str:
    """What was asked of the pruning and where in the model it acts."""
    plan, config = answer.plan, answer.config
    if plan is None or plan.config.method == FULL:
        return "unpruned, every token in every layer"
    layers = ", ".join(str(layer) for layer in plan.drop_layers)
    parts = [plan.config.method]
    if config is not None:
        shape = answer.architecture
        video, audio = config.targets(shape.family, shape.retention_pairs)
        parts.append(f"{format_percent(video)} of video and {format_percent(audio)} of audio asked")
    parts.append(f"drops after layers {layers}" if layers else "no drop layers")
    parts.append(
        "no late block" if plan.late_layer is None else f"late block from layer {plan.late_layer}"
    )
    parts += [f"{plan.config.allocation} allocation", f"{plan.config.kv} KV cache"]
    return ", ".join(parts)


def still_line(cost: Cost, still: ReuseFacts) -> str:
    """What was not encoded again, and what that saved."""
    grids = (
        f"{still.whole_grids} encoded whole, {still.partial_grids} in part, "
        f"{still.still_grids} not at all"
    )
    return (
        f"of {still.grids} grids {grids}; {format_ratio(still.encoded_tokens, still.tokens)} of "
        f"the picture encoded, {still.tolerance_levels:g} levels tolerated, encoder FLOPs "
        f"{format_si(cost.encoder_flops)} instead of {format_si(cost.full_encoder_flops)}"
    )


def model_line(answer: Answer) -> str:
    """Model, size and how it ran."""
    model = answer.model
    revision = f"@{model.revision[:12]}" if model.revision else ""
    size = format_si(model.parameters).replace(" ", "")
    return (
        f"{model.id}{revision} ({model.family}, {size} parameters), "
        f"{model.device}, {model.dtype}, {model.attention}"
    )


def _facts(answer: Answer) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    lines = [
        ("Clip", clip_line(answer)),
        ("Model", model_line(answer)),
        ("Plan", plan_line(answer)),
    ]
    if answer.cost.still is not None:
        lines.append(("Stage 0", still_line(answer.cost, answer.cost.still)))
    for name, line in lines:
        grid.add_row(name, Text(line))
    return grid


def _choices(answer: Answer) -> Table:
    table = _table("Choice", "probability")
    for choice in sorted(answer.choices, key=lambda choice: -choice.probability):
        table.add_row(Text(choice.text), format_percent(choice.probability))
    return table


def _tokens(answer: Answer) -> Table:
    trace = answer.trace
    offered_video, offered_audio, offered_text = trace.offered
    table = _table("Tokens", "video", "audio", "text", "total")
    rows = [("offered", trace.offered)]
    rows += [(s.label, (s.video, s.audio, s.text)) for s in trace.stages]
    for index, (label, (video, audio, text)) in enumerate(rows):
        # The share makes the stages comparable; on the first row it would only say 100 %.
        table.add_row(
            Text(label),
            _share(video, offered_video, shown=index > 0),
            _share(audio, offered_audio, shown=index > 0),
            format_count(text),
            _share(video + audio + text, trace.length, shown=index > 0),
        )
    video_mean, audio_mean, overall = trace.average_retention()
    table.add_row(
        "mean over layers",
        _mean(video_mean),
        _mean(audio_mean),
        format_percent(1.0) if offered_text else "-",
        Text(f"{_mean(overall)} a+v"),
        style="bold",
    )
    return table


def _share(kept: int, offered: int, *, shown: bool) -> str:
    if not offered:
        return "-"
    return f"{kept:,} ({100 * kept / offered:.0f} %)" if shown else f"{kept:,}"


def _mean(ratio: float | None) -> str:
    return "-" if ratio is None else format_percent(ratio)


def _cost(answer: Answer) -> Table:
    cost = answer.cost
    table = _table("LLM prefill", "full", "pruned", "ratio")
    for label, full, pruned, shown in (
        ("FLOPs", cost.full_prefill_flops, cost.prefill_flops, format_si),
        ("paper's count", cost.paper_full_prefill_macs, cost.paper_prefill_macs, format_si),
        ("KV cache", cost.full_kv_bytes, cost.kv_bytes, format_bytes),
    ):
        table.add_row(label, shown(full), shown(pruned), format_ratio(pruned, full))
    return table


def _times(answer: Answer) -> Table:
    timing, cost = answer.timing, answer.cost
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    speed = timing.decode_tokens_per_s
    rows = (
        (("load", timing.load_s), ("read", timing.read_s), ("preprocess", timing.preprocess_s)),
        (
            ("vision", timing.vision_s),
            ("audio", timing.audio_s),
            ("select", timing.select_s),
            ("prefill", timing.prefill_s),
        ),
        (
            ("first token", timing.first_token_s),
            ("decode", timing.decode_s),
            ("total", timing.total_s),
        ),
    )
    lines = [", ".join(f"{name} {format_seconds(value)}" for name, value in row) for row in rows]
    lines[-1] += "" if speed is None else f", {speed:.1f} tokens/s"
    grid.add_row("Time", Text("\n".join(lines)))
    memory = f"host {format_bytes(cost.peak_host_bytes)}"
    if cost.peak_gpu_bytes is not None:
        memory += f", GPU {format_bytes(cost.peak_gpu_bytes)}"
    grid.add_row("Peak memory", Text(memory))
    return grid


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table
