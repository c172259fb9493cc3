"""The strip in a terminal: fits, aligned, plain where it must be."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from seats_cli.results import Evidence
from seats_cli.show.strip import strip


@pytest.mark.parametrize("width", [30, 40, 80, 200])
@pytest.mark.parametrize("unicode", [True, False])
def test_it_fits_and_is_aligned(cards, width, unicode):
    lines = strip(cards.record, width, unicode=unicode)
    assert len(lines) == 6
    assert max(map(len, lines)) <= width
    assert len(lines[1]) == len(lines[2])
    assert (lines[1] + lines[2]).isascii() != unicode


def test_sound_alone_has_one_row(speech):
    lines = strip(speech.record, 80, unicode=True)
    assert [line.split()[0] for line in lines] == ["Kept", "audio", "rests", "mean", "1"]


def test_evidence_is_ranked_where_they_are(cards):
    """Two columns a second; the stronger of two pieces at one time is shown."""
    pieces = (
        Evidence(3.0, 4.0, "audio", 0.5),
        Evidence(3.5, 6.0, "video", 0.3),
        Evidence(0.0, 1.0, "video", 0.1),
    )
    record = dataclasses.replace(cards.record, evidence=pieces)
    row = strip(record, 47, unicode=False)[3]
    assert row == "rests  33  |  11|2222|    |    |    "
    shifted = dataclasses.replace(record, media=dataclasses.replace(record.media, start_s=3.0))
    assert strip(shifted, 47, unicode=False)[3] == "rests  1122|22  |    |    |    |    "
    none = strip(dataclasses.replace(record, evidence=()), 47, unicode=False)
    assert [line.split()[0] for line in none] == ["Kept", "video", "audio", "mean"]


def test_a_window_that_keeps_nothing_and_one_that_has_nothing(cards):
    record = cards.record
    stage = record.stages[0]
    none = dataclasses.replace(stage, kept=np.flatnonzero(record.modality == 0))
    lines = strip(dataclasses.replace(record, stages=(none,)), 80, unicode=False)
    marks = lines[1].split()[1].replace("|", "")
    assert set(marks) == {"0"}
    full = strip(dataclasses.replace(record, stages=()), 80, unicode=True)
    assert set(full[1].split()[1].replace("│", "")) == {"█"}


def test_a_very_long_clip_fits(cards):
    record = cards.record
    grid = dataclasses.replace(record.grid, grids=4000, rows=1, columns=1)
    modality = np.ones(4000, np.int64)
    long = dataclasses.replace(record, grid=grid, modality=modality, stages=())
    lines = strip(long, 60, unicode=True)
    assert max(map(len, lines)) <= 60
