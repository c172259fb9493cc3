"""`seats doctor` and `seats config`: the machine, and where each setting comes from."""

from __future__ import annotations

import textwrap
from typing import Any

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import calm_libraries
from seats_cli.cli.defaults import KEYS, load_settings, settings_files, shown_path
from seats_cli.cli.outputs import print_json

_WIDTH = 80


def doctor(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Report the environment, in a form to paste into an issue."""
    calm_libraries(debug=debug, quiet=True)
    from seats_cli.cli.environment import environment

    sections = environment()
    if as_json:
        _print_json(sections)
        return
    typer.echo("\n\n".join(_section(name, facts) for name, facts in sections.items()))


def _print_json(content: dict[str, Any]) -> None:
    from seats_cli.report.documents import SCHEMA_VERSION
    from seats_cli.results import jsonable

    print_json(jsonable({"schema_version": SCHEMA_VERSION, **content}))


def _section(name: str, facts: dict[str, Any]) -> str:
    """One section as a Markdown heading and list."""
    lines = [f"### {name}", ""]
    for key, value in facts.items():
        text = f"- {_label(key)}: {_shown(key, value)}"
        lines += textwrap.wrap(
            text, _WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    return "\n".join(lines)


def _label(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ") if key.islower() else key


def _shown(key: str, value: Any) -> str:
    from seats_cli.report.format import format_bytes

    if key.endswith("_bytes"):
        return format_bytes(value)
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def config(context: typer.Context, as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Show each setting with its value and origin.

    The first of flag, SEATS_<NAME>, ./seats.toml, the user's config.toml and default wins.
    """
    settings = load_settings()
    defaults = _defaults(context)
    rows = {
        key: (settings[key].value, settings[key].origin)
        if key in settings
        else (defaults.get(key), "default")
        for key in KEYS
    }
    if as_json:
        values = {key: {"value": value, "origin": origin} for key, (value, origin) in rows.items()}
        _print_json({"settings": values})
        return
    for key, (value, origin) in rows.items():
        shown = "-" if value is None else str(getattr(value, "value", value))
        typer.echo(f"{key:<16}{shown:<24} {origin}")
    typer.echo(f"files: {', '.join(shown_path(path) for path in settings_files())}")


def _defaults(context: typer.Context) -> dict[str, Any]:
    """Defaults as `seats ask` declares them, so that they stand in one place only.

    Where nothing is passed on by default, the words of the help say what happens.
    """
    group: Any = context.find_root().command
    found: dict[str, Any] = {}
    for parameter in group.commands["ask"].params:
        words = parameter.show_default if isinstance(parameter.show_default, str) else None
        found[parameter.name] = words if parameter.default is None else parameter.default
    return found
