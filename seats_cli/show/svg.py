"""Inline SVG: kept tokens as rectangles, and tokens and FLOPs in every layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from markupsafe import Markup

from seats_cli.cost.flops import layer_flops
from seats_cli.report.phrases import format_si
from seats_cli.show.overlay import Depth
from seats_cli.show.record import Ints, RunRecord


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
        if level.pattern:  # once more, as a pattern
            groups.append(_group("p", level.pattern, layers, drawn))
    return Markup("".join(groups))  # safe: numbers only


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
    return Markup("".join(groups))  # safe: numbers only


def _places(lived: Ints) -> dict[int, list[tuple[int, int, int]]]:
    """Row, column and width of the runs of each depth, shallow ones first."""
    places: dict[int, list[tuple[int, int, int]]] = {}
    for row, line in enumerate(lived):
        for column, width, layers in runs(line):
            places.setdefault(layers, []).append((row, column, width))
    return dict(sorted(places.items()))


def _group(kind: str, number: int, layers: int, drawn: str) -> str:
    return f'<g class="{kind} {kind}{number}" data-lived="{layers}">{drawn}</g>'


_STEP, _LEFT, _TOP = 26, 64, 18
_TOKENS, _FLOPS, _GAP = 150, 80, 44  # heights
_NAMES = ("video", "audio", "text")


def flops_per_layer(record: RunRecord) -> tuple[list[int], int]:
    """FLOPs of each layer as it ran, and of a layer with every token."""
    shape = record.architecture
    pruned = [layer_flops(shape, sum(alive)) for alive in record.alive_per_layer()]
    return pruned, layer_flops(shape, len(record.modality))


def layer_bars(
    record: RunRecord, tokens: float, flops: float
) -> Iterator[tuple[list[tuple[str, float, float]], float]]:
    """The geometry of the chart of the layers: each layer's bars, and the height of its FLOPs.

    A bar is a modality with its lower and upper end over the base, text lowest. `tokens` and
    `flops` are the heights of a bar of all tokens and of a layer with every token.
    """
    executed, full = flops_per_layer(record)
    for counts, own in zip(record.alive_per_layer(), executed, strict=True):
        stack, low = [], 0.0
        for name, count in zip(reversed(_NAMES), reversed(counts), strict=True):
            high = low + tokens * count / max(len(record.modality), 1)
            stack.append((name, low, high))
            low = high
        yield stack, flops * own / max(full, 1)


def layers_chart(record: RunRecord) -> Markup:
    """Stacked bars of the tokens alive, with bars of the FLOPs under them."""
    alive = record.alive_per_layer()
    flops, full = flops_per_layer(record)
    step = _STEP if len(alive) <= 30 else 18
    width = _LEFT + step * len(alive) + 10
    base, bottom = _TOP + _TOKENS, _TOP + _TOKENS + _GAP + _FLOPS
    most = max(len(record.modality), 1)
    out = [
        f'<svg class="layers" viewBox="0 0 {width} {bottom + 34}" role="img" '
        f'style="max-width:{round(width * 1.2)}px" aria-label="{_words(record, alive)}">'
    ]
    out += _axis(_TOP, _TOKENS, width, [(most, f"{most:,}"), (0, "0")], most)
    out += _axis(base + _GAP, _FLOPS, width, [(full, format_si(full)), (0, "0")], full)
    for number, (stack, executed) in enumerate(layer_bars(record, _TOKENS, _FLOPS), 1):
        x = _LEFT + step * (number - 1) + 2
        counts = zip(alive[number - 1], _NAMES, strict=True)
        tip = ", ".join(f"{count:,} {name}" for count, name in counts)
        out.append(
            f'<g class="bar" data-layer="{number}"><title>layer {number}: {tip} tokens, '
            f"{format_si(flops[number - 1])} FLOPs</title>"
        )
        bars = [(name, base - high, high - low) for name, low, high in stack if high > low]
        for name, y, height in (*bars, ("flops", bottom - executed, executed)):
            size = f'width="{step - 4:g}" height="{height:.2f}"'
            out.append(f'<rect class="m-{name}" x="{x:g}" y="{y:.2f}" {size}/>')
        if step == _STEP or number % 2:
            out.append(
                f'<text x="{x + step / 2 - 2:g}" y="{bottom + 14}" class="mid">{number}</text>'
            )
        out.append("</g>")
    out.append(f'<text x="{_LEFT}" y="12">tokens alive in each layer</text>')
    out.append(
        f'<text x="{_LEFT}" y="{base + _GAP - 8}">FLOPs of each layer; the upper line is a layer '
        "with every token</text>"
    )
    out.append(f'<text x="{_LEFT}" y="{bottom + 29}">decoder layer</text></svg>')
    return Markup("".join(out))


def _axis(top: int, height: int, width: int, ticks: list[tuple[int, str]], most: int) -> list[str]:
    out = []
    for value, label in ticks:
        y = top + height * (1 - value / max(most, 1))
        out.append(f'<line x1="{_LEFT - 4}" x2="{width - 8}" y1="{y:g}" y2="{y:g}" class="axis"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{y + 4:g}" class="end">{label}</text>')
    return out


def _words(record: RunRecord, alive: list[tuple[int, int, int]]) -> str:
    """The chart in a sentence or two, one piece for each change."""
    pieces, before = [], None
    for number, (video, audio, text) in enumerate(alive, 1):
        if (video, audio, text) != before:
            pieces.append(f"from layer {number} {video} video, {audio} audio and {text} text")
        before = (video, audio, text)
    video, audio, text = record.offered
    return (
        f"Tokens alive in each of {len(alive)} layers, of {video} video, {audio} audio and "
        f"{text} text tokens offered: {'; '.join(pieces)}."
    )
