"""Profiles and evaluations as pictures (extra `plot`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.config import SEATS
from seats_cli.errors import UsageError
from seats_cli.report.phrases import format_factor, split_label, time_words
from seats_cli.report.profile_table import LABELS
from seats_cli.results import NO_RATIO, STAGES

if TYPE_CHECKING:
    from seats_cli.evaluate.summary import SettingSummary, Summary
    from seats_cli.results import Profile


FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's palette, which colour-blind readers tell apart.
_BLUE, _SKY, _GREEN, _ORANGE = "#0072b2", "#56b4e9", "#009e73", "#e69f00"
_VERMILION, _PURPLE, _BLACK = "#d55e00", "#cc79a7", "#000000"
_STAGE_COLOURS = {
    "processor": "#b0b0b0",  # grey for what is not the model
    "vision": _BLUE,
    "audio": _SKY,
    "stage1": _ORANGE,
    "prefill": _GREEN,
    "stage2": _VERMILION,
    "rest": "#dddddd",
}
_SHARE_COLOURS = (_BLUE, _VERMILION, _GREEN, _PURPLE, _ORANGE, _SKY)
# Of the points of a profile: each stage has one for each setting of the encoders.
_STAGE_MARKERS = {
    "first_token": ("o", "^", "D", "v", "P", "X"),
    "prefill_and_selection": ("s", "p", "*", "h", "d", "8"),
}
_LINES = ("-", "--", ":", "-.")
_SHIFT = 1.8  # per cent of the tokens between settings of the encoders
_SHORT = 13  # longest label of which four stand above half of the picture
_KEPT_LABEL = "audio-visual tokens kept, mean over layers (%)"


def check_plot(path: Path) -> None:
    """Refuse a picture that could not be written, before anything is measured.

    Raises
    ------
    UsageError
        If matplotlib is missing, the extension is unknown, or the folder does not exist.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"The plot {path} must end in {', '.join(FORMATS)}.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"The folder of the plot {path} does not exist.")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "A plot needs matplotlib, which is not installed: pip install 'seats-cli[plot]'."
        ) from None


def plot_profile(profile: Profile, path: Path) -> None:
    """Write the picture as a .png, .svg or .pdf file, which is replaced.

    Raises
    ------
    UsageError
        As `check_plot`, and if the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    runs = len(profile.runs) + (profile.full is None)
    figure = Figure(figsize=(11, 5.6 + 0.34 * runs), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[0.9 + 0.3 * runs, 3])
    _stages(figure.add_subplot(grid[0, :]), profile)
    _alive(figure.add_subplot(grid[1, 0]), profile)
    _pareto(figure.add_subplot(grid[1, 1]), profile)
    name = profile.media.path.rsplit("/", 1)[-1]
    figure.suptitle(f"{name}, {profile.model.id}, {profile.model.device}", fontsize=11)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"The plot {path} cannot be written: {error.strerror}.") from error


def _finish(axes: Any, legend_columns: int) -> None:
    """Hide the upper and right spine, and put the legend above the axes."""
    axes.spines[["top", "right"]].set_visible(False)
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
    axes.legend(ncols=legend_columns, fontsize=8, frameon=False, **place)


def _styles(profile: Profile) -> list[tuple[str, str]]:
    """Colour by share and line by method of each run; black for the unpruned one."""
    shares = list(dict.fromkeys(run.retain for run in profile.pruned))
    methods = list(dict.fromkeys(run.method for run in profile.pruned))
    styles = [] if profile.full is None else [(_BLACK, "-")]
    for run in profile.pruned:
        colour = _SHARE_COLOURS[shares.index(run.retain) % len(_SHARE_COLOURS)]
        styles.append((colour, _LINES[methods.index(run.method) % len(_LINES)]))
    return styles


def _stages(axes: Any, profile: Profile) -> None:
    """Stacked bars of the stages up to the first token, one bar for each run."""
    labels = [run.label for run in profile.runs]
    if profile.full is None:
        axes.barh(["full"], [0.0])
    left = [0.0] * len(labels)
    for stage in STAGES:
        widths = [max(run.times[stage].median_s, 0.0) for run in profile.runs]
        axes.barh(labels, widths, left=left, color=_STAGE_COLOURS[stage], label=LABELS[stage])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    longest = max(left)
    texts = [(0.0, NO_RATIO)] if profile.full is None else []
    for run, end in zip(profile.runs, left, strict=True):
        factor = run.speed_up(profile.full, "first_token") if run is not profile.full else None
        text = time_words(run.times["first_token"].median_s)
        texts.append((end, f"{text}, {format_factor(factor)}" if factor else text))
    for row, (end, text) in enumerate(texts):
        axes.text(end + 0.008 * longest, row, text, va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * longest)
    axes.set_xlabel("seconds to the first token, medians")
    _finish(axes, len(STAGES))


def _alive(axes: Any, profile: Profile) -> None:
    """Tokens that each decoder layer processes, once for all runs of a method that keep as many."""
    from matplotlib.ticker import MaxNLocator

    drawn: list[tuple[str, list[int]]] = []
    for run, (colour, line) in zip(profile.runs, _styles(profile), strict=True):
        totals = [sum(counts) for counts in run.alive]
        one = (run.method, totals)
        if one in drawn:  # what the encoders skip changes no count: it would lie on the others
            continue
        drawn.append(one)
        axes.step(
            range(1, len(totals) + 1),
            totals,
            where="mid",
            label=run.label,
            color=colour,
            linestyle=line,
        )
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("decoder layer")
    axes.set_ylabel("tokens alive")
    longest = max(len(label) for label in axes.get_legend_handles_labels()[1])
    _finish(axes, 4 if longest <= _SHORT else 2)


def _pareto(axes: Any, profile: Profile) -> None:
    """Times with their p10 to p90 against the tokens kept; a marker for what encoders skip."""
    encoders = [split_label(run.label)[1].strip() for run in profile.runs]
    known = list(dict.fromkeys(encoders))
    named: set[str] = set()
    for stage, markers in _STAGE_MARKERS.items():
        for run, skips, (colour, line) in zip(
            profile.runs, encoders, _styles(profile), strict=True
        ):
            label = f"{LABELS[stage]}, {skips}" if skips else LABELS[stage]
            value = run.times[stage]
            kept = 100 * (1.0 if run.average_retention is None else run.average_retention)
            place = known.index(skips)
            axes.errorbar(
                # Shifted a little, so that equal times do not hide each other.
                kept + _SHIFT * (place - (len(known) - 1) / 2),
                value.median_s,
                yerr=[[value.median_s - value.p10_s], [value.p90_s - value.median_s]],
                marker=markers[place % len(markers)],
                color=colour,
                markerfacecolor=colour if line == "-" else "white",
                linestyle="none",
                capsize=3,
                label=None if label in named else label,
            )
            named.add(label)
    axes.set_xlim(0, 106)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(_KEPT_LABEL)
    axes.set_ylabel("seconds")
    _finish(axes, 2)


# Colours of methods; markers tell apart those whose colour repeats.
_COLOURS = (_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY, "#8c6d1f", "#7f7f7f")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p")
_OWN = SEATS
_BUDGET = re.compile(r"\s*\d+(?:\.\d+)?\s?%")


def plot_evaluation(summary: Summary, path: Path) -> None:
    """Write the picture: a line for each method (and variant), a point for each budget.

    Raises
    ------
    UsageError
        As `check_plot`, if no setting has an answer, and if the file cannot be written.
    """
    check_plot(path)
    lines = _lines(summary)
    if not lines and _accuracy(summary.full) is None:
        raise UsageError("There is nothing to plot: no question was answered.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    _full(axes, summary.full)
    for number, (name, settings) in enumerate(lines.items()):
        _line(axes, name, settings, number, len(lines))
    axes.set_xlim(left=0)
    axes.set_xlabel(_KEPT_LABEL)
    axes.set_ylabel("accuracy (%), 95 % intervals")
    axes.set_title(
        f"{summary.name}: {summary.items:,} questions, {summary.clips:,} clips", fontsize=11
    )
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    _save(figure, path)


def _lines(summary: Summary) -> dict[str, list[SettingSummary]]:
    """Answered settings that have a place on the axis, grouped by all but their budget.

    This tool's own method comes last, and hence is drawn on top.
    """
    found: dict[str, list[SettingSummary]] = {}
    for setting in summary.settings:
        if setting is summary.full or setting.overall.accuracy is None:
            continue
        if setting.cost.average_retention is not None:
            plain, skips = split_label(setting.label)
            name = (_BUDGET.sub("", plain).strip() or setting.method) + skips
            found.setdefault(name, []).append(setting)
    ordered = sorted(found, key=lambda name: name == _OWN)
    return {name: sorted(found[name], key=_kept) for name in ordered}


def _kept(setting: SettingSummary) -> float:
    return 100 * (setting.cost.average_retention or 0.0)


def _accuracy(setting: SettingSummary | None) -> float | None:
    if setting is None or setting.overall.accuracy is None:
        return None
    return 100 * setting.overall.accuracy.value


def _full(axes: Any, full: SettingSummary | None) -> None:
    """The unpruned model as a line with a band."""
    if full is None or full.overall.accuracy is None:
        return
    estimate = full.overall.accuracy
    if estimate.interval is not None:
        low, high = estimate.interval
        axes.axhspan(100 * low, 100 * high, color=_BLACK, alpha=0.08, linewidth=0)
    axes.axhline(100 * estimate.value, color=_BLACK, linewidth=1.2, label="full")


def _line(axes: Any, name: str, settings: list[SettingSummary], number: int, names: int) -> None:
    """One line; a setting with errors is hollow, because it answered fewer questions."""
    own = name == _OWN
    colour = _VERMILION if own else _COLOURS[number % len(_COLOURS)]
    estimates = [setting.overall.accuracy for setting in settings]
    values = [100 * estimate.value for estimate in estimates if estimate is not None]
    ends = [one.interval or (one.value, one.value) for one in estimates if one is not None]
    below = [value - 100 * low for value, (low, _) in zip(values, ends, strict=True)]
    above = [100 * high - value for value, (_, high) in zip(values, ends, strict=True)]
    # Shifted a little, so that intervals at equal budgets do not hide each other.
    shift = 0.0 if own else 0.12 * (number - names / 2)
    places = [_kept(setting) + shift for setting in settings]
    axes.errorbar(
        places,
        values,
        yerr=[below, above],
        color=colour,
        linestyle="-" if own else _LINES[(number // len(_COLOURS)) % len(_LINES)],
        linewidth=2.2 if own else 1.1,
        elinewidth=1.6 if own else 0.7,
        capsize=3 if own else 2,
        zorder=3 if own else 2,
    )
    marker = "o" if own else _MARKERS[(number + 1) % len(_MARKERS)]
    for hollow in (False, True):
        at = [k for k, setting in enumerate(settings) if (setting.overall.errors > 0) is hollow]
        if at:
            axes.plot(
                [places[k] for k in at],
                [values[k] for k in at],
                linestyle="none",
                marker=marker,
                markersize=7 if own else 5.5,
                color=colour,
                markerfacecolor="white" if hollow else colour,
                label=f"{name} (some errors)" if hollow else name,
                zorder=4 if own else 2.5,
            )
