"""A plan as a table, and the paper's FLOP figures beside ours; fits 80 columns."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.cost.paper import PaperRow, paper_table
from seats_cli.report.format import (
    format_bytes,
    format_percent,
    format_ratio,
    format_seconds,
    format_si,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seats_cli.cost.estimate import PlannedRun


def plan_report(planned: PlannedRun) -> RenderableType:
    """Clip, model, tokens by layer, cost."""
    return Group(_facts(planned), Text(), _layers(planned), Text(), _costs(planned))


def windows_line(sizes: Sequence[int], unit: str) -> str:
    """How many windows of which size: "6 windows of 598 video tokens"."""
    if not sizes:
        return f"no {unit} tokens"
    common = Counter(sizes).most_common()
    parts = [f"{count} of {size:,}" for size, count in common]
    noun = "window" if len(sizes) == 1 else "windows"
    return f"{len(sizes)} {noun} of {unit} tokens: {', '.join(parts)}"


def _facts(planned: PlannedRun) -> Table:
    media, shape = planned.media, planned.model.architecture
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    length = format_seconds(media.duration_s)
    frames, sound = "no video", "no sound"
    if media.frames_used and planned.effective_fps is not None:
        frames = (
            f"{media.frames_used} frames {media.width}x{media.height} "
            f"at {planned.effective_fps:.3g} fps"
        )
    if media.audio_used_s:
        sound = f"{media.audio_used_s:.1f} s of sound"
    layers = ", ".join(str(layer) for layer in planned.plan.drop_layers) if planned.plan else ""
    schedule = "unpruned, every token in every layer"
    if planned.plan is not None:
        late = planned.plan.late_layer
        schedule = f"drops after layers {layers}" if layers else "no drop layers"
        schedule += ", no late block" if late is None else f", late block from layer {late}"
        schedule += f", {planned.plan.config.kv} KV cache"
    video, audio, text = planned.offered
    for name, line in (
        ("Clip", f"{media.path.rsplit('/', 1)[-1]}, {length}, {frames}, {sound}"),
        ("Model", f"{planned.model.name} ({shape.family}, {shape.num_layers} layers)"),
        (
            "Prompt",
            f"{planned.prompt_tokens:,} tokens: {video:,} video, {audio:,} audio, "
            f"about {text:,} text ({format_ratio(planned.prompt_tokens, shape.max_positions)} "
            "of the context)",
        ),
        ("Stage I", windows_line(planned.video_windows, "video")),
        ("", windows_line(planned.audio_windows, "audio")),
        ("Plan", schedule),
    ):
        grid.add_row(name, Text(line))
    return grid


def _layers(planned: PlannedRun) -> Table:
    table = _table("Tokens", "video", "audio", "text", "total")
    video, audio, text = planned.offered
    table.add_row("offered", f"{video:,}", f"{audio:,}", f"{text:,}", f"{sum(planned.offered):,}")
    first = 1
    for counts, group in groupby(planned.alive):
        last = first + len(list(group)) - 1
        kept = (
            f"{own:,} ({100 * own / whole:.0f} %)" if whole else "-"
            for own, whole in zip(counts[:2], (video, audio), strict=True)
        )
        table.add_row(
            f"in layers {first} to {last}" if last > first else f"in layer {first}",
            *kept,
            f"{counts[2]:,}",
            f"{sum(counts):,}",
        )
        first = last + 1
    table.add_row(
        "mean over layers", "", "", "", f"{format_percent(planned.average_retention)} a+v"
    )
    return table


def _costs(planned: PlannedRun) -> Table:
    table = _table("Cost", "full", "pruned", "ratio")
    bits = 8 * planned.bytes_per_value
    for label, full, pruned, shown in (
        ("LLM prefill FLOPs", planned.full_prefill_flops, planned.prefill_flops, format_si),
        ("paper's count", planned.paper_full_prefill_macs, planned.paper_prefill_macs, format_si),
        (f"KV cache, {bits} bit", planned.full_kv_bytes, planned.kv_bytes, format_bytes),
        (
            f"activations, {bits} bit, about",
            planned.full_activation_bytes,
            planned.activation_bytes,
            format_bytes,
        ),
    ):
        table.add_row(label, shown(full), shown(pruned), format_ratio(pruned, full))
    encoders = format_si(planned.encoder_flops)
    table.add_row("encoder FLOPs", encoders, encoders, "")
    table.add_row("selection FLOPs", "", format_si(planned.selection_flops), "")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def paper_markdown() -> str:
    """One row for each model and budget, in the paper's unit: 1e12 multiply-adds.

    64 video grids of 132 tokens, 128 s of sound and 120 text tokens; LLM prefill alone.
    """
    lines = ["| model | tokens kept | paper | seats | difference |", "|---|---:|---:|---:|---:|"]
    return "\n".join(lines + [_line(row) for row in paper_table()])


def _line(row: PaperRow) -> str:
    return (
        f"| {row.model} | {row.retained} | {row.published_tera:.1f} | {row.computed_tera:.2f} "
        f"| {100 * row.difference:+.1f} % |"
    )
