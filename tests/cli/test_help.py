"""Help: fast, complete, narrow; and the ways to start the program."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import seats_cli
from seats_cli.cli.main import app

HEAVY = ("torch", "transformers", "numpy", "av", "librosa", "huggingface_hub")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["ask", "--help"], ["show", "--help"], ["doctor", "--help"]]
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        "from seats_cli.cli.main import main\n"
        f"sys.argv = ['seats', *{arguments!r}]\n"
        "try:\n    main()\n"
        f"finally:\n    print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "[]\n"


def test_module_and_version():
    done = subprocess.run(
        [sys.executable, "-m", "seats_cli", "--version"], capture_output=True, text=True
    )
    assert done.stdout == f"seats {seats_cli.__version__}\n"


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("command", [(), ("ask",), ("show",), ("doctor",), ("config",)])
def test_every_line_fits(run, monkeypatch, command, width):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)  # read from the environment once
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert max(len(line) for line in result.stdout.splitlines()) <= width
    assert "…" not in result.stdout


def test_panels_and_defaults(run):
    text = " ".join(run("ask", "-h").stdout.split())
    for words in ("Input", "Budget", "Model", "Output", "25%", "SEATS_MODEL", "--retain-video"):
        assert words in text


def test_exit_codes_are_documented(run):
    text = " ".join(run("--help").stdout.split())
    for code in ("0 ok", "2 usage", "3 unreadable", "4 model", "5 out of memory", "130"):
        assert code in text


def test_no_arguments_is_help(run):
    result = run()
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_unknown_command_is_one_line(run):
    result = run("aks")
    assert result.exit_code == 2
    assert "Did you mean 'ask'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [[], ["ask"], ["eval"], ["config"]])
def test_flags_are_whole_in_a_narrow_terminal(command, monkeypatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "40")
    monkeypatch.setenv("COLUMNS", "40")
    shown = CliRunner().invoke(app, [*command, "--help"]).stdout
    found = get_command(app)
    for name in command:
        found = found.commands[name]
    flags = {flag for parameter in found.params for flag in getattr(parameter, "opts", ())}
    assert all(flag in shown for flag in flags if flag.startswith("--"))
    assert "…" not in shown
