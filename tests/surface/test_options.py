"""What can be said to `seats`: options, configurations, settings and exported names."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import seats_cli
from seats_cli import SeatsConfig
from seats_cli.cli.main import main
from tests.surface.conftest import COMMANDS, FULL_CONFIG, GROUP, ROOT, SNAPSHOTS, Run, check

# A value of the right kind for every setting, none of them the default.
SETTINGS: dict[str, str | int | float | bool] = {
    "model": "some/model",
    "device": "cpu",
    "dtype": "float32",
    "attn": "eager",
    "revision": "main",
    "offline": True,
    "quantize": "4bit",
    "adapter": "some/adapter",
    "start": "0:01",
    "end": "0:03",
    "fps": 3.0,
    "max_frames": 64,
    "max_pixels": 100_000,
    "total_pixels": 9_000_000,
    "audio": False,
    "audio_track": 1,
    "video_track": 1,
    "max_audio": "0:30",
    "system": "Be brief.",
    "allow_local_urls": True,
    "retain": "10%",
    "retain_video": "20%",
    "retain_audio": "30%",
    "method": "random",
    "full": True,
    "kv": "survivors",
    "allocation": "adaptive",
    "skip_still": 2.0,
    "encoder_reuse": 0.98,
    "encoder_keep": "35%",
    "config": "mine.toml",
    "max_new_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 7,
    "seed": 3,
}
# What every option for a number is tried with, to find what it takes.
PROBES = ("-1", "0", "0.5", "1", "2", "25%", "256", "4294967296", "1e999", "", "x")

# Commands and options. Typer keeps types in another way in every version, so the type is that of
# the command's signature, and the default and the accepted numbers are what parsing makes of them.


def _parsed(command: Any, name: str, *arguments: str) -> dict[str, Any]:
    """The values that a command gets for its arguments, with those it cannot do without."""
    needed = [p.name for p in command.params if p.param_type_name == "argument" and p.required]
    values = command.make_context(name, [*needed, *arguments]).params
    plain = {key: getattr(value, "value", value) for key, value in values.items()}
    return {key: [] if value == () else value for key, value in plain.items()}


def _type(hint: Any) -> Any:
    """The type of one value of an optional or repeated parameter."""
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    return _type(inner[0]) if inner else hint


def _accepted(command: Any, name: str, option: Any) -> str:
    """Which of the probes an option takes, and as what."""
    found = []
    for probe in PROBES:
        try:
            value = _parsed(command, name, f"{option.opts[0]}={probe}")[option.name]
        except Exception as error:  # of a class that every version of Typer has elsewhere
            if getattr(error, "exit_code", None) != 2:
                raise
        else:
            found.append(f"{probe!r} is {value}")
    return ", ".join(found)


def _parameter(command: Any, name: str, parameter: Any, hint: Any, default: Any) -> dict[str, Any]:
    """One parameter in words that every version of Typer has; what is empty is left out."""
    kind = _type(hint)
    choices = [member.value for member in kind] if issubclass(kind, Enum) else None
    is_option = parameter.param_type_name == "option"
    described = {
        "names": ", ".join(parameter.opts),
        "negations": ", ".join(parameter.secondary_opts),
        "type": "choice" if choices else kind.__name__,
        "choices": ", ".join(choices or ()),
        "accepts": _accepted(command, name, parameter) if kind in (int, float) else None,
        "default": None if parameter.required else default,
        "shown_default": parameter.show_default if parameter.show_default is not True else None,
        "required": parameter.required,
        "multiple": is_option and parameter.multiple,
        "metavar": parameter.metavar,
        "variable": parameter.envvar,
        "panel": parameter.rich_help_panel,
        "hidden": parameter.hidden,
        "help": parameter.help,
    }
    may_be_false = ("default", "shown_default")
    return {
        key: value
        for key, value in described.items()
        if value or (key in may_be_false and value is not None)
    }


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").split("\n\n")]


def _described(command: Any, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A command as users know it; arguments in their order, options by name."""
    hints = typing.get_type_hints(command.callback)
    own = [p for p in command.params if p.name in hints]  # Typer adds some for completion
    described = {
        kind: [
            _parameter(command, name, p, hints[p.name], values[p.name])
            for p in own
            if p.param_type_name == kind
        ]
        for kind in ("argument", "option")
    }
    return {
        "help": _paragraphs(command.help),
        "epilog": _paragraphs(command.epilog),
        "arguments": described["argument"],
        "options": sorted(described["option"], key=lambda option: str(option["names"])),
    }


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_options_of_a_command_stay(run: Run, name: str) -> None:
    command = COMMANDS[name]
    check(f"commands/{name}.json", _described(command, name, _parsed(command, name)))


def test_commands_and_global_options_stay(run: Run) -> None:
    values = GROUP.make_context("seats", ["doctor"]).params
    described = _described(GROUP, "seats", values)
    check("commands/seats.json", {"commands": list(COMMANDS), **described})


@pytest.mark.parametrize("name", ["", *sorted(COMMANDS)])
def test_help_names_every_option(run: Run, name: str) -> None:
    result = run(*([name] if name else []), "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    text = re.sub(r"\x1b\[[\d;]*m", "", result.stdout)  # some CI machines count as terminals
    for parameter in (COMMANDS[name] if name else GROUP).params:
        for word in (*parameter.opts, *parameter.secondary_opts):
            assert word.lower() in text.lower()


# Configurations and settings


def test_keys_of_a_configuration_stay() -> None:
    fields = {
        field.name: {
            "type": field.type,
            "default": getattr(SeatsConfig(), field.name),
        }
        for field in dataclasses.fields(SeatsConfig)
    }
    check("config.json", {"written": SeatsConfig().to_dict(), "fields": fields})


def test_a_full_configuration_is_written_and_read_as_before(tmp_path: Path) -> None:
    config = SeatsConfig.from_dict(FULL_CONFIG)
    assert config.to_dict() == FULL_CONFIG
    own = {field.name for field in dataclasses.fields(SeatsConfig)} - {"options"}
    assert set(FULL_CONFIG) - own == {"contextual_ratio", "fastv_layer"}  # options of methods
    for name in ("config.toml", "config.json"):
        config.dump(tmp_path / name)
        assert SeatsConfig.load(tmp_path / name) == config
    check("config.toml", (tmp_path / "config.toml").read_text(encoding="utf-8"))
    assert SeatsConfig.load(SNAPSHOTS / "config.toml") == config


def test_settings_and_their_defaults_stay(run: Run) -> None:
    defaults = json.loads(run("config", "--json").stdout)
    assert defaults["settings"].keys() == SETTINGS.keys()
    _write_settings()
    obeyed = {}
    for name, command in COMMANDS.items():
        unset = {p.name: p.name in SETTINGS for p in command.params}
        values = _parsed(command, name)
        paths = {key: str(value) for key, value in values.items() if isinstance(value, Path)}
        obeyed[name] = {key: value for key, value in {**values, **paths}.items() if unset[key]}
    check("settings.json", {**defaults, "obeyed": obeyed})


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_is_taken_from_file_and_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    _write_settings()
    found = json.loads(run("config", "--json").stdout)["settings"][key]
    assert found == {"value": SETTINGS[key], "origin": "seats.toml"}
    monkeypatch.setenv(f"SEATS_{key.upper()}", "1")
    found = json.loads(run("config", "--json").stdout)["settings"][key]
    assert found == {"value": "1", "origin": f"SEATS_{key.upper()}"}


def _write_settings() -> None:
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in SETTINGS.items())
    Path("seats.toml").write_text("".join(lines))


# Names


def _signature(called: Any) -> list[str]:
    return [
        str(parameter.replace(annotation=parameter.empty))
        for parameter in inspect.signature(called).parameters.values()
    ]


def _exported(value: Any) -> dict[str, Any]:
    if not callable(value):
        return {"type": type(value).__name__}
    described: dict[str, Any] = {"type": type(value).__name__, "takes": _signature(value)}
    if inspect.isclass(value):
        arguments = {part.partition("=")[0] for part in described["takes"]}
        members = {key: getattr(value, key) for key in dir(value) if not key.startswith("_")}
        described["attributes"] = {
            key: _signature(member) if callable(member) else type(member).__name__
            for key, member in members.items()
            if key not in arguments
        }
    return described


def test_exported_names_stay() -> None:
    names = {name: _exported(getattr(seats_cli, name)) for name in seats_cli.__all__}
    assert set(names) <= set(dir(seats_cli))
    check("names.json", names)


def test_the_script_starts_the_same_program() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, scripts = text.partition("[project.scripts]\n")
    (target,) = re.findall(r'^seats = "([\w.]+:\w+)"$', scripts.split("\n[")[0], re.MULTILINE)
    module, _, name = target.partition(":")
    assert getattr(import_module(module), name) is main
