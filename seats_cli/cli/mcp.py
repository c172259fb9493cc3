"""`seats mcp`: a server of the Model Context Protocol on stdin and stdout."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk, calm_libraries
from seats_cli.cli.option_groups import grouped
from seats_cli.cli.option_parsers import input_option
from seats_cli.cli.runtime import resume_collection
from seats_cli.errors import UsageError

EPILOG = (
    "Example, in the configuration of a client: command seats, arguments mcp, --root, "
    "/home/me/clips, --model, Qwen/Qwen2.5-Omni-7B. Its tools are ask_clip and plan_clip."
)


@grouped
def mcp(
    context: typer.Context,
    *,
    root: Annotated[
        Path | None,
        input_option(
            "--root DIR",
            "The folder below which clips may be read; links that lead out of it are not followed.",
            shown="the current folder",
        ),
    ] = None,
    model: opt.ModelFlags,
    max_new_tokens: opt.OwnMaxNewTokens = None,
    debug: opt.Debug = False,
) -> None:
    """Let a program that speaks MCP ask about clips (extra mcp).

    It starts this command and talks to it over stdin and stdout. The model is loaded with the
    first question, and clips stay open for further ones.
    """
    # Looked for before anything that it needs is imported: libraries take seconds.
    if find_spec("mcp") is None:
        raise UsageError("seats mcp needs the package mcp: pip install 'seats-cli[mcp]'.")
    calm_libraries(debug=debug, quiet=True)
    resume_collection()

    from seats_cli.config import ModelOptions
    from seats_cli.plugins.mcp_server import make_server

    server = make_server(
        (root or Path()).expanduser(),
        ModelOptions(**model.arguments()),
        max_new_tokens=max_new_tokens,
    )
    if sys.stdin is not None and sys.stdin.isatty():
        Talk().notice("This is for programs that speak MCP; Ctrl-C ends it. See seats mcp --help.")
    server.run("stdio")
