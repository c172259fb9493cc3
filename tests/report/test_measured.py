"""Profiles, plans and comparisons as tables, sentences, documents, CSV, Markdown and pictures."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import sys
from itertools import product
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from seats_cli.config import SeatsConfig
from seats_cli.cost.estimate import find_model, plan_run
from seats_cli.errors import UsageError
from seats_cli.media.inspection import ClipOutline
from seats_cli.report import compare_table, documents, plots
from seats_cli.report.compare_table import comparison_markdown, comparison_report
from seats_cli.report.documents import compared_row, dump_document
from seats_cli.report.phrases import skips_words, split_label
from seats_cli.report.plan_table import paper_markdown, plan_report, windows_line
from seats_cli.report.plots import check_plot, plot_profile
from seats_cli.report.profile_table import (
    bottleneck_sentence,
    factor_words,
    profile_report,
    sentence,
)
from seats_cli.results import FailedRun, Spread
from tests.report.measured import (
    FULL_TIMES,
    PRUNED_TIMES,
    measured_run,
    sample_comparison,
    sample_comparison_without_full,
    sample_profile,
    sample_without_full,
)
from tests.report.sample import FACTS


def text_of(report: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(report)
    lines = console.file.getvalue().split("\n")  # type: ignore[attr-defined]
    assert max(len(line.rstrip()) for line in lines) <= 80
    return "\n".join(line.rstrip() for line in lines)


def test_the_sentence() -> None:
    full, pruned = sample_profile().runs
    assert sentence(pruned, full) == (
        "seats 25%: prefill 5.0x faster, 125 % of what the FLOPs allow; "
        "first token 2.1x faster: the encoders are now 57 % of the time"
    )


def test_the_last_sentence_names_the_next_bottleneck() -> None:
    profile = sample_profile()
    assert bottleneck_sentence(profile) == (
        "Next bottleneck (seats 25%): vision encoder, 43 % of the first token"
    )
    assert (
        text_of(profile_report(profile))
        .rstrip()
        .endswith("vision encoder, 43 % of the first token")
    )

    slow = {"media_decode": Spread(0.7, 0.7, 0.7)}
    assert (bottleneck_sentence(sample_profile(reading=slow)) or "").endswith(
        "; reading the clip before it takes 0.70 s"
    )
    nothing_timed = dict.fromkeys(PRUNED_TIMES, 0.0)
    run = measured_run("seats 25%", nothing_timed, 0.25)
    assert run.bottleneck is None
    untimed = dataclasses.replace(profile, full=None, pruned=(run,))
    assert bottleneck_sentence(untimed) is None


def test_the_sentence_says_slower() -> None:
    full, _ = sample_profile().runs
    slow = {**PRUNED_TIMES, "prefill_and_selection": 2.6, "stage1": 2.1, "first_token": 3.6}
    words = sentence(measured_run("seats 90%", slow, 0.9), full)
    assert "prefill 1.3x slower" in words
    assert "first token 1.2x slower" in words
    assert words.endswith("and selection 82 % of the prefill")
    noise = {**slow, "stage1": 0.0003, "stage2": 0.0}  # as of encoder reuse alone
    assert "selection" not in sentence(measured_run("full keep 50%", noise, 1.0), full)


@pytest.mark.parametrize(
    ("factor", "words"),
    [(6.93, "6.9x faster"), (12.3, "12x faster"), (1.01, "as fast"), (0.5, "2.0x slower")],
)
def test_factor_words(factor: float, words: str) -> None:
    assert factor_words(factor) == words


@pytest.mark.parametrize("pruned", [0, 1, 2, 4])
def test_profile_table(pruned: int) -> None:
    shown = text_of(profile_report(sample_profile(pruned)))
    assert "…" not in shown
    for words in ("vision encoder", "Stage II", "first token", "1 to 16", "KV cache", "peak GPU"):
        assert words in shown
    assert ("p10 to p90" in shown) == (pruned < 2 or pruned == 4)
    assert shown.count("of what the FLOPs allow") == pruned


def test_failed_settings_are_in_the_table() -> None:
    profile = sample_profile(failed=(FailedRun("fastv 5%", "fastv", 0.05, "Out of reach."),))
    assert "fastv 5%: could not run. Out of reach." in text_of(profile_report(profile))


@pytest.mark.parametrize("pruned", [1, 2, 4])
def test_profile_table_without_the_unpruned_run(pruned: int) -> None:
    shown = text_of(profile_report(sample_without_full(pruned)))
    assert "750 video, 200 audio, 50 text" in shown
    assert "full: could not run. Out of memory on the GPU in the warm-up." in shown
    assert " ".join(shown.split()).count("unpruned does not fit: no ratio") == pruned
    assert "faster" not in shown
    assert not re.search(r"\dx\b", shown)


def test_the_sentence_without_the_unpruned_run() -> None:
    assert sentence(sample_profile().pruned[0], None) == (
        "seats 25%: prefill 0.40 s; first token 1.40 s: the encoders are 57 % of the time; "
        "unpruned does not fit: no ratio"
    )


def test_comparison_without_the_unpruned_answer() -> None:
    comparison = sample_comparison_without_full()
    shown = text_of(comparison_report(comparison))
    assert "could not run: Out of memory on the GPU." in shown
    assert "The unpruned model does not fit" in shown
    row = next(line for line in shown.split("\n") if line.startswith("seats 25%"))
    assert row.split()[2:6] == ["-"] * 4
    document = documents.comparison_document(comparison)
    assert document["unpruned_fits"] is False
    assert document["runs"][0]["error"] == "Out of memory on the GPU."
    for key in ("same_answer", "same_first_token", "first_token_kl_nats", "token_agreement"):
        assert all(run[key] is None for run in document["runs"])
    assert len(comparison_markdown(comparison).split("\n")) == 6


def test_comparison_table() -> None:
    shown = text_of(comparison_report(sample_comparison()))
    assert "0.012" in shown
    assert "could not run: This budget is out of reach." in shown
    assert "a blue | card" in shown


def test_comparison_says_what_the_encoders_were_spared() -> None:
    whole = sample_comparison()
    answer = whole.runs[0].answer
    assert answer is not None
    cost = dataclasses.replace(answer.cost, encoder_flops=3e9, full_encoder_flops=4e9)
    spared = dataclasses.replace(whole.runs[1], answer=dataclasses.replace(answer, cost=cost))
    comparison = dataclasses.replace(whole, runs=(whole.runs[0], spared, *whole.runs[2:]))
    for shown in (text_of(comparison_report(comparison)), comparison_markdown(comparison)):
        rows = [line for line in shown.splitlines() if "seats 25%" in line]
        assert "75 %" in rows[0]
        assert "enc." in shown
    assert "enc." not in text_of(comparison_report(whole))


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("label", ["seats 25%", "seats 25% still 4 reuse 0.97 keep 35%"])
def test_cards_show_what_the_table_shows(label: str, width: int) -> None:
    whole = sample_comparison()
    answer = whole.runs[0].answer
    assert answer is not None
    cost = dataclasses.replace(answer.cost, encoder_flops=3e9, full_encoder_flops=4e9)
    spared = dataclasses.replace(
        whole.runs[1], label=label, answer=dataclasses.replace(answer, cost=cost)
    )
    comparison = dataclasses.replace(whole, runs=(whole.runs[0], spared, *whole.runs[2:]))
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(comparison_report(comparison))
    numbers = console.file.getvalue().partition("Answer")[0]  # type: ignore[attr-defined]
    row = compared_row(spared)
    for column in compare_table._numbers(skips=True)[1:]:
        if column.header != compare_table._MEMORY:
            assert column.header in numbers
            assert str(column.cell(row)) in numbers


def test_comparison_markdown() -> None:
    lines = comparison_markdown(sample_comparison()).split("\n")
    assert len(lines) == 6
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "a blue \\| card or so" in lines[4]
    assert "out of reach" in lines[5]


def test_documents_are_plain_json() -> None:
    for document in (
        documents.profile_document(sample_profile(2)),
        documents.comparison_document(sample_comparison()),
    ):
        again = json.loads(dump_document(document))
        assert again["schema_version"] == "1"
        assert again["versions"]["torch"]


def test_profile_document() -> None:
    document = documents.profile_document(sample_profile())
    run = document["runs"][1]
    assert run["stages"]["prefill"]["median_s"] == 0.3
    assert run["speed_up"]["prefill_and_selection"] == pytest.approx(5.0)
    assert run["speed_up"]["stage1"] is None
    assert run["prefill_flops_ratio"] == 4.0
    assert run["prefill_segments"][1]["first_layer"] == 17
    assert len(run["alive_per_layer"]) == 28
    assert document["reading"]["media_decode"]["p90_s"] == 0.6


def test_profile_document_without_the_unpruned_run() -> None:
    document = documents.profile_document(sample_without_full())
    assert document["unpruned_fits"] is False
    assert document["tokens"]["offered"]["total"] == 1000
    assert [run["label"] for run in document["runs"]] == ["seats 25%", "seats 35%"]
    for run in document["runs"]:
        assert set(run["speed_up"].values()) == {None}
        assert run["stages"]["prefill"]["median_s"] == 0.3
    assert document["failed"] == [
        {
            "label": "full",
            "method": "full",
            "retain": None,
            "error": "Out of memory on the GPU in the warm-up.",
        }
    ]


def test_csv_without_the_unpruned_run() -> None:
    rows = list(csv.DictReader(io.StringIO(documents.profile_csv(sample_without_full()))))
    assert {row["speed_up"] for row in rows} == {""}
    assert [row["label"] for row in rows if row["error"]] == ["full"]
    assert rows[-1]["error"] == "Out of memory on the GPU in the warm-up."
    assert rows[-1]["median_s"] == ""


def test_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(documents.profile_csv(sample_profile()))))
    assert {row["label"] for row in rows} == {"full", "seats 25%"}
    assert {row["stage"] for row in rows} >= {"probe", "media_decode", "prefill", "first_token"}
    compared = list(csv.DictReader(io.StringIO(documents.comparison_csv(sample_comparison()))))
    assert compared[2]["answer"] == "a blue | card\nor so"
    assert compared[3]["error"] == "This budget is out of reach."
    assert compared[3]["prefill_s"] == ""
    assert documents.csv_text([]) == ""


def test_plan_table_and_document() -> None:
    outline = ClipOutline(FACTS, 2.0, ("Something was lost.",))
    for config in (SeatsConfig(retain=0.1), None):
        planned = plan_run(outline, find_model("qwen2.5-omni-7b"), config)
        shown = text_of(plan_report(planned))
        assert "about 40 text" in shown
        assert "selection FLOPs" in shown
        document = documents.plan_document(planned)
        assert json.loads(dump_document(document))["warnings"] == ["Something was lost."]
        assert document["tokens"]["offered"]["video"] == 12 * 9 * 16
        assert len(document["tokens"]["alive_per_layer"]) == 28


def test_windows_line() -> None:
    assert windows_line([], "video") == "no video tokens"
    assert windows_line([30, 30, 7], "audio") == "3 windows of audio tokens: 2 of 30, 1 of 7"


def test_paper_markdown() -> None:
    lines = paper_markdown().split("\n")
    assert len(lines) == 2 + 10
    assert "| qwen2.5-omni-7b | full | 111.0 | 111.00 | -0.0 % |" in lines


class TestPlot:
    def test_writes_a_picture(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        path = tmp_path / "a.png"
        plot_profile(sample_profile(4), path)
        assert path.read_bytes().startswith(b"\x89PNG")
        plot_profile(sample_profile(0), tmp_path / "b.svg")
        assert (tmp_path / "b.svg").stat().st_size > 1000
        plot_profile(sample_without_full(), tmp_path / "c.svg")
        assert "unpruned does not fit: no ratio" in (tmp_path / "c.svg").read_text()

    def test_settings_of_the_encoders_have_markers_of_their_own(self) -> None:
        figure = pytest.importorskip("matplotlib.figure").Figure()
        skips = ("", " still 4", " reuse 0.97 keep 35%")
        profile = dataclasses.replace(
            sample_profile(1),
            pruned=tuple(
                measured_run(f"seats {share:.0%}{own}", PRUNED_TIMES, share)
                for share in (0.25, 0.1)
                for own in skips
            ),
        )
        axes = figure.add_subplot()
        plots._pareto(axes, profile)
        marks = {box.get_label(): box[0].get_marker() for box in axes.containers}
        named = {label: mark for label, mark in marks.items() if not label.startswith("_")}
        assert list(named) == [
            f"{stage}{own}"
            for stage in ("first token", "prefill + select")
            for own in ("", ", still 4", ", reuse 0.97 keep 35%")
        ]
        assert len(set(named.values())) == 6
        drawn = [box[0].get_marker() for box in axes.containers]
        assert {mark: drawn.count(mark) for mark in "o^D"} == {"o": 3, "^": 2, "D": 2}

    def test_labels_are_split_as_they_were_made(self) -> None:
        for still, cosine, share in product((None, 4.0, 1e-5), (None, 0.97), (None, 0.355)):
            config = SeatsConfig(still_tolerance=still, encoder_reuse=cosine, encoder_keep=share)
            for plain in ("full", "seats 10%", "divprune-om as configured"):
                made = skips_words(config)
                assert split_label(plain + made) == (plain, made)

    def test_runs_that_keep_as_many_tokens_are_one_line(self) -> None:
        """Encoder reuse changes no count: its lines would lie on each other."""
        figure = pytest.importorskip("matplotlib.figure").Figure()
        profile = sample_profile(1)
        runs = [
            measured_run("full keep 35%", FULL_TIMES, 1.0),
            *profile.pruned,
            measured_run("seats 25% keep 35%", PRUNED_TIMES, 0.25),
        ]
        axes = figure.add_subplot()
        plots._alive(axes, dataclasses.replace(profile, pruned=tuple(runs)))
        shown = [text.get_text() for text in axes.get_legend().get_texts()]
        assert shown == ["full", "seats 25%"]
        # Another method is a line of its own, though it keeps as many.
        other = dataclasses.replace(profile.pruned[0], label="fastv 25%", method="fastv")
        axes = figure.add_subplot()
        plots._alive(axes, dataclasses.replace(profile, pruned=(*profile.pruned, other)))
        shown = [text.get_text() for text in axes.get_legend().get_texts()]
        assert shown == ["full", "seats 25%", "fastv 25%"]

    def test_refusals(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UsageError, match="must end in"):
            check_plot(tmp_path / "a.jpeg")
        with pytest.raises(UsageError, match="does not exist"):
            check_plot(tmp_path / "none" / "a.png")
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(UsageError, match="matplotlib"):
            check_plot(tmp_path / "a.png")
