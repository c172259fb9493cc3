"""A profile as a table and as the sentence that matters; fits 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.report.format import (
    NOT_AVAILABLE,
    format_bytes,
    format_percent,
    format_seconds,
    format_si,
)
from seats_cli.results import NO_RATIO, READING, STAGES, TOTALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seats_cli.results import MeasuredRun, Profile, Spread


LABELS = {
    "probe": "probe",
    "media_decode": "media decode",
    "processor": "processor",
    "vision": "vision encoder",
    "audio": "audio encoder",
    "stage1": "Stage I",
    "prefill": "LLM prefill",
    "stage2": "Stage II",
    "rest": "rest",
    "prefill_and_selection": "prefill + select",
    "first_token": "first token",
    "decode_per_token": "decode per token",
    "total": "end to end",
}
_SUMS = ("prefill_and_selection", "first_token", "total")
# Within this of 1 a factor says nothing about two runs on a machine that does other work too.
_EVEN = 0.02
RUNS_PER_TABLE = 3  # beside the unpruned one, in 80 columns
_SHORT = 13  # characters of labels with which that many fit, and spreads beside them


def sentence(run: MeasuredRun, full: MeasuredRun | None) -> str:
    """What a run gains over the unpruned one, and what is left: one line."""
    if full is None:
        parts = [f"{run.label}: prefill {_seconds(run, 'prefill_and_selection')}"]
        rest = f"first token {_seconds(run, 'first_token')}"
        share = "the encoders are {:.0f} % of the time"
    else:
        prefill = run.speed_up(full, "prefill_and_selection")
        parts = [f"{run.label}: prefill {factor_words(prefill)}"]
        if prefill is not None and run.flops_ratio > 1:
            parts[0] += f", {100 * prefill / run.flops_ratio:.0f} % of what the FLOPs allow"
        rest = f"first token {factor_words(run.speed_up(full, 'first_token'))}"
        share = "the encoders are now {:.0f} % of the time"
    if run.encoder_share is not None:
        rest += ": " + share.format(100 * run.encoder_share)
    if full is not None and _is_slower(run, full) and run.selection_share is not None:
        rest += f", and selection {100 * run.selection_share:.0f} % of the prefill"
    return "; ".join([*parts, rest, *([NO_RATIO] if full is None else [])])


def _seconds(run: MeasuredRun, stage: str) -> str:
    return time_words(run.times[stage].median_s)


def _is_slower(run: MeasuredRun, full: MeasuredRun) -> bool:
    prefill = run.speed_up(full, "prefill_and_selection")
    return prefill is not None and prefill < 1 - _EVEN


def factor_words(factor: float | None) -> str:
    """A speed-up in words: "2.7x faster", "1.3x slower", "as fast"."""
    if factor is None or factor <= 0:
        return NOT_AVAILABLE
    if factor >= 1 + _EVEN:
        return f"{format_factor(factor)} faster"
    if factor <= 1 - _EVEN:
        return f"{format_factor(1 / factor)} slower"
    return "as fast"


def format_factor(factor: float | None) -> str:
    """A factor with two significant digits, `6.9x`."""
    if factor is None:
        return NOT_AVAILABLE
    return f"{factor:.2f}x" if factor < 0.995 else f"{factor:.{1 if factor < 9.95 else 0}f}x"


def profile_report(profile: Profile) -> RenderableType:
    """Facts, stages, prefill by layers, cost, and one sentence for each pruned run."""
    parts: list[RenderableType] = [_facts(profile)]
    first = () if profile.full is None else (profile.full,)
    # Every table is the unpruned run, if it fits, beside as many others as there is room for.
    room = RUNS_PER_TABLE if _all_short(profile.pruned) else RUNS_PER_TABLE - 1
    for start in range(0, max(len(profile.pruned), 1), room):
        group = (*first, *profile.pruned[start : start + room])
        parts += [Text(), _stages(profile, group), Text(), _segments(group)]
        parts += [Text(), _costs(group)]
    parts.append(Text())
    parts += [Text(sentence(run, profile.full), style="bold") for run in profile.pruned]
    parts += [
        Text(f"{run.label}: could not run. {run.error}", style="yellow") for run in profile.failed
    ]
    return Group(*parts)


def _all_short(runs: Sequence[MeasuredRun]) -> bool:
    return all(len(run.label) <= _SHORT for run in runs)


def _facts(profile: Profile) -> Table:
    media, model = profile.media, profile.model
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    frames = "no video"
    if media.frames_used:
        frames = f"{media.frames_used} frames {media.width}x{media.height}"
    sound = f"{media.audio_used_s:.1f} s of sound" if media.audio_used_s else "no sound"
    video, audio, text = profile.offered
    size = format_si(model.parameters).replace(" ", "")
    threads = f", {profile.threads} thread{'s' * (profile.threads != 1)}"
    threads = threads if model.device == "cpu" else ""
    for name, line in (
        ("Clip", f"{media.path.rsplit('/', 1)[-1]}, {frames}, {sound}"),
        ("Tokens", f"{video:,} video, {audio:,} audio, {text:,} text"),
        (
            "Model",
            f"{model.id} ({size} parameters), {model.device}{threads}, {model.dtype}, "
            f"{model.attention}, loaded in {format_seconds(profile.load_s)}",
        ),
        (
            "Runs",
            f"median of {profile.repeats} in turn after {profile.warm_ups} to warm up, "
            f"stages by {profile.clock}",
        ),
    ):
        grid.add_row(name, Text(line))
    return grid


def _stages(profile: Profile, group: tuple[MeasuredRun, ...]) -> Table:
    """Medians and speed-ups; with a single run beside the unpruned one, also p10 to p90."""
    table = _table("Stage")
    detailed, full = len(group) <= 2 and _all_short(group), profile.full
    for run in group:
        table.add_column(run.label, justify="right", no_wrap=True)
        if detailed:
            table.add_column("p10 to p90", justify="right", no_wrap=True, style="dim")
        if full is not None and run is not full:
            table.add_column("", justify="right", no_wrap=True)
    for name in (*(name for name in READING if name in profile.reading), *STAGES, *TOTALS):
        cells = []
        for run in group:
            value = profile.reading.get(name) or run.times[name]
            cells.append(time_words(value.median_s))
            if detailed:
                cells.append(_range(value))
            if full is not None and run is not full:
                factor = run.speed_up(full, name) if name in run.times else None
                cells.append(format_factor(factor) if factor else "")
        style = "bold" if name in _SUMS else None
        table.add_row(LABELS[name], *cells, style=style)
    return table


def time_words(seconds: float) -> str:
    """A duration, with a digit more than reports of single answers have below 10 ms."""
    if 0 < seconds < 0.00995:
        return f"{1000 * seconds:.1f} ms"
    return format_seconds(seconds) if seconds else "-"


def _range(value: Spread) -> str:
    if not value.p90_s:
        return ""
    if value.p90_s < 0.0995:
        digits = 1 if value.p90_s < 0.00995 else 0
        return f"{1000 * value.p10_s:.{digits}f} to {1000 * value.p90_s:.{digits}f} ms"
    digits = 2 if value.p90_s < 9.995 else 1
    return f"{value.p10_s:.{digits}f} to {value.p90_s:.{digits}f} s"


def _segments(group: tuple[MeasuredRun, ...]) -> Table:
    """Tokens and seconds of each part of the prefill."""
    table = _table("Layers")
    for run in group:
        table.add_column(run.label, justify="right", no_wrap=True)
    for number, segment in enumerate(group[0].segments):
        cells = []
        for run in group:
            own = run.segments[number]
            cells.append(f"{own.tokens:,} {time_words(own.time.median_s):>7}")
        first, last = segment.first_layer, segment.last_layer
        table.add_row(f"{first} to {last}" if last > first else f"{first}", *cells)
    return table


def _costs(group: tuple[MeasuredRun, ...]) -> Table:
    table = _table("Cost")
    for run in group:
        table.add_column(run.label, justify="right", no_wrap=True)

    def row(label: str, cells: list[str]) -> None:
        table.add_row(label, *cells)

    row("audio-visual kept", [format_percent(run.average_retention) for run in group])
    row("LLM prefill FLOPs", [format_si(run.cost.prefill_flops) for run in group])
    row("selection FLOPs", [format_si(run.cost.selection_flops) for run in group])
    row("encoder FLOPs", [format_si(run.cost.encoder_flops) for run in group])
    if any(run.cost.still is not None for run in group):
        row("picture encoded", [_encoded(run) for run in group])
    row("prefill FLOP/s", [format_si(run.achieved_flops_per_s) for run in group])
    row("KV cache", [format_bytes(run.cost.kv_bytes) for run in group])
    row("peak host memory", [format_bytes(run.cost.peak_host_bytes) for run in group])
    if any(run.cost.peak_gpu_bytes is not None for run in group):
        row("peak GPU memory", [format_bytes(run.cost.peak_gpu_bytes) for run in group])
    return table


def _encoded(run: MeasuredRun) -> str:
    """The share that Stage 0 left to the vision encoder."""
    still = run.cost.still
    return format_percent(1.0 if still is None else still.encoded_tokens / max(still.tokens, 1))


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(first, no_wrap=True)
    return table
