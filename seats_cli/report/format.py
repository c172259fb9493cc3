"""Numbers as people read them; "n/a" for what was not measured."""

from __future__ import annotations

import math
from typing import TypeGuard

NOT_AVAILABLE = "n/a"

_SI = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def format_bytes(size: float | None) -> str:
    """Bytes with a binary unit and three significant digits, `1.46 GiB`."""
    if not _usable(size):
        return NOT_AVAILABLE
    value, unit = float(size), _BINARY[0]
    for unit in _BINARY:
        if abs(value) < 1023.5 or unit == _BINARY[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{_three_digits(value)} {unit}"


def format_si(value: float | None, unit: str = "") -> str:
    """A count with an SI prefix and three significant digits, `12.3 TFLOP`."""
    if not _usable(value):
        return NOT_AVAILABLE
    scaled, prefix = float(value), ""
    for prefix in _SI:
        if abs(scaled) < 999.5 or prefix == _SI[-1]:
            break
        scaled /= 1000
    digits = f"{scaled:.0f}" if not prefix and scaled == int(scaled) else _three_digits(scaled)
    return f"{digits} {prefix}{unit}".rstrip()


def format_percent(ratio: float | None) -> str:
    """A ratio 0..1 as per cent with one decimal, `25.0 %`."""
    return f"{100 * ratio:.1f} %" if _usable(ratio) else NOT_AVAILABLE


def format_seconds(seconds: float | None) -> str:
    """A duration: milliseconds below 0.1 s, minutes from 100 s on."""
    if not _usable(seconds):
        return NOT_AVAILABLE
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def format_count(value: int | None) -> str:
    """An integer with thousands separated by commas."""
    return NOT_AVAILABLE if value is None else f"{value:,}"


def format_ratio(part: float | None, whole: float | None) -> str:
    """`part / whole` as per cent; not available when there is no whole."""
    if not _usable(part) or not _usable(whole) or whole == 0:
        return NOT_AVAILABLE
    return format_percent(part / whole)


def _three_digits(value: float) -> str:
    magnitude = abs(value)
    return f"{value:.0f}" if magnitude >= 99.95 else f"{value:.{1 if magnitude >= 9.995 else 2}f}"


def _usable(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
