"""`--skip-still` and `--encoder-reuse` become settings, and reports say what they saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from seats_cli.cli.main import app
from seats_cli.cli.to_config import parse_reuses, parse_stills
from seats_cli.config import SeatsConfig
from seats_cli.errors import ConfigError
from tests import talking_head
from tests.cli.fakes import CALLS

BOTH = ("full", "seats 25%")


def asked(run: Any, clip: str, *arguments: str) -> SeatsConfig:
    result = run("ask", clip, "What?", "-q", *arguments)
    assert result.exit_code == 0, result.stderr
    config: SeatsConfig = CALLS["ask"]["config"]
    return config


class TestAsk:
    def test_off_unless_asked_for(self, run: Any, clip: str) -> None:
        assert asked(run, clip).still_tolerance is None
        assert asked(run, clip, "--full") is None

    def test_beside_a_budget(self, run: Any, clip: str) -> None:
        config = asked(run, clip, "--retain", "10%", "--skip-still", "2.5")
        assert config == SeatsConfig(retain=0.1, still_tolerance=2.5)

    def test_beside_a_split_from_a_file(self, run: Any, clip: str, tmp_path: Path) -> None:
        SeatsConfig(retain_video=0.2, still_tolerance=9.0).dump(tmp_path / "mine.toml")
        given = ("--config", "mine.toml")
        assert asked(run, clip, *given).still_tolerance == 9.0
        assert asked(run, clip, *given, "--skip-still", "0").still_tolerance == 0.0

    def test_beside_full_the_language_model_is_unpruned(self, run: Any, clip: str) -> None:
        config = asked(run, clip, "--full", "--skip-still", "0")
        assert config == SeatsConfig(method="full", still_tolerance=0.0)

    @pytest.mark.parametrize("text", ["-1", "256", "nan", "off", ""])
    def test_no_tolerance(self, run: Any, clip: str, text: str) -> None:
        result = run("ask", clip, "What?", f"--skip-still={text}")
        assert result.exit_code == 2
        assert "still" in result.stderr
        assert "Traceback" not in result.stderr


class TestConfig:
    @pytest.mark.parametrize("level", [-0.1, 255.1, float("nan"), "2", True])
    def test_out_of_range(self, level: Any) -> None:
        with pytest.raises(ConfigError, match="still_tolerance"):
            SeatsConfig(still_tolerance=level)


class TestSweep:
    def test_each_tolerance_once(self) -> None:
        assert parse_stills(None) == ()
        assert parse_stills("off, 2,0,2.0") == (None, 2.0, 0.0)

    @pytest.mark.parametrize("text", ["on", "", "2,", "-1", "256", "nan"])
    def test_no_tolerance(self, text: str) -> None:
        with pytest.raises(typer.BadParameter, match="grey levels"):
            parse_stills(text)


def reuse(cosine: float | None = None, share: float | None = None) -> dict[str, float | None]:
    return {"encoder_reuse": cosine, "encoder_keep": share}


class TestReuseSweep:
    @pytest.mark.parametrize(
        ("cosines", "shares", "found"),
        [
            (None, None, []),
            ("off,0.99", None, [reuse(), reuse(0.99)]),
            (" 0.990, OFF,0.99", None, [reuse(0.99), reuse()]),
            (None, "off,50%,0.35", [reuse(), reuse(share=0.5), reuse(share=0.35)]),
            ("off,0.9", "off,50%", [reuse(), reuse(0.9), reuse(share=0.5)]),  # off once
        ],
    )
    def test_each_setting_once(self, cosines: Any, shares: Any, found: Any) -> None:
        assert parse_reuses(cosines, shares) == found

    @pytest.mark.parametrize("text", ["on", "", "0.9,", "-0.1", "1.01", "nan", "0.9 0.8"])
    def test_no_cosine(self, text: str) -> None:
        with pytest.raises(typer.BadParameter) as found:
            parse_reuses(text, "off")
        assert found.value.param_hint == "--encoder-reuse"

    @pytest.mark.parametrize("text", ["none", "", "0", "120%", "nan"])
    def test_no_share(self, text: str) -> None:
        with pytest.raises(typer.BadParameter) as found:
            parse_reuses("off", text)
        assert found.value.param_hint == "--encoder-keep"


class TestProfile:
    """The bundled model on a talking head, compressed for real."""

    @pytest.fixture(scope="class")
    def head(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        path = tmp_path_factory.mktemp("head") / "head.mp4"
        talking_head.write(path, 4.0, size=(320, 180))
        return str(path)

    def quick(self, head: str, *arguments: str) -> str:
        given = ["--repeats", "1", "--warm-ups", "0", "--new-tokens", "2", "--retain", "25%"]
        result = CliRunner().invoke(app, ["profile", head, *given, *arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    def test_beside_the_unpruned_model(self, head: str) -> None:
        document = json.loads(self.quick(head, "--skip-still", "off,40", "--json"))
        runs = {run["label"]: run for run in document["runs"]}
        assert list(runs) == ["full", "full still 40", "seats 25%", "seats 25% still 40"]
        methods = [run["method"] for run in runs.values()]  # only one is the reference
        assert methods == ["full", "still", "seats", "seats"]
        whole = runs["full"]["cost"]
        for label, run in runs.items():
            assert run["cost"]["full_encoder_flops"] == whole["encoder_flops"]
            if not label.endswith("still 40"):
                assert run["still"] is None
                continue
            assert run["still"]["encoded_tokens"] < run["still"]["tokens"]
            saved = run["still"]["saved_flops"]
            assert saved > 0
            assert run["cost"]["encoder_flops"] == pytest.approx(whole["encoder_flops"] - saved)
        assert runs["full still 40"]["average_retention"] == 1.0

    def test_table(self, head: str) -> None:
        text = self.quick(head, "--skip-still", "off,40")
        assert "…" not in text
        lines = [line for line in text.splitlines() if line.startswith("picture encoded")]
        assert all("100.0 %" in line for line in lines)  # of the unpruned run, beside less
        assert max(len(line) for line in text.splitlines()) <= 80

    def test_reuse_beside_it(self, head: str) -> None:
        text = self.quick(head, "--encoder-reuse", "off,0.9", "--encoder-keep", "35%", "--json")
        runs = {run["label"]: run["encoder_reuse"] for run in json.loads(text)["runs"]}
        names = [f"{name}{asked}" for name in BOTH for asked in ("", " reuse 0.9", " keep 35%")]
        assert sorted(runs) == sorted(names)
        for label, facts in runs.items():
            if label in BOTH:
                assert facts is None
            else:
                assert facts["carried_tokens"] < facts["compared_tokens"] == facts["tokens"]

    def test_compare(self, head: str) -> None:
        given = ["compare", head, "What?", "--encoder-reuse", "off,0.9", "--max-new-tokens", "1"]
        result = CliRunner().invoke(app, given, env={"TERMINAL_WIDTH": "80"})
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.splitlines()
        header = next(number for number, line in enumerate(lines) if " enc. " in line)
        column = lines[header].index("enc.") - 1  # numbers end where their header does
        rows = lines[header + 1 : header + 5]
        encoded = {row[:20].strip(): row[column : column + 5].strip() for row in rows}
        assert list(encoded) == [f"{name}{asked}" for name in BOTH for asked in ("", " reuse 0.9")]
        assert [share == "100 %" for share in encoded.values()] == [True, False] * 2
        assert max(map(len, lines)) <= 80

    def test_eval(self, tmp_path: Path) -> None:
        given = ["eval", "synthetic", "--limit", "1", "--retain", "25%", "--encoder-reuse"]
        given += ["off,0.9", "--skip-still", "off,4", "--json", "-o", str(tmp_path / "run")]
        result = CliRunner().invoke(app, given)
        assert result.exit_code == 0, result.stderr
        labels = [setting["label"] for setting in json.loads(result.stdout)["settings"]]
        skips = ("", " reuse 0.9", " still 4", " still 4 reuse 0.9")
        assert sorted(labels) == sorted(f"{name}{asked}" for name in BOTH for asked in skips)


def test_the_report_of_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    clip = str(tmp_path / "head.mp4")
    talking_head.write(clip, 4.0, size=(320, 180))
    given = ["ask", clip, "What is shown?", "--full", "--skip-still", "40", "--max-new-tokens", "2"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.stderr
    words = " ".join(result.stderr.split())
    assert "Stage 0 of 4 grids 1 encoded whole" in words
    assert "unpruned, every token in every layer" in words
