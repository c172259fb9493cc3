"""The kept tokens as SVG rectangles, neighbours of one depth in one rectangle.

Rectangles are counted in tokens: the sum of their widths is the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:
    from seats_cli.show.depth import Depth
    from seats_cli.show.record import Ints


def runs(values: Ints) -> Iterable[tuple[int, int, int]]:
    """Start, length and value of each run of equal values, in order."""
    if not len(values):
        return []
    starts = np.r_[0, np.flatnonzero(np.diff(values)) + 1]
    lengths = np.diff(np.r_[starts, len(values)])
    return zip(starts.tolist(), lengths.tolist(), values[starts].tolist(), strict=True)


def mark_tokens(lived: Ints, depth: Depth) -> Markup:
    """One group for each depth that occurs, with a rectangle for each run of tokens.

    Parameters
    ----------
    lived : int64 array, shape (rows, columns)
        Decoder layers that process each token.
    depth : Depth
        For the level, and hence colour and pattern, of each depth.
    """
    groups = []
    for layers, places in _places(lived).items():
        level = depth.level_of(layers)
        drawn = "".join(
            f'<rect x="{column}" y="{row}" width="{width}" height="1"/>'
            for row, column, width in places
        )
        groups.append(_group("k", level.number, layers, drawn))
        if level.pattern:  # the same again
            groups.append(_group("p", level.pattern, layers, drawn))
    return Markup("".join(groups))  # numbers only


def mark_heights(lived: Ints, depth: Depth) -> Markup:
    """The same for one row of tokens, each as high as its level, up to 1."""
    groups = []
    for layers, places in _places(lived[None]).items():
        level = depth.level_of(layers)
        high = max(level.number / max(len(depth.levels) - 1, 1), 0.08)
        drawn = "".join(
            f'<rect x="{column}" y="{1 - high:.3f}" width="{width}" height="{high:.3f}"/>'
            for _, column, width in places
        )
        groups.append(_group("k", level.number, layers, drawn))
    return Markup("".join(groups))  # numbers only


def _places(lived: Ints) -> dict[int, list[tuple[int, int, int]]]:
    """Row, column and width of the runs of each depth, shallow ones first."""
    places: dict[int, list[tuple[int, int, int]]] = {}
    for row, line in enumerate(lived):
        for column, width, layers in runs(line):
            places.setdefault(layers, []).append((row, column, width))
    return dict(sorted(places.items()))


def _group(kind: str, number: int, layers: int, drawn: str) -> str:
    return f'<g class="{kind} {kind}{number}" data-lived="{layers}">{drawn}</g>'
