"""A profile as a picture: stages, tokens alive in each layer, time against tokens kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.errors import UsageError
from seats_cli.measurements import NO_RATIO, STAGES
from seats_cli.report.profile_table import LABELS, format_factor, time_words

if TYPE_CHECKING:
    from seats_cli.measurements import Profile

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's palette, which colour-blind readers tell apart; grey for what is no stage.
_STAGE_COLOURS = {
    "processor": "#b0b0b0",
    "vision": "#0072b2",
    "audio": "#56b4e9",
    "stage1": "#e69f00",
    "prefill": "#009e73",
    "stage2": "#d55e00",
    "rest": "#dddddd",
}
_SHARE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_METHOD_LINES = ("-", "--", ":", "-.")


def check_plot(path: Path) -> None:
    """Refuse a picture that could not be written, before anything is measured.

    Raises
    ------
    UsageError
        If matplotlib is missing, the extension is unknown, or the folder does not exist.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--plot {path} must end in {', '.join(FORMATS)}.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: the folder does not exist.")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "--plot needs matplotlib, which is not installed: pip install 'seats-cli[plot]'."
        ) from None


def plot_profile(profile: Profile, path: Path) -> None:
    """Write the picture.

    Parameters
    ----------
    profile : Profile
    path : Path
        A .png, .svg or .pdf file; it is replaced.

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
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise UsageError(f"--plot {path} cannot be written: {error.strerror}.") from error


def _styles(profile: Profile) -> list[tuple[str, str]]:
    """Colour by share and line by method of each run; black for the unpruned one."""
    shares = list(dict.fromkeys(run.retain for run in profile.pruned))
    methods = list(dict.fromkeys(run.method for run in profile.pruned))
    styles = [] if profile.full is None else [("#000000", "-")]
    for run in profile.pruned:
        colour = _SHARE_COLOURS[shares.index(run.retain) % len(_SHARE_COLOURS)]
        styles.append((colour, _METHOD_LINES[methods.index(run.method) % len(_METHOD_LINES)]))
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
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        ncols=len(STAGES), fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1)
    )


def _alive(axes: Any, profile: Profile) -> None:
    """Tokens that each decoder layer processes."""
    from matplotlib.ticker import MaxNLocator

    for run, (colour, line) in zip(profile.runs, _styles(profile), strict=True):
        totals = [sum(counts) for counts in run.alive]
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
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=4, fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))


def _pareto(axes: Any, profile: Profile) -> None:
    """Times with their p10 to p90 against the audio-visual tokens kept."""
    for stage, marker in (("first_token", "o"), ("prefill_and_selection", "s")):
        for run, (colour, line) in zip(profile.runs, _styles(profile), strict=True):
            value = run.times[stage]
            kept = 100 * (1.0 if run.average_retention is None else run.average_retention)
            axes.errorbar(
                kept,
                value.median_s,
                yerr=[[value.median_s - value.p10_s], [value.p90_s - value.median_s]],
                marker=marker,
                color=colour,
                markerfacecolor=colour if line == "-" else "white",
                linestyle="none",
                capsize=3,
                label=LABELS[stage] if run is profile.runs[0] else None,
            )
    axes.set_xlim(0, 105)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("audio-visual tokens kept, mean over layers (%)")
    axes.set_ylabel("seconds")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=2, fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
