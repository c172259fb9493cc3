"""Evaluations as tables, documents, CSV, Markdown and pictures."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from seats_cli.errors import UsageError
from seats_cli.evaluate.run_folder import ItemRecord
from seats_cli.evaluate.statistics import Estimate
from seats_cli.evaluate.summary import Summary, summarise
from seats_cli.report import plots
from seats_cli.report.documents import dump_document, eval_csv, eval_document
from seats_cli.report.eval_table import eval_markdown, eval_report, interval, p_words, points
from seats_cli.report.plots import plot_evaluation

WHY = "This budget is out of reach."


def record(item: int, label: str, share: float, wrong: int) -> ItemRecord:
    """A record that is wrong for every `wrong`-th item."""
    failed = label == "fastv-om 10%" and item % 4 == 0
    return ItemRecord(
        item_id=f"i{item}",
        clip_key=f"c{item // 3}",
        label=label,
        method=label.split()[0],
        expected="red",
        given="red",
        correct=not failed and item % wrong != 0,
        unparsed=item == 0 and label == "random 10%",
        error=WHY if failed else None,
        family=("color", "shape_at_sound")[item % 2],
        kind=("short", "moment")[item % 3 == 0],
        retain=None if label == "full" else share,
        video_tokens=180 * share,
        audio_tokens=300 * share,
        offered_video_tokens=180,
        offered_audio_tokens=300,
        average_retention=share,
        prefill_flops=4e9 * share,
        full_prefill_flops=4e9,
        kv_bytes=int(3e6 * share),
        peak_host_bytes=900_000_000,
        prefill_s=0.03 * share,
        first_token_s=0.09,
        total_s=0.12,
    )


SETTINGS = {
    "full": (1.0, 30),
    "seats 10%": (0.1, 12),
    "seats 25%": (0.25, 20),
    "random 10%": (0.1, 4),
    "fastv-om 10%": (0.1, 7),
    "visionzip-om 35%": (0.35, 9),
}


@pytest.fixture
def summary() -> Summary:
    records = [
        record(item, label, share, wrong)
        for label, (share, wrong) in SETTINGS.items()
        for item in range(60)
    ]
    return summarise("synthetic", records, resamples=200)


def text_of(summary: Summary, *, groups: bool = True) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(eval_report(summary, groups=groups))
    lines = [line.rstrip() for line in console.file.getvalue().split("\n")]  # type: ignore[attr-defined]
    assert max(len(line) for line in lines) <= 80
    return "\n".join(lines)


def test_table(summary: Summary) -> None:
    shown = text_of(summary)
    assert "…" not in shown
    assert "synthetic: 60 questions about 20 clips" in shown
    for words in ("96.7", "-5.0", "25.0 %", "400 M", "10 %", "3.0 ms", "shape_at_sound", "moment"):
        assert words in shown
    whole = " ".join(shown.split())
    assert f"fastv-om 10%: no answer to 15 of 60 questions, not counted as wrong. {WHY}" in whole
    assert "shape_at_sound" not in text_of(summary, groups=False)


def test_every_setting_stands_beside_the_unpruned_one(summary: Summary) -> None:
    shown = text_of(summary)
    for label in SETTINGS:
        assert shown.count(label) >= 3
    family_rows = [line for line in shown.split("\n") if line.startswith("color ")]
    assert [len(line.split()) for line in family_rows] == [2 + 5, 2 + 2]


def test_columns_that_say_nothing_are_left_out() -> None:
    clean = summarise("s", [record(item, "full", 1.0, 30) for item in range(9)], resamples=50)
    shown = text_of(clean)
    assert "errors" not in shown
    assert "unread" not in shown
    assert "errors" not in eval_markdown(clean)
    # Nine questions give no interval.
    assert "(-)" in eval_markdown(clean)
    whole = eval_document(clean)["settings"][0]
    assert (whole["accuracy_low"], whole["accuracy_high"]) == (None, None)
    assert whole["accuracy"] == pytest.approx(8 / 9)


def test_markdown(summary: Summary) -> None:
    tables = [part for part in eval_markdown(summary).split("\n\n") if part.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        lines = table.split("\n")
        assert len(lines) == 2 + len(SETTINGS)
        assert len({line.count("|") for line in lines}) == 1
    assert "| seats 10% | 91.7 (" in tables[0]
    assert "| color (30) | shape_at_sound (30) |" in tables[1]
    assert WHY in eval_markdown(summary)


def test_every_table_says_which_flops_it_counts(summary: Summary) -> None:
    own = "the LLM's prefill and the selection, with the layers of trained methods and without the"
    for written in (text_of(summary), eval_markdown(summary)):
        assert f"FLOPs: {own} encoders, " in " ".join(written.split())


def test_document(summary: Summary) -> None:
    document = json.loads(dump_document(eval_document(summary, {"model": "bundled"})))
    assert document["schema_version"] == "1"
    assert (document["kind"], document["model"]) == ("evaluation", "bundled")
    assert (document["items"], document["clips"], document["errors"]) == (60, 20, 15)
    full, own = document["settings"][:2]
    assert full["difference_to_full"] is full["mcnemar_p"] is None
    assert own["accuracy"] == pytest.approx(55 / 60)
    assert own["accuracy_low"] < own["accuracy"] < own["accuracy_high"]
    assert own["difference_to_full"] == pytest.approx(-3 / 60)
    assert own["accuracy_kept"] == pytest.approx(55 / 58)
    assert (own["gained"], own["lost"]) == (1, 4)
    assert own["families"]["color"]["asked"] == 30
    assert own["clip_kinds"]["moment"]["asked"] == 20
    assert own["flops_ratio"] == pytest.approx(0.1)
    failed = next(one for one in document["settings"] if one["label"] == "fastv-om 10%")
    assert (failed["errors"], failed["answered"]) == (15, 45)
    assert failed["error_reasons"] == {WHY: 15}


def test_csv(summary: Summary) -> None:
    rows = list(csv.DictReader(io.StringIO(eval_csv(summary))))
    assert len(rows) == len(SETTINGS) * 5
    whole = {row["label"]: row for row in rows if row["group_by"] == "all"}
    assert set(whole) == set(SETTINGS)
    assert float(whole["seats 25%"]["average_retention"]) == pytest.approx(0.25)
    assert whole["full"]["difference_to_full"] == ""
    assert {row["group"] for row in rows if row["group_by"] == "clip_kind"} == {"short", "moment"}


def test_nothing_to_say() -> None:
    empty = summarise("synthetic", [])
    assert "0 questions" in text_of(empty)
    assert "0 questions" in eval_markdown(empty)
    assert eval_document(empty)["settings"] == []
    assert eval_csv(empty) == ""


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.0004, "<.001"), (0.0123, ".012"), (0.25, ".25"), (1.0, "1"), (0.999, "1")],
)
def test_p_words(p: float, words: str) -> None:
    assert p_words(p) == words


def test_numbers() -> None:
    estimate = Estimate(-0.0413, -0.0589, 0.0004)
    assert points(estimate, signed=True) == "-4.1"
    assert interval(estimate, signed=True) == "-5.9, 0.0"
    assert interval(Estimate(0.9, 0.85, 1.0)) == "85.0-100"
    assert interval(Estimate(0.9)) == "-"


class TestPlot:
    def test_writes_a_picture(self, summary: Summary, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        plot_evaluation(summary, tmp_path / "a.png")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        plot_evaluation(summary, tmp_path / "a.svg")
        assert (tmp_path / "a.svg").stat().st_size > 5000

    def test_a_line_for_each_method_and_variant(self) -> None:
        labels = ("full", "seats 25%", "seats 10%", "seats 10% adaptive", "random 10%", "fastv 5%")
        records = [record(item, label, 0.1, 7) for label in labels for item in range(9)]
        lines = plots._lines(summarise("s", records, resamples=50))
        assert {name: len(own) for name, own in lines.items()} == {
            "seats adaptive": 1,
            "random": 1,
            "fastv": 1,
            "seats": 2,
        }
        assert list(lines)[-1] == "seats"

    def test_settings_of_the_encoders_are_lines_of_their_own(self) -> None:
        skips = ("", " still 4", " keep 35%", " still 4 keep 5%")
        labels = [f"{name}{own}" for name in ("full", "seats 25%", "seats 10%") for own in skips]
        records = [record(item, label, 0.1, 7) for label in labels for item in range(3)]
        lines = plots._lines(summarise("s", records, resamples=50))
        assert {name: len(own) for name, own in lines.items()} == {
            **{f"full{own}": 1 for own in skips[1:]},
            **{f"seats{own}": 2 for own in skips},
        }

    def test_the_unpruned_model_alone(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        alone = summarise("s", [record(item, "full", 1.0, 30) for item in range(9)], resamples=50)
        plot_evaluation(alone, tmp_path / "a.png")
        assert (tmp_path / "a.png").exists()

    def test_refusals(
        self, summary: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("matplotlib")
        with pytest.raises(UsageError, match="nothing to plot"):
            plot_evaluation(summarise("s", []), tmp_path / "a.png")
        with pytest.raises(UsageError, match="must end in"):
            plot_evaluation(summary, tmp_path / "a.bmp")
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UsageError, match="matplotlib"):
            plot_evaluation(summary, tmp_path / "a.png")
