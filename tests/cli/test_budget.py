"""Budget options become a configuration."""

from __future__ import annotations

import pytest

from seats_cli.config import SeatsConfig
from tests.cli.fakes import CALLS


def asked(run, clip, *arguments):
    result = run("ask", clip, "What?", "-q", *arguments)
    assert result.exit_code == 0, result.stderr
    return CALLS["ask"]["config"]


def test_the_default_is_the_papers_25_percent(run, clip):
    assert asked(run, clip) == SeatsConfig.preset("25%")


@pytest.mark.parametrize("text", ["0.1", "10%", "10 %", ".1"])
def test_retain_as_ratio_or_percent(run, clip, text):
    assert asked(run, clip, "--retain", text).retain == pytest.approx(0.1)


@pytest.mark.parametrize("text", ["10", "0", "-0.1", "nan", "%", "ten", "101%", "1e-400", ""])
def test_no_share(run, clip, text):
    result = run("ask", clip, "What?", f"--retain={text}")
    assert result.exit_code == 2
    assert "--retain" in result.stderr


def test_each_modality_and_the_policies(run, clip):
    config = asked(
        run,
        clip,
        *["--retain-video", "5%", "--retain-audio", "0.5", "--kv", "survivors"],
        "--allocation",
        "adaptive",
    )
    assert (config.retain_video, config.retain_audio) == (0.05, 0.5)
    assert (config.kv, config.allocation) == ("survivors", "adaptive")


def test_full_is_unpruned_and_tolerates_no_budget(run, clip):
    assert asked(run, clip, "--full") is None
    result = run("ask", clip, "What?", "--full", "--retain", "0.1")
    assert result.exit_code == 2
    assert "--retain" in result.stderr


def test_a_file_with_flags_on_top(run, clip, tmp_path):
    (tmp_path / "my.toml").write_text('retain_video = 0.3\nretain_audio = 0.6\nkv = "survivors"\n')
    config = asked(run, clip, "--config", "my.toml", "--kv", "layerwise")
    assert (config.retain_video, config.retain_audio, config.kv) == (0.3, 0.6, "layerwise")
    assert asked(run, clip, "--config", "my.toml", "--retain", "0.2").retain_video is None


def test_a_missing_or_broken_file(run, clip, tmp_path):
    (tmp_path / "bad.toml").write_text("retain = = 3")
    for name in ("none.toml", "bad.toml"):
        result = run("ask", clip, "What?", "--config", name)
        assert result.exit_code == 2
        assert name in result.stderr


def test_settings_yield_to_flags_and_to_full(run, clip, monkeypatch):
    monkeypatch.setenv("SEATS_RETAIN_VIDEO", "0.3")
    assert asked(run, clip).retain_video == 0.3
    assert asked(run, clip, "--retain", "0.1").retain_video is None
    assert asked(run, clip, "--full") is None
