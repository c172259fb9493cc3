"""A plan as a table, and the paper's FLOP figures beside ours; fits 80 columns."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.cost.memory import CARDS
from seats_cli.cost.paper import paper_table
from seats_cli.report.columns import Column, columns, facts, markdown, table
from seats_cli.report.phrases import (
    UNPRUNED,
    audio_phrase,
    cost_row,
    file_name,
    format_bytes,
    format_percent,
    format_ratio,
    format_seconds,
    format_si,
    frames_phrase,
    kept_phrase,
    schedule_phrase,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seats_cli.cost.estimate import PlannedRun


def plan_report(planned: PlannedRun, *, memory: bool = False) -> RenderableType:
    """Clip, model, tokens by layer, cost, and where asked for the memory of GPUs."""
    parts = facts(_facts(planned)), Text(), _layers(planned), Text(), _costs(planned)
    asked = (Text(), *_memory(planned)) if memory else ()
    return Group(*parts, *asked)


def windows_line(sizes: Sequence[int], unit: str) -> str:
    """How many windows of which size: "6 windows of 598 video tokens"."""
    if not sizes:
        return f"no {unit} tokens"
    parts = [f"{count} of {size:,}" for size, count in Counter(sizes).most_common()]
    noun = "window" if len(sizes) == 1 else "windows"
    return f"{len(sizes)} {noun} of {unit} tokens: {', '.join(parts)}"


def _facts(planned: PlannedRun) -> list[tuple[str, str]]:
    media, shape, plan = planned.media, planned.model.architecture, planned.plan
    clip = (
        file_name(media.path),
        format_seconds(media.duration_s),
        frames_phrase(media, planned.effective_fps),
        audio_phrase(media),
    )
    schedule = UNPRUNED
    if plan is not None:
        schedule = (
            f"{schedule_phrase(plan.drop_layers, plan.late_layer)}, {plan.config.kv} KV cache"
        )
    video, audio, text = planned.offered
    use = planned.context
    share = format_ratio(use.tokens, use.limit)
    return [
        ("Clip", ", ".join(clip)),
        ("Model", f"{planned.model.name} ({shape.family}, {shape.num_layers} layers)"),
        (
            "Prompt",
            f"{planned.prompt_tokens:,} tokens: {video:,} video, {audio:,} audio, "
            f"about {text:,} text",
        ),
        (
            "Context",
            f"{use.tokens:,} of {use.limit:,} ({share}): what enters the LLM, and the answer; "
            f"positions up to {use.largest_position:,}",
        ),
        ("Stage I", windows_line(planned.video_windows, "video")),
        ("", windows_line(planned.audio_windows, "audio")),
        ("Plan", schedule),
    ]


def _layers(planned: PlannedRun) -> Table:
    video, audio, _ = planned.offered
    rows = [("offered", *(f"{count:,}" for count in (*planned.offered, planned.prompt_tokens)))]
    first = 1
    for counts, group in groupby(planned.alive):
        last = first + len(list(group)) - 1
        rows.append(
            (
                f"in layers {first} to {last}" if last > first else f"in layer {first}",
                kept_phrase(counts[0], video),
                kept_phrase(counts[1], audio),
                f"{counts[2]:,}",
                f"{sum(counts):,}",
            )
        )
        first = last + 1
    mean = f"{format_percent(planned.average_retention)} a+v"
    rows.append(("mean over layers", "", "", "", mean))
    return table(columns("Tokens", "video", "audio", "text", "total"), rows)


def _costs(planned: PlannedRun) -> Table:
    bits, encoders = 8 * planned.bytes_per_value, format_si(planned.encoder_flops)
    paper, paper_full = planned.paper_prefill_macs, planned.paper_full_prefill_macs
    memory, memory_full = planned.activation_bytes, planned.full_activation_bytes
    rows = [
        cost_row("LLM prefill FLOPs", planned.full_prefill_flops, planned.prefill_flops, format_si),
        cost_row("paper's count", paper_full, paper, format_si),
        cost_row(f"KV cache, {bits} bit", planned.full_kv_bytes, planned.kv_bytes, format_bytes),
        cost_row(f"activations, {bits} bit, about", memory_full, memory, format_bytes),
    ]
    rows.append(("encoder FLOPs", encoders, encoders, ""))
    rows.append(("selection FLOPs", "", format_si(planned.selection_flops), ""))
    return table(columns("Cost", "full", "pruned", "ratio"), rows)


def _memory(planned: PlannedRun) -> list[RenderableType]:
    """Where memory goes with the decoder's weights in 16 bits and less, and the GPUs it fits on."""
    memory, needs = planned.memory, planned.memory.needs
    kept = "pruned" if planned.plan is not None else f"at {100 * memory.retain:.0f} %"
    same = (
        ("encoders, peak", memory.encoder_bytes),
        ("prefill, full", memory.full_activation_bytes),
        (f"prefill, {kept}", memory.activation_bytes),
        ("KV cache, full", memory.full_kv_bytes),
        (f"KV cache, {kept}", memory.kv_bytes),
    )
    rows: list[Sequence[str]] = [
        ("weights", *(format_bytes(need.weight_bytes) for need in needs)),
        *((label, *[format_bytes(size)] * len(needs)) for label, size in same),
        ("peak, full", *(format_bytes(need.full_peak_bytes) for need in needs)),
        (f"peak, {kept}", *(format_bytes(need.peak_bytes) for need in needs)),
    ]
    for at, card in enumerate(CARDS):
        fits = (_fits(need.full_fits[at], need.fits[at]) for need in needs)
        rows.append((f"on {card} GB", *fits))
    headers = (f"{need.bits} bit" for need in needs)
    shown: list[RenderableType] = [table(columns("Memory", *headers, wraps=True), rows)]
    if memory.note:
        shown.append(Text(memory.note))
    return shown


def _fits(full: bool, pruned: bool) -> str:
    return "fits" if full else "pruned" if pruned else "no"


def paper_markdown() -> str:
    """One row for each model and budget, in the paper's unit: 1e12 multiply-adds.

    64 video grids of 132 tokens, 128 s of sound and 120 text tokens; LLM prefill alone.
    """
    specification = (
        Column("model", attrgetter("model"), text=True),
        Column("tokens kept", attrgetter("retained")),
        Column("paper", attrgetter("published_tera"), "{:.1f}".format),
        Column("seats", attrgetter("computed_tera"), "{:.2f}".format),
        Column("difference", lambda row: 100 * row.difference, "{:+.1f} %".format),
    )
    return markdown(specification, paper_table())
