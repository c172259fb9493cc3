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
    rectangles: dict[int, list[str]] = {}
    for row, line in enumerate(lived):
        for column, width, layers in runs(line):
            rectangles.setdefault(layers, []).append(
                f'<rect x="{column}" y="{row}" width="{width}" height="1"/>'
            )
    level_of = {
        int(layers): int(level) for layers, level in zip(depth.lived, depth.level, strict=True)
    }
    groups = []
    for layers, marks in sorted(rectangles.items()):
        level, drawn = level_of[layers], "".join(marks)
        group = f'<g class="k k{level}" data-lived="{layers}">{drawn}'
        if level:  # the same again, filled with the level's pattern
            group += f'</g><g class="p p{level}" data-lived="{layers}" aria-hidden="true">{drawn}'
        groups.append(group + "</g>")
    return Markup("".join(groups))
