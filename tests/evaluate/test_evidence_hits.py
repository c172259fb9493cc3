"""How often evidence is right: values that were worked out by hand, and the command."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from seats_cli import SeatsConfig, load_model
from seats_cli.cost.token_counts import Evidence
from seats_cli.errors import UsageError
from seats_cli.evaluate import evidence_hits
from seats_cli.evaluate.evidence_hits import (
    Found,
    Rested,
    as_markdown,
    chance_of_hit,
    decided_items,
    fixed_guess,
    hits,
    main,
    measure,
    scored,
    table,
)
from seats_cli.evaluate.generated import synthetic_set
from seats_cli.evaluate.questions import Item


def piece(start: float, end: float, modality: str = "video") -> Evidence:
    return Evidence(start, end, modality, 0.1)


# Six seconds of picture and four of sound, a window a second.
WINDOWS = tuple(
    piece(at, at + 1, modality)
    for modality, count in (("video", 6), ("audio", 4))
    for at in range(count)
)


@pytest.mark.parametrize(
    ("span", "hit"),
    [
        ((2.5, 6.0), True),  # half a second of one: half of the evidence
        ((2.6, 6.0), False),
        ((0.0, 2.5), True),
        ((2.4, 2.6), True),  # inside
        ((2.9, 3.1), True),  # half of the stretch
        ((2.9, 3.2), False),  # a third of it
        ((3.0, 4.0), False),  # they only touch
        ((5.0, 6.0), False),
    ],
)
def test_half_of_the_shorter_is_a_hit(span: tuple[float, float], hit: bool) -> None:
    assert hits(piece(2.0, 3.0), *span) is hit


class TestChance:
    """Windows are drawn without replacement, within their modality."""

    def test_by_hand(self) -> None:
        drawn = [piece(0, 1), piece(5, 6), piece(0, 1, "audio")]
        # From 1 to 3 s: 2 of 6 and 2 of 4 hit. 4/6 * 3/5 * 2/4 miss.
        assert chance_of_hit(drawn, WINDOWS, 1.0, 3.0) == pytest.approx(0.8)
        assert chance_of_hit(drawn[:2], WINDOWS, 1.0, 3.0) == pytest.approx(0.6)
        assert chance_of_hit(drawn[2:], WINDOWS, 1.0, 3.0) == pytest.approx(0.5)

    def test_nothing_drawn_hits_nothing(self) -> None:
        assert chance_of_hit([], WINDOWS, 0.0, 6.0) == 0.0

    def test_more_than_can_miss(self) -> None:
        sounds = [piece(at, at + 1, "audio") for at in range(3)]
        assert chance_of_hit(sounds, WINDOWS, 1.0, 3.0) == 1.0

    def test_only_sound_where_the_picture_goes_on(self) -> None:
        assert chance_of_hit([piece(0, 1, "audio")], WINDOWS, 4.0, 6.0) == 0.0

    @pytest.mark.parametrize("span", [(0.0, 0.4), (0.7, 2.2), (3.5, 5.5), (2.0, 6.0)])
    def test_counted_out(self, span: tuple[float, float]) -> None:
        """Every choice of two windows of picture and one of sound."""
        pictures, sounds = WINDOWS[:6], WINDOWS[6:]
        choices = [(*two, one) for two in combinations(pictures, 2) for one in sounds]
        share = sum(any(hits(one, *span) for one in three) for three in choices) / len(choices)
        assert chance_of_hit(choices[0], WINDOWS, *span) == pytest.approx(share)


def test_the_fixed_guess_is_first_middle_and_last() -> None:
    spans = [(one.start_s, one.end_s) for one in fixed_guess(9.0)]
    assert spans == [(0.0, 1.0), (4.0, 5.0), (8.0, 9.0)]
    assert [(one.start_s, one.end_s) for one in fixed_guess(0.5)] == [(0.0, 0.5)] * 3


class TestDecidedItems:
    """The questions that are asked."""

    def test_which(self) -> None:
        found = decided_items(20, 3026)
        assert len(found) == 20
        by_hand = []
        for item in synthetic_set(60).items:
            span = item.meta["decisive"]
            if span and (span["end"] - span["start"]) / item.meta["duration_s"] <= 0.5:
                by_hand.append(item.id)
        assert [item.id for item in found] == by_hand[:20]
        # Counting colors or words needs all of the clip; these need one picture or one sound.
        asked = {item.family for item in found}
        assert not asked & {"color_count", "color_order", "spoken_order", "motion", "is_there"}
        assert len(set(by_hand)) < 60

    def test_another_seed_is_another_set(self) -> None:
        assert {item.id for item in decided_items(5, 7)}.isdisjoint(
            item.id for item in decided_items(5, 8)
        )

    @pytest.mark.parametrize("count", [0, -3])
    def test_at_least_one(self, count: int) -> None:
        with pytest.raises(UsageError, match="at least 1 question"):
            decided_items(count, 3026)


def rested(name: str, span: tuple[float, float] | None, *evidence: Evidence) -> Rested:
    decisive: dict[str, Any] | None = None
    if span is not None:
        decisive = {"start": span[0], "end": span[1], "modalities": ("audio",)}
    meta = {"decisive": decisive, "duration_s": 6.0}
    item = Item(name, "clip", "What?", "this", family="sound_kind", meta=meta)
    return Rested(item, name != "wrong", evidence, WINDOWS)


class TestScored:
    """Evidence of a question, of the others about its clip, and guesses."""

    OWN = rested("own", (1.0, 3.0), piece(0, 1), piece(2, 3), piece(0, 1, "audio"))
    SAME = rested("same", (2.0, 4.0), piece(5, 6), piece(1, 2, "audio"))
    APART = rested("apart", (3.0, 4.0), piece(3, 4, "audio"))
    WHOLE = rested("whole", None, piece(1, 2))

    def test_by_hand(self) -> None:
        (found,) = scored("x", [self.OWN, self.SAME, self.APART, self.WHOLE], {"own"})
        assert found == Found(
            setting="x",
            clip=self.OWN.item.clip_key,
            family="sound_kind",
            where="audio",
            correct=True,
            hit=True,
            sensed=False,  # by a picture alone, and the sound decides
            chance=pytest.approx(0.8),
            chance_sensed=pytest.approx(0.5),
            fixed=True,  # the middle: 2.5 to 3.5 s
            other=pytest.approx(2 / 3),
            elsewhere=0.0,  # of `APART` alone
        )

    def test_alone(self) -> None:
        (found,) = scored("x", [self.OWN], {"own"})
        assert (found.other, found.elsewhere) == (None, None)

    def test_only_the_first_three_count(self) -> None:
        late = rested("late", (1.0, 3.0), *[piece(5, 6)] * 3, piece(1, 2))
        assert [one.hit for one in scored("x", [late], {"late"})] == [False]

    def test_the_table_counts_right_and_wrong(self) -> None:
        wrong = rested("wrong", (4.0, 5.0), piece(0, 1))
        rows = table(scored("x", [self.OWN, wrong, self.APART], {"own", "wrong", "apart"}))
        whole = rows[0]
        assert (whole.group, whole.n, whole.rights, whole.wrongs) == ("all", 3, 2, 1)
        assert whole.found.value == pytest.approx(2 / 3)
        assert whole.right is not None
        assert whole.right.value == 1.0
        assert whole.wrong is not None
        assert whole.wrong.value == 0.0
        assert whole.apart == 3
        assert [row.group for row in rows] == ["all", "decided in audio", "sound_kind"]
        lines = as_markdown(rows).splitlines()
        assert len(lines) == 5
        assert len({line.count("|") for line in lines}) == 1
        assert "n = 2" in lines[2]
        assert "n = 1" in lines[2]


def test_a_clip_is_asked_all_its_questions() -> None:
    (item,) = decided_items(1, 3026)
    seen: list[int] = []
    settings = [("seats 10%", SeatsConfig(retain=0.1))]
    (one,) = measure(load_model("bundled"), [item], settings, seen.append)
    assert (one.setting, one.clip, seen) == ("seats 10%", item.clip_key, [1])
    assert one.other in (0.0, 0.5, 1.0)  # of two others
    assert 0.0 <= one.chance_sensed <= one.chance <= 1.0


@pytest.mark.parametrize("setting", ["seats", "seats much", "full 10%", ""])
def test_a_setting_without_a_share(
    setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evidence_hits, "load_model", lambda *_a, **_k: pytest.fail("too late"))
    assert main(["--settings", f"full,{setting}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: A setting is `full`, or a method and the share to keep")
    assert error.count("\n") == 1
