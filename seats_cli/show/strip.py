"""What was kept over time, as a few lines of text for a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from seats_cli.report.phrases import format_percent
from seats_cli.show.record import AUDIO, VIDEO, RunRecord

Floats = npt.NDArray[np.floating]

_BLOCKS, _DIGITS = "·▁▂▃▄▅▆▇█", "0123456789"
_LABEL, _MEAN = 7, 10  # columns to the left and to the right
_MOST = 8  # columns of one window
_WINDOW_GRIDS, _WINDOW_S = 2, 2.0


@dataclass(frozen=True, eq=False)
class _Row:
    """Tokens of one modality: the seconds they cover and the share of layers that process them."""

    name: str
    start: Floats
    end: Floats
    share: Floats

    def means(self, edges: Floats) -> Floats:
        """Mean share between each two edges in seconds; NaN where there is no token."""
        found = [
            self.share[(self.start < right - 1e-6) & (self.end > left + 1e-6)]
            for left, right in pairwise(edges.tolist())
        ]
        return np.array([share.mean() if len(share) else np.nan for share in found])


def strip(record: RunRecord, width: int, *, unicode: bool) -> list[str]:
    """Lines of a strip with one row for each modality.

    A window is as long as one of the selection: two temporal grids, or two seconds without
    video. It is divided into a few columns, whose height is the share of their tokens that is
    alive, averaged over the layers, relative to the highest of the row.

    Parameters
    ----------
    width : int
        Columns of the terminal; windows are merged if the strip would not fit otherwise.
    unicode : bool
        Whether block characters can be shown; otherwise digits from 0 to 9 are.
    """
    rows = [_row(record, *which) for which in (("video", VIDEO), ("audio", AUDIO))]
    rows = [row for row in rows if len(row.share)]
    if not rows:
        return ["Kept   neither video nor audio tokens were offered"]
    window_s = record.grid.seconds * _WINDOW_GRIDS if record.grid else _WINDOW_S
    total_s = max(float(row.end[-1]) for row in rows)
    count = max(1, int(np.ceil(total_s / window_s - 1e-6)))
    room = max(width - _LABEL - _MEAN, 8)
    together = -(-count // room)
    count, window_s = -(-count // together), window_s * together
    columns = min(_MOST, max(1, (room + 1) // count - 1))
    border = ("│" if unicode else "|") if columns > 1 else ""
    edges = np.linspace(0, count * window_s, count * columns + 1)
    words = f"{count} windows of {window_s:.3g} s" if count > 1 else "one window"
    lines, tops = [f"{'Kept':{_LABEL}}{words}, 0 to {total_s:.4g} s"[:width]], []
    for row in rows:
        means = row.means(edges)
        top = float(np.nanmax(means))
        marks = _marks(means, top, _BLOCKS if unicode else _DIGITS)
        windows = [marks[at : at + columns] for at in range(0, len(marks), columns)]
        mean = format_percent(float(row.share.mean()))
        lines.append(f"{row.name:{_LABEL}}{border.join(windows)}{mean:>{_MEAN}}")
        tops.append(f"{row.name} {format_percent(top)}")
    if record.evidence:
        lines.append(f"{'rests':{_LABEL}}{border.join(_ranks(record, edges, columns))}")
    scale = "full block" if unicode else "9"
    lines.append(f"       mean over layers; {scale}: {', '.join(tops)}"[:width])
    if record.evidence:
        lines.append(
            "       1 is the strongest evidence that the answer rests on, 2 the next"[:width]
        )
    return lines


def _ranks(record: RunRecord, edges: Floats, columns: int) -> list[str]:
    """Of each window, a character for each column: the rank of the strongest evidence in it."""
    marks = [" "] * (len(edges) - 1)
    for rank, piece in reversed(list(enumerate(record.evidence_in_clip, 1))):
        inside = (edges[:-1] < piece.end_s - 1e-3) & (edges[1:] > piece.start_s + 1e-3)
        for at in np.flatnonzero(inside).tolist():
            marks[at] = str(rank)
    return ["".join(marks[at : at + columns]) for at in range(0, len(marks), columns)]


def _row(record: RunRecord, name: str, code: int) -> _Row:
    share = record.layers_lived()[record.modality == code] / record.num_layers
    seconds = record.times.video if code == VIDEO else record.times.audio
    spans = np.array([seconds(at, at) for at in range(len(share))]).reshape(-1, 2)
    return _Row(name, spans[:, 0], spans[:, 1], share)


def _marks(means: Floats, top: float, marks: str) -> str:
    """A character for each mean: blank without tokens, the lowest mark where all are dropped."""
    out = []
    for mean in means.tolist():
        if np.isnan(mean):
            out.append(" ")
        elif mean <= 0:
            out.append(marks[0])
        else:
            out.append(marks[max(1, round((len(marks) - 1) * mean / top))])
    return "".join(out)
