"""A profile as a table and as the sentence that matters; fits 80 columns."""

from __future__ import annotations

from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seats_cli.report.columns import Column, facts, table
from seats_cli.report.phrases import (
    NOT_AVAILABLE,
    audio_phrase,
    file_name,
    format_bytes,
    format_factor,
    format_percent,
    format_seconds,
    format_si,
    frames_phrase,
    name_phrase,
    precision_phrase,
    size_phrase,
    time_words,
)
from seats_cli.report.session_table import questions_report
from seats_cli.results import NO_RATIO, READING, STAGES, TOTALS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
# On a machine that does other work too, a factor this close to 1 is noise.
_EVEN = 0.02
# Longest labels of which three, or one with spreads, and of which two fit beside the unpruned run
# in 80 columns.
_SHORT, _LONG = 13, 20


def sentence(run: MeasuredRun, full: MeasuredRun | None) -> str:
    """What a run gains over the unpruned one, and what remains, in one line."""

    def gain(stage: str) -> str:
        if full is None:
            return time_words(run.times[stage].median_s)
        return factor_words(run.speed_up(full, stage))

    prefill = run.speed_up(full, "prefill_and_selection")
    line = f"{run.label}: prefill {gain('prefill_and_selection')}"
    if prefill is not None and run.flops_ratio > 1:
        line += f", {100 * prefill / run.flops_ratio:.0f} % of what the FLOPs allow"
    line += f"; first token {gain('first_token')}"
    if run.encoder_share is not None:
        now = "" if full is None else "now "
        line += f": the encoders are {now}{100 * run.encoder_share:.0f} % of the time"
    selection = 100 * (run.selection_share or 0.0)
    if prefill is not None and prefill < 1 - _EVEN and selection >= 0.5:  # shown as 1
        line += f", and selection {selection:.0f} % of the prefill"
    return f"{line}; {NO_RATIO}" if full is None else line


def factor_words(factor: float | None) -> str:
    """A speed-up in words: "2.7x faster", "1.3x slower", "as fast"."""
    if factor is None or factor <= 0:
        return NOT_AVAILABLE
    if factor >= 1 + _EVEN:
        return f"{format_factor(factor)} faster"
    if factor <= 1 - _EVEN:
        return f"{format_factor(1 / factor)} slower"
    return "as fast"


def profile_report(profile: Profile) -> RenderableType:
    """Facts, stages, prefill by layers, cost, and one sentence for each pruned run."""
    parts: list[RenderableType] = [facts(_facts(profile))]
    first = () if profile.full is None else (profile.full,)
    # Each table has the unpruned run, if it fits, and as many others as there is room for.
    longest = max((len(run.label) for run in profile.pruned), default=0)
    room = 3 if longest <= _SHORT else 2 if longest <= _LONG else 1
    for start in range(0, max(len(profile.pruned), 1), room):
        group = (*first, *profile.pruned[start : start + room])
        parts += [Text(), _stages(profile, group), Text(), _segments(group)]
        parts += [Text(), _costs(group)]
    parts += questions_report(profile.questions, profile.sessions, room + 1)
    parts.append(Text())
    parts += [Text(sentence(run, profile.full), style="bold") for run in profile.pruned]
    parts += [
        Text(f"{run.label}: could not run. {run.error}", style="yellow") for run in profile.failed
    ]
    parts += [Text(line, style="bold") for line in (bottleneck_sentence(profile),) if line]
    return Group(*parts)


def bottleneck_sentence(profile: Profile) -> str | None:
    """What now takes most of the time to the first token, in the run that is first to it.

    Reading the clip stands before the first token that is measured, and is named where it takes
    longer than that stage.
    """
    timed = [run for run in profile.runs if run.bottleneck is not None]
    if not timed:
        return None
    run = min(timed, key=lambda run: run.times["first_token"].median_s)
    found = run.bottleneck
    assert found is not None
    name, share = LABELS[found.stage], found.share_of_first_token
    line = f"Next bottleneck ({run.label}): {name}, {100 * share:.0f} % of the first token"
    reading = sum(spread.median_s for spread in profile.reading.values())
    if reading > run.times[found.stage].median_s:
        line += f"; reading the clip before it takes {format_seconds(reading)}"
    return line


def _all_short(runs: Sequence[MeasuredRun]) -> bool:
    return all(len(run.label) <= _SHORT for run in runs)


def _facts(profile: Profile) -> list[tuple[str, str]]:
    media, model = profile.media, profile.model
    video, audio, text = profile.offered
    threads = f", {profile.threads} thread{'s' * (profile.threads != 1)}"
    threads = threads if model.device == "cpu" else ""
    return [
        ("Clip", f"{file_name(media.path)}, {frames_phrase(media)}, {audio_phrase(media)}"),
        ("Tokens", f"{video:,} video, {audio:,} audio, {text:,} text"),
        (
            "Model",
            f"{name_phrase(model)} ({size_phrase(model.parameters)}), {model.device}{threads}, "
            f"{precision_phrase(model)}, {model.attention}, "
            f"loaded in {format_seconds(profile.load_s)}",
        ),
        (
            "Runs",
            f"median of {profile.repeats} in turn after {profile.warm_ups} to warm up, "
            f"stages by {profile.clock}",
        ),
    ]


def _stages(profile: Profile, group: tuple[MeasuredRun, ...]) -> Table:
    """Medians and speed-ups; with a single run beside the unpruned one, also p10 to p90."""

    detailed, full = len(group) <= 2 and _all_short(group), profile.full

    def columns(run: MeasuredRun) -> list[Column]:
        """Rows are the names of stages; all runs share the reading."""
        times = {**run.times, **profile.reading}
        found = [Column(run.label, lambda name: time_words(times[name].median_s))]
        if detailed:
            found.append(Column("p10 to p90", lambda name: _range(times[name]), style="dim"))
        if full is not None and run is not full:
            factors = {name: run.speed_up(full, name) for name in run.times}
            found.append(Column("", factors.get, format_factor, missing=""))
        return found

    specification = [Column("Stage", LABELS.get, text=True)]
    for run in group:
        specification += columns(run)
    names = (*(name for name in READING if name in profile.reading), *STAGES, *TOTALS)
    return table(specification, names, bold=lambda name: name in _SUMS)


def _range(value: Spread) -> str:
    if not value.p90_s:
        return ""
    if value.p90_s < 0.0995:
        digits = 1 if value.p90_s < 0.00995 else 0
        return f"{1000 * value.p10_s:.{digits}f} to {1000 * value.p90_s:.{digits}f} ms"
    digits = 2 if value.p90_s < 9.995 else 1
    return f"{value.p10_s:.{digits}f} to {value.p90_s:.{digits}f} s"


def _beside(
    first: str,
    group: tuple[MeasuredRun, ...],
    rows: Sequence[tuple[str, Callable[[MeasuredRun], str]]],
) -> Table:
    """A column for each run; a row is a label and what to show of a run."""

    def column(run: MeasuredRun) -> Column:
        return Column(run.label, lambda row: row[1](run))

    return table((Column(first, itemgetter(0), text=True), *map(column, group)), rows)


def _segments(group: tuple[MeasuredRun, ...]) -> Table:
    """Tokens and seconds of each part of the prefill."""

    def tokens_and_time(number: int, run: MeasuredRun) -> str:
        own = run.segments[number]
        return f"{own.tokens:,} {time_words(own.time.median_s):>7}"

    rows = []
    for number, segment in enumerate(group[0].segments):
        first, last = segment.first_layer, segment.last_layer
        label = f"{first} to {last}" if last > first else f"{first}"
        rows.append((label, partial(tokens_and_time, number)))
    return _beside("Layers", group, rows)


def _costs(group: tuple[MeasuredRun, ...]) -> Table:
    rows = [
        ("audio-visual kept", lambda run: format_percent(run.average_retention)),
        ("LLM prefill FLOPs", lambda run: format_si(run.cost.prefill_flops)),
        ("selection FLOPs", lambda run: format_si(run.cost.selection_flops)),
        ("encoder FLOPs", lambda run: format_si(run.cost.encoder_flops)),
        ("picture encoded", _encoded),
        ("picture carried", _carried),
        ("prefill FLOP/s", lambda run: format_si(run.achieved_flops_per_s)),
        ("KV cache", lambda run: format_bytes(run.cost.kv_bytes)),
        ("peak host memory", lambda run: format_bytes(run.cost.peak_host_bytes)),
        ("peak GPU memory", lambda run: format_bytes(run.cost.peak_gpu_bytes)),
    ]
    if all(run.cost.still is None for run in group):
        rows = [row for row in rows if row[0] != "picture encoded"]
    if all(run.cost.carried is None for run in group):
        rows = [row for row in rows if row[0] != "picture carried"]
    if all(run.cost.peak_gpu_bytes is None for run in group):
        rows = [row for row in rows if row[0] != "peak GPU memory"]
    return _beside("Cost", group, rows)


def _encoded(run: MeasuredRun) -> str:
    """The share of the tokens that the vision encoder computed with Stage 0."""
    still = run.cost.still
    return format_percent(1.0 if still is None else still.encoded_tokens / max(still.tokens, 1))


def _carried(run: MeasuredRun) -> str:
    """The share of the tokens that encoder reuse carried through all blocks."""
    carried = run.cost.carried
    if carried is None:
        return _encoded(run)
    return format_percent(carried.carried_tokens / max(carried.tokens, 1))
