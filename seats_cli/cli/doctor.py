"""`seats doctor`: an environment report to paste into an issue."""

from __future__ import annotations

import textwrap
from typing import Any

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import calm_libraries, print_document, stdout_is_unicode

_WIDTH = 80


def doctor(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Report the environment, in a form to paste into an issue."""
    calm_libraries(debug=debug, quiet=True)
    from seats_cli.cli.environment import environment

    sections = environment()
    if as_json:
        from seats_cli.report.document import SCHEMA_VERSION, dump_document, jsonable

        document = jsonable({"schema_version": SCHEMA_VERSION, **sections})
        print_document(dump_document(document, ascii_only=not stdout_is_unicode()))
        return
    typer.echo("\n\n".join(_section(name, facts) for name, facts in sections.items()))


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
