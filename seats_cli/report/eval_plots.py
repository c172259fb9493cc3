"""Accuracy against tokens kept, with intervals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.errors import UsageError
from seats_cli.report.plots import check_plot

if TYPE_CHECKING:
    from seats_cli.evaluate.findings import SettingSummary, Summary

# Okabe and Ito's palette, which colour-blind readers tell apart; markers tell apart what repeats.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8c6d1f", "#7f7f7f")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p")
_LINES = ("-", "--", ":", "-.")
_OWN = "seats"
_OWN_COLOUR = "#d55e00"
_BUDGET = re.compile(r"\s*\d+(?:\.\d+)?\s?%")


def plot_evaluation(summary: Summary, path: Path) -> None:
    """Write the picture: a line for each method (and variant), a point for each budget.

    Parameters
    ----------
    summary : Summary
    path : Path
        A .png, .svg or .pdf file; it is replaced.

    Raises
    ------
    UsageError
        As `check_plot`, if no setting has an answer, and if the file cannot be written.
    """
    check_plot(path)
    lines = _lines(summary)
    if not lines and _accuracy(summary.full) is None:
        raise UsageError("--plot has nothing to show: no question was answered.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 5.5), layout="constrained")
    axes = figure.add_subplot()
    _full(axes, summary.full)
    for number, (name, settings) in enumerate(lines.items()):
        _line(axes, name, settings, number, len(lines))
    axes.set_xlim(left=0)
    axes.set_xlabel("audio-visual tokens kept, mean over layers (%)")
    axes.set_ylabel("accuracy (%), 95 % intervals")
    axes.set_title(
        f"{summary.name}: {summary.items:,} questions, {summary.clips:,} clips", fontsize=11
    )
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"--plot {path} cannot be written: {error.strerror}.") from error


def _lines(summary: Summary) -> dict[str, list[SettingSummary]]:
    """Settings that differ only in budget, by name; those with an answer and a place on the axis.

    This tool's method is last, and hence on top.
    """
    found: dict[str, list[SettingSummary]] = {}
    for setting in summary.settings:
        if setting is summary.full or setting.overall.accuracy is None:
            continue
        if setting.cost.average_retention is not None:
            name = _BUDGET.sub("", setting.label).strip() or setting.method
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
    axes.axhspan(100 * estimate.low, 100 * estimate.high, color="#000000", alpha=0.08, linewidth=0)
    axes.axhline(100 * estimate.value, color="#000000", linewidth=1.2, label="full")


def _line(axes: Any, name: str, settings: list[SettingSummary], number: int, names: int) -> None:
    """One line; points of settings with errors are hollow, since they answered other questions."""
    own = name == _OWN
    colour = _OWN_COLOUR if own else _COLOURS[number % len(_COLOURS)]
    estimates = [setting.overall.accuracy for setting in settings]
    values = [100 * estimate.value for estimate in estimates if estimate is not None]
    below = [100 * (one.value - one.low) for one in estimates if one is not None]
    above = [100 * (one.high - one.value) for one in estimates if one is not None]
    # A hair apart, so that intervals at equal budgets can be told apart.
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
    partial = [setting.overall.errors > 0 for setting in settings]
    for hollow in (False, True):
        chosen = [index for index, value in enumerate(partial) if value is hollow]
        if chosen:
            axes.plot(
                [places[index] for index in chosen],
                [values[index] for index in chosen],
                linestyle="none",
                marker=marker,
                markersize=7 if own else 5.5,
                color=colour,
                markerfacecolor="white" if hollow else colour,
                label=f"{name} (some errors)" if hollow else name,
                zorder=4 if own else 2.5,
            )
