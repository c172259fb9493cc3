"""Times as users write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seats_cli.errors import UsageError
from seats_cli.media import parse_time
from seats_cli.media.timecode import check_range


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("75", 75),
        ("1:15", 75),
        ("00:01:15.5", 75.5),
        (" 1:02:03 ", 3723),
        ("90:00", 5400),
        (".5", 0.5),
        ("7.", 7),
        ("0", 0),
    ],
)
def test_written_forms(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "1:60", "1:2:3:4", "1:75:00", "1e3", "inf", "nan", "1:", ":5", "1,5", "१"],
)
def test_refused_forms_say_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="not a time"):
        parse_time(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_all_clock_times_round_trip(h: int, m: int, s: int, ms: int) -> None:
    assert parse_time(f"{h}:{m:02}:{s:02}.{ms:03}") == pytest.approx(
        h * 3600 + m * 60 + s + ms / 1000
    )


@given(st.text(max_size=12))
def test_any_text_gives_seconds_or_a_sentence(text: str) -> None:
    try:
        seconds = parse_time(text)
    except UsageError:
        return
    assert 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("start", "end", "length", "says"),
    [
        (2, 2, 10, "before the end"),
        (3, 2, None, "before the end"),
        (10, None, 10, "file's end"),
        (None, 11, 10, "beyond"),
        (None, 0, 10, "later than 0"),
        (-1, None, None, "0 or more"),
        (float("nan"), None, None, "0 or more"),
    ],
)
def test_impossible_ranges(
    start: float | None, end: float | None, length: float | None, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        check_range(start, end, length)


def test_possible_ranges() -> None:
    check_range(None, None, None)
    check_range(0, 10, 10)
    check_range(1, 10.05, 10)  # containers round their length
    check_range(5, 900, None)
