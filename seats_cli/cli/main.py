"""The `seats` command: its subcommands and global options.

Nothing here or in the modules it imports may import torch, transformers or numpy; commands
import those inside their functions, so that `seats --help` answers at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from seats_cli import __version__
from seats_cli.cli import batch, chat, compare, index, mcp, plan, profile, runtime, serve, show
from seats_cli.cli import eval as evaluate
from seats_cli.cli.ask import EPILOG, ask
from seats_cli.cli.console import prepare_streams
from seats_cli.cli.defaults import PlainCommand, SettingsCommand
from seats_cli.cli.doctor import config, doctor
from seats_cli.cli.runtime import GuardedGroup

app = typer.Typer(
    cls=GuardedGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask about a video and its sound, with Qwen-Omni models and SEATS token pruning.",
    epilog=(
        "Exit codes: 0 ok, 1 unexpected error, 2 usage, 3 unreadable media, 4 model not "
        "available, 5 out of memory, 6 some items of a batch failed, 130 interrupted."
    ),
)
app.command(cls=SettingsCommand, epilog=EPILOG)(ask)
app.command(cls=SettingsCommand, epilog=chat.EPILOG)(chat.chat)
app.command(cls=SettingsCommand, epilog=plan.EPILOG)(plan.plan)
app.command(cls=SettingsCommand, epilog=profile.EPILOG)(profile.profile)
app.command(cls=SettingsCommand, epilog=compare.EPILOG)(compare.compare)
app.command(cls=SettingsCommand, epilog=show.EPILOG)(show.show)
app.command("index", cls=SettingsCommand, epilog=index.EPILOG)(index.index)
app.command("batch", cls=batch.BatchCommand, epilog=batch.EPILOG)(batch.batch)
app.command("serve", cls=SettingsCommand, epilog=serve.EPILOG)(serve.serve)
app.command("eval", cls=SettingsCommand, epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command("mcp", cls=SettingsCommand, epilog=mcp.EPILOG)(mcp.mcp)
app.command(cls=PlainCommand)(doctor)
app.command(cls=PlainCommand)(config)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"seats {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    # --debug is read from the raw arguments by the guard, because parsing itself may fail.
    pass


def main() -> None:
    """Run the command line; never returns."""
    runtime.pause_collection()
    prepare_streams()
    app()
