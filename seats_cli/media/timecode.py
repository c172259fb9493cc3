"""Times as people write them: seconds, minutes and hours."""

from __future__ import annotations

import re

from seats_cli.errors import UsageError

_TIME = re.compile(
    r"(?:(?:(?P<h>\d{1,4}):)?(?P<m>\d{1,4}):)?(?P<s>\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})"
)

# Containers round their duration; an end this little beyond it is the end.
LENGTH_TOLERANCE_S = 0.1


def parse_time(text: str) -> float:
    """Read a time given as seconds, ``m:ss`` or ``h:mm:ss``, each with optional decimals.

    Parameters
    ----------
    text : str
        For example ``"75"``, ``"1:15"`` or ``"00:01:15.5"``. After a colon, minutes and
        seconds must be below 60; the leading part may be larger (``"90:00"``).

    Returns
    -------
    float
        Seconds, at least 0.

    Raises
    ------
    UsageError
        If the text is not such a time.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None or not text.isascii():
        raise UsageError(f"{text!r} is not a time: write seconds (75), 1:15 or 00:01:15.5.")
    hours, minutes, seconds = match["h"], match["m"], float(match["s"])
    if (minutes is not None and seconds >= 60) or (hours is not None and int(minutes) >= 60):
        raise UsageError(
            f"{text!r} is not a time: after a colon, minutes and seconds must be below 60."
        )
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds


def check_range(start: float | None, end: float | None, length: float | None) -> None:
    """Refuse a range that is empty or lies outside the file.

    Parameters
    ----------
    start, end : float or None
        Seconds from the start of the file; None for its start and its end.
    length : float or None
        Seconds the file says it lasts; None if unknown, which skips that check.

    Raises
    ------
    UsageError
        If not 0 <= start < end <= length.
    """
    for name, value in (("start", start), ("end", end)):
        if value is not None and not 0 <= value < float("inf"):
            raise UsageError(f"The {name} time must be 0 or more seconds, not {value:g}.")
    if start is not None and end is not None and start >= end:
        raise UsageError(f"The start ({start:g} s) must be before the end ({end:g} s).")
    if end is not None and end == 0:
        raise UsageError("The end time must be later than 0 s.")
    if length is None:
        return
    if start is not None and start >= length:
        raise UsageError(f"The start ({start:g} s) is not before the file's end ({length:.2f} s).")
    if end is not None and end > length + LENGTH_TOLERANCE_S:
        raise UsageError(
            f"The end ({end:g} s) is beyond the file's end ({length:.2f} s); "
            "leave it out to read to the end."
        )
