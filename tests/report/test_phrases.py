"""Numbers as people read them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seats_cli.report import phrases
from seats_cli.results import Evidence


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (1536 * 2**20, "1.50 GiB"),
        (1023.9 * 2**20, "1.00 GiB"),
        (18 * 2**30, "18.0 GiB"),
        (2**60, "1048576 TiB"),
        (None, "n/a"),
        (math.nan, "n/a"),
    ],
)
def test_bytes(size, text):
    assert phrases.format_bytes(size) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 "), (7, "7 "), (999, "999 "), (1000, "1.00 k"), (1.234e13, "12.3 T"), (2e21, "2000 E")],
)
def test_si(value, text):
    assert phrases.format_si(value, "FLOP") == f"{text}FLOP"
    assert phrases.format_si(value) == text.rstrip()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12 ms"),
        (0.0996, "0.10 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (99.96, "1 min 40 s"),
        (3725, "62 min 05 s"),
        (math.inf, "n/a"),
    ],
)
def test_seconds(seconds, text):
    assert phrases.format_seconds(seconds) == text


def test_ratio_without_a_whole_is_not_available():
    assert phrases.format_ratio(1, 0) == "n/a"
    assert phrases.format_ratio(1, 4) == "25.0 %"
    assert phrases.format_percent(None) == "n/a"
    assert phrases.format_count(None) == "n/a"
    assert phrases.format_count(12040) == "12,040"


@given(st.floats(min_value=0, max_value=1e20))
def test_every_number_stays_narrow(value):
    for shown in (
        phrases.format_bytes(value),
        phrases.format_si(value, "FLOP"),
        phrases.format_seconds(value),
    ):
        assert "e+" not in shown
        assert "nan" not in shown
    assert len(phrases.format_si(value)) <= 6


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0:00.0"),
        (5.04, "0:05.0"),
        (59.96, "1:00.0"),
        (754.5, "12:34.5"),
        (3599.99, "1:00:00.0"),
        (3725.25, "1:02:05.2"),
    ],
)
def test_times_in_a_clip(seconds, words):
    assert phrases.format_time(seconds) == words


def test_evidence_is_named_by_time_sense_and_share():
    pieces = (Evidence(5.0, 6.0, "audio", 0.412), Evidence(65.0, 66.5, "video", 0.09))
    answer = SimpleNamespace(evidence=pieces)
    assert phrases.evidence_lines(answer) == [
        "0:05.0 to 0:06.0 (sound, 41 %)",
        "1:05.0 to 1:06.5 (picture, 9 %)",
    ]
    (line,) = phrases.evidence_lines(SimpleNamespace(evidence=()))
    assert line == "No evidence: a picture has none, nor has a clip of which no token was left."
