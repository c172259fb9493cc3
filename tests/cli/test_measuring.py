"""`seats plan`, `profile` and `compare` on the bundled model and a real clip; no times asserted."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from seats_cli.cli.main import app
from seats_cli.cli.to_config import parse_shares
from seats_cli.cost.estimate import find_model

ASSETS = Path(__file__).parents[2] / "assets"
CLIP = str(ASSETS / "sees_cat_says_dog.mp4")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("SEATS_DEBUG", "SEATS_MODEL", "SEATS_RETAIN", "SEATS_FPS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)  # read from the environment once
    monkeypatch.chdir(tmp_path)


def seats(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def quick(*arguments: str) -> Result:
    return seats(
        "profile", CLIP, "--repeats", "1", "--warm-ups", "0", "--new-tokens", "2", *arguments
    )


class TestHelp:
    @pytest.mark.parametrize("command", ["plan", "profile", "compare"])
    def test_fits_and_has_panels(self, command: str) -> None:
        result = seats(command, "--help")
        assert result.exit_code == 0
        assert max(len(line) for line in result.stdout.splitlines()) <= 80
        assert "…" not in result.stdout
        for panel in ("Input", "Budget", "Model", "Output"):
            assert panel in result.stdout


class TestPlan:
    def test_report_on_stdout(self) -> None:
        result = seats("plan", CLIP, "--model", "qwen2.5-omni-7b", "--retain", "10%")
        assert result.exit_code == 0, result.stderr
        assert "in layers 1 to 16" in result.stdout
        assert result.stderr == ""

    def test_json(self) -> None:
        result = seats("plan", CLIP, "--full", "--json", "--text-tokens", "10")
        document = json.loads(result.stdout)
        assert document["kind"] == "plan"
        assert document["tokens"]["offered"]["text"] == 10
        assert document["plan"] is None
        assert document["cost"]["prefill_flops"] == document["cost"]["full_prefill_flops"]

    def test_warns_of_thin_sampling_and_overflow(self) -> None:
        limit = find_model("bundled").architecture.max_positions
        result = seats("plan", CLIP, "--max-frames", "2", "--text-tokens", str(limit))
        assert result.exit_code == 0
        assert "--max-frames" in result.stderr
        assert f"context holds {limit:,}" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            ((CLIP, "--model", "no/such"), 4),
            ((CLIP, "--retain", "2"), 2),
            ((CLIP, "--max-pixels", "3"), 2),
            (("missing.mp4",), 3),
        ],
    )
    def test_refusals(self, arguments: tuple[str, ...], code: int) -> None:
        result = seats("plan", *arguments)
        assert result.exit_code == code
        assert result.stderr.startswith("Error: ")


class TestProfile:
    def test_report_csv_and_picture(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        result = quick("--retain", "25%,10%", "--csv", "a.csv", "--plot", "a.png")
        assert result.exit_code == 0, result.stderr
        assert "seats 10%: prefill" in result.stdout
        assert max(len(line) for line in result.stdout.splitlines()) <= 80
        rows = list(csv.DictReader((tmp_path / "a.csv").open()))
        assert {row["label"] for row in rows} == {"full", "seats 25%", "seats 10%"}
        assert (tmp_path / "a.png").stat().st_size > 10_000

    def test_json_with_methods(self) -> None:
        result = quick("--method", "random,seats", "--retain", "0.25", "--json", "-q")
        document = json.loads(result.stdout)
        assert [run["method"] for run in document["runs"]] == ["full", "random", "seats"]
        assert document["runs"][2]["cost"]["selection_flops"] > 0

    def test_random_weights_and_synthetic_clip(self) -> None:
        line = (
            "profile --random-weights cpu-0.5b --layers 2 --hidden 64 --synthetic 2 --json "
            "--max-pixels 12544 --repeats 1 --warm-ups 0 --new-tokens 1"
        )
        result = seats(*line.split())
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["media"]["frames_used"] == 4
        assert document["architecture"]["num_layers"] == 2
        assert "probe" not in document["reading"]

    def test_questions_of_a_session(self, tmp_path: Path) -> None:
        line = ("--retain", "25%", "--questions", "3", "--question", "What is heard?")
        result = quick(*line, "--question", "Why?", "--json", "--csv", "a.csv")
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        texts = [one["question"] for one in document["questions"]]
        assert document["question"] == texts[0] == "What is heard?"
        assert texts[1] == "Why?"
        assert len(set(texts)) == 3
        for number, run in enumerate(document["sessions"]):
            times = [one["first_token"][number] for one in document["questions"]]
            assert {one["label"] for one in times} == {run["label"]}
            assert run["error"] is None
            # the first one reads, encodes and prefills the clip
            assert run["first_question_s"] == times[0]["median_s"] > times[1]["median_s"]
            assert run["first_over_further"] > 1
            assert run["session_bytes"] > 1_000_000
        rows = list(csv.DictReader((tmp_path / "a.csv").open()))
        stages = [row["stage"] for row in rows if row["label"] == "full"]
        assert [stage for stage in stages if "question" in stage] == [
            *(f"first_token_of_question_{number}" for number in (1, 2, 3)),
            "first_token_of_further_questions",
        ]
        shown = quick("--retain", "25%", "--questions", "2", "-q").stdout
        assert "1 What happens in this clip?" in shown
        assert "first / further" in shown
        assert max(map(len, shown.splitlines())) <= 80

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            (CLIP, "--questions", "1"),
            (CLIP, "--question", "Why?", "--question", "Why?"),
            (
                CLIP,
                "--question",
                "Why?",
                "--question",
                "How?",
                "--question",
                "A",
                "--questions",
                "2",
            ),
            (CLIP, "--synthetic", "3"),
            ("--synthetic", "3", "--layers", "2"),
            ("--synthetic", "3", "--start", "1"),
            ("--synthetic", "-3"),
            ("--synthetic", "3", "--random-weights", "gpt"),
            ("--synthetic", "3", "--random-weights", "cpu-0.5b", "-m", "x"),
            (CLIP, "--method", "guess"),
            (CLIP, "--retain", "10%,200%"),
            (CLIP, "--plot", "a.bmp"),
        ],
    )
    def test_refusals(self, arguments: tuple[str, ...]) -> None:
        result = seats("profile", *arguments)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["profile", "compare"])
def test_an_unpruned_run_that_does_not_fit_is_no_end(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seats_cli.engine import answer as module

    ask = module.ask
    module_of = {"profile": "profiling", "compare": "comparison"}

    def limited(*args: Any, config: Any, **others: Any) -> Any:
        if config is None:
            raise MemoryError
        return ask(*args, config=config, **others)

    monkeypatch.setattr(f"seats_cli.engine.{module_of[command]}.ask", limited)
    line = ("compare", CLIP, "What is shown?", "--max-new-tokens", "2")
    result = quick("--json") if command == "profile" else seats(*line, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["unpruned_fits"] is False
    errors = [run for run in (*document["runs"], *document.get("failed", ())) if run.get("error")]
    assert [run["label"] for run in errors] == ["full"]
    assert errors[0]["error"].startswith("Out of memory on the host")


class TestCompare:
    def compare(self, *arguments: str) -> Result:
        fixed = ("compare", CLIP, "What is shown?", "--max-new-tokens", "3")
        return seats(*fixed, *arguments)

    def test_table(self) -> None:
        result = self.compare("--retain", "25%")
        assert result.exit_code == 0, result.stderr
        assert max(len(line) for line in result.stdout.splitlines()) <= 80
        assert "seats 25%" in result.stdout

    def test_unreachable_budget_is_a_row(self) -> None:
        result = self.compare("--methods", "fastv,seats", "--retain", "1%", "--format", "csv")
        assert result.exit_code == 0, result.stderr
        rows = {row["method"]: row for row in csv.DictReader(io.StringIO(result.stdout))}
        assert rows["full"]["same_answer"] == "True"
        assert "reach" in rows["fastv"]["error"]
        assert rows["fastv"]["answer"] == ""

    def test_all_methods_as_json_and_markdown(self) -> None:
        from seats_cli.selection.methods import METHODS

        result = self.compare("--methods", "all", "--json")
        document = json.loads(result.stdout)
        runnable = [name for name in METHODS if name != "echoingpixels"]
        assert [run["method"] for run in document["runs"]] == runnable
        assert "'all' leaves out echoingpixels, whose weights" in result.stderr
        assert all(run["answer"] is not None or run["error"] for run in document["runs"])
        lines = self.compare("--format", "md").stdout.splitlines()
        assert [line[0] for line in lines] == ["|"] * 4

    def test_refusals(self) -> None:
        assert self.compare("--methods", "guess").exit_code == 2
        assert seats("compare", CLIP, " ").exit_code == 2
        assert seats("compare", "missing.mp4", "What?").exit_code == 3


def test_parse_shares() -> None:
    assert parse_shares(None) == ()
    assert parse_shares("10%, 0.25,0.10") == (0.1, 0.25)
