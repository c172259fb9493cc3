"""Flag before environment before project file before user's file before default."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seats_cli.cli.defaults import KEYS, SettingsCommand, settings_files, shown_path
from tests.cli.fakes import CALLS


@pytest.fixture
def user_file(run):
    path = settings_files()[1]
    path.parent.mkdir(parents=True)
    return path


def fps(run, clip, *arguments):
    result = run("ask", clip, "What?", "-q", *arguments)
    assert result.exit_code == 0, result.stderr
    return CALLS["read_clip"]["fps"]


def test_precedence(run, clip, user_file, monkeypatch):
    assert fps(run, clip) == 2.0
    user_file.write_text("fps = 3\n")
    assert fps(run, clip) == 3.0
    Path("seats.toml").write_text("fps = 4.0\n")
    assert fps(run, clip) == 4.0
    monkeypatch.setenv("SEATS_FPS", "5")
    assert fps(run, clip) == 5.0
    assert fps(run, clip, "--fps", "6") == 6.0
    monkeypatch.setenv("SEATS_FPS", "")
    assert fps(run, clip) == 4.0


def test_model_from_environment_and_file(run, clip, monkeypatch):
    Path("seats.toml").write_text('model = "from/file"\noffline = true\nretain = "10%"\n')
    run("ask", clip, "What?")
    assert CALLS["load_model"]["model"] == "from/file"
    assert CALLS["load_model"]["offline"] is True
    assert CALLS["ask"]["config"].retain == pytest.approx(0.1)
    monkeypatch.setenv("SEATS_MODEL", "from/env")
    run("ask", clip, "What?")
    assert CALLS["load_model"]["model"] == "from/env"


def test_a_bad_value_is_blamed_on_its_source(run, clip, monkeypatch):
    Path("seats.toml").write_text('fps = "fast"\n')
    result = run("ask", clip, "What?")
    assert result.exit_code == 2
    assert "seats.toml" in result.stderr
    monkeypatch.setenv("SEATS_FPS", "-1")
    assert "SEATS_FPS" in run("ask", clip, "What?").stderr
    assert "SEATS_FPS" not in run("ask", clip, "What?", "--fps", "0").stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_frame = 3", "max_frames"),
        ("question = 'x'", "is not a setting"),
        ("fps = [1]", "plain value"),
        ("fps = ", "TOML"),
    ],
)
def test_a_bad_file_is_a_usage_error_that_names_it(run, clip, text, words):
    Path("seats.toml").write_text(text)
    result = run("ask", clip, "What?")
    assert result.exit_code == 2
    assert "seats.toml" in result.stderr
    assert words in result.stderr
    assert run("ask", "--help").exit_code == 0


def test_home_is_not_shown():
    assert shown_path(Path.home() / "x") == "~/x"
    assert shown_path(Path("/srv/x")) == "/srv/x"


def test_config_shows_values_and_origins(run, monkeypatch):
    Path("seats.toml").write_text("fps = 4.0\n")
    monkeypatch.setenv("SEATS_RETAIN", "10%")
    rows = [line.split() for line in run("config").stdout.splitlines()]
    assert ["fps", "4.0", "seats.toml"] in rows
    assert ["retain", "10%", "SEATS_RETAIN"] in rows
    assert ["max_frames", "768", "default"] in rows
    assert ["dtype", "auto", "default"] in rows
    assert ["model", "bundled", "default"] in rows
    settings = json.loads(run("config", "--json").stdout)["settings"]
    assert settings["fps"] == {"value": 4.0, "origin": "seats.toml"}
    assert settings["attn"] == {"value": "sdpa", "origin": "default"}


def ask_parameters() -> dict[str, Any]:
    from typer.main import get_command

    from seats_cli.cli.main import app

    command: Any = get_command(app)
    return {parameter.name: parameter for parameter in command.commands["ask"].params}


def test_the_settings_are_what_the_help_says():
    panels = {"Input", "Budget", "Model"}
    said = {
        name
        for name, parameter in ask_parameters().items()
        if getattr(parameter, "rich_help_panel", None) in panels
    }
    sampling = {"max_new_tokens", "temperature", "top_p", "top_k", "seed"}
    assert set(KEYS) == said | sampling


# A value that differs from the default, as text and as TOML would have it.
VALUES: dict[str, tuple[str, Any]] = {
    "model": ("some/model", "some/model"),
    "device": ("cpu", "cpu"),
    "dtype": ("float16", "float16"),
    "attn": ("eager", "eager"),
    "revision": ("main", "main"),
    "offline": ("yes", True),
    "quantize": ("4bit", "4bit"),
    "adapter": ("some/adapter", "some/adapter"),
    "start": ("0:01", 1.0),
    "end": ("3", 3.0),
    "fps": ("3", 3.0),
    "max_frames": ("6", 6),
    "max_pixels": ("99999", 99_999),
    "total_pixels": ("7777777", 7_777_777),
    "audio": ("no", False),
    "audio_track": ("1", 1),
    "video_track": ("1", 1),
    "max_audio": ("7", 7.0),
    "system": ("Be brief.", "Be brief."),
    "allow_local_urls": ("1", True),
    "retain": ("10%", 0.1),
    "retain_video": ("0.2", 0.2),
    "retain_audio": ("0.3", 0.3),
    "method": ("random", "random"),
    "full": ("true", True),
    "kv": ("survivors", "survivors"),
    "allocation": ("adaptive", "adaptive"),
    "skip_still": ("2", 2.0),
    "encoder_reuse": ("0.98", 0.98),
    "encoder_keep": ("35%", 0.35),
    "config": ("mine.toml", Path("mine.toml")),
    "max_new_tokens": ("9", 9),
    "temperature": ("0.5", 0.5),
    "top_p": ("0.9", 0.9),
    "top_k": ("5", 5),
    "seed": ("3", 3),
}


@pytest.mark.parametrize("name", KEYS)
def test_every_setting_holds_from_variable_and_file(run, clip, monkeypatch, name):
    text, value = VALUES[name]
    seen: list[Any] = []
    parse = SettingsCommand.make_context

    def noting(self: Any, *arguments: Any, **more: Any) -> Any:
        context = parse(self, *arguments, **more)
        seen.append(getattr(context.params[name], "value", context.params[name]))
        return context

    monkeypatch.setattr(SettingsCommand, "make_context", noting)
    monkeypatch.setenv(f"SEATS_{name.upper()}", text)
    run("ask", clip, "What?", "-q")
    monkeypatch.delenv(f"SEATS_{name.upper()}")
    toml = text if isinstance(value, int | float) and not isinstance(value, bool) else None
    plain = {True: "true", False: "false"}.get(value) if isinstance(value, bool) else toml
    if plain is None or not plain.replace(".", "").isalnum():
        plain = json.dumps(text)
    Path("seats.toml").write_text(f"{name} = {plain}\n")
    run("ask", clip, "What?", "-q")
    assert seen == [value, value]


def test_a_typed_budget_beats_settings(run, clip, monkeypatch):
    monkeypatch.setenv("SEATS_FULL", "1")
    run("ask", clip, "What?", "-q")
    assert CALLS["ask"]["config"] is None
    run("ask", clip, "What?", "-q", "--retain", "10%")
    assert CALLS["ask"]["config"].retain == pytest.approx(0.1)
    monkeypatch.setenv("SEATS_AUDIO", "no")
    run("ask", clip, "What?", "-q")
    assert CALLS["read_clip"]["audio"] is False
    run("ask", clip, "What?", "-q", "--audio")
    assert CALLS["read_clip"]["audio"] is True
