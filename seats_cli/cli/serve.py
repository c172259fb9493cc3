"""`seats serve`: the model behind an OpenAI-compatible API."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seats_cli.cli import options as opt
from seats_cli.cli.console import Talk, calm_libraries
from seats_cli.cli.option_groups import Omit, grouped
from seats_cli.cli.option_parsers import server_option
from seats_cli.cli.sources import open_model
from seats_cli.cli.to_config import build_config
from seats_cli.errors import UsageError
from seats_cli.media.clip import ReadOptions

if TYPE_CHECKING:
    from seats_cli.serve import ServeOptions

EPILOG = (
    "Examples: seats serve --model Qwen/Qwen2.5-Omni-7B --retain 10%, then "
    "OpenAI(base_url='http://127.0.0.1:8000/v1', api_key='none'). "
    "Any address but this machine's own needs a key in SEATS_API_KEY."
)
KEY_VARIABLE = "SEATS_API_KEY"  # not an option: the command line of a process is no secret
_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@dataclass(frozen=True)
class ServerFlags:
    """Where the server listens, and what requests may take; fields are those of `ServeOptions`."""

    host: Annotated[str, server_option("--host ADDRESS", "Where to listen.")] = "127.0.0.1"
    port: Annotated[int, server_option("--port N", "0 takes any free one.", min=0, max=65535)] = (
        8000
    )
    media_root: Annotated[
        Path | None,
        server_option(
            "--media-root DIR", "Read file: URLs below this folder.", shown="no files are read"
        ),
    ] = None
    max_requests: Annotated[
        int,
        server_option(
            "--max-requests N",
            "Requests under way or waiting; others are told to come back later (429).",
            min=1,
        ),
    ] = 16
    timeout_s: Annotated[
        float, server_option("--timeout SECONDS", "The longest that a request may take.")
    ] = 600.0
    max_body: Annotated[
        int, server_option("--max-body MIB", "Largest request, data: URLs included.", min=1)
    ] = 64
    max_media: Annotated[
        int, server_option("--max-media MIB", "Largest file behind a URL.", min=1)
    ] = 1024
    session_memory: Annotated[
        int,
        server_option(
            "--session-memory MIB", "Memory for clips that stay open; 0 keeps none.", min=0
        ),
    ] = 4096
    quiet: Annotated[bool, server_option("--quiet -q", "No notices or progress.")] = False
    debug: Annotated[
        bool, server_option("--debug", "Show tracebacks and the libraries' own messages.")
    ] = False


@grouped
def serve(
    context: typer.Context,
    *,
    read: opt.ReadFlags,
    allow_local_urls: opt.AllowLocalUrls = False,
    budget: opt.BudgetFlags,
    model: opt.ModelFlags,
    generation: Annotated[opt.GenerationFlags, Omit("choices")],
    server: ServerFlags,
) -> None:
    """Answer questions about clips over HTTP, as OpenAI's chat completions.

    Clips stay open between requests: a further question about one is answered much sooner. Budget,
    input and sampling are what requests get that do not say otherwise.
    """
    talk = Talk(quiet=server.quiet)
    check_packages()
    config = build_config(budget, context)
    for warning in () if config is None else config.idle_warnings():
        talk.warning(warning)

    from seats_cli.serve import ServeOptions

    own = dataclasses.fields(ReadOptions)
    answering = dataclasses.asdict(generation)
    del answering["choices"]
    key = os.environ.get(KEY_VARIABLE)
    options = ServeOptions(
        config=config,
        read=ReadOptions(**{field.name: getattr(read, field.name) for field in own}),
        generation=answering,
        host=server.host,
        port=server.port,
        api_key=key or None,
        media_root=_folder(server.media_root),
        allow_local_urls=allow_local_urls,
        offline=model.offline,
        max_requests=server.max_requests,
        timeout_s=server.timeout_s,
        max_body_bytes=server.max_body << 20,
        max_media_bytes=server.max_media << 20,
        session_bytes=server.session_memory << 20,
    )
    calm_libraries(debug=server.debug, quiet=server.quiet)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    _serve(options, model, talk)


def _serve(options: ServeOptions, model: opt.ModelFlags, talk: Talk) -> None:
    from seats_cli.serve.answering import Answerer
    from seats_cli.serve.app import listen, run_server
    from seats_cli.serve.model_queue import ModelQueue

    with listen(options) as sock:  # before minutes are spent on loading a model
        loaded = open_model(model, talk)
        backend = ModelQueue(Answerer(loaded, options), options, loaded.facts.id)
        host = f"[{options.host}]" if ":" in options.host else options.host
        where = f"http://{host}:{sock.getsockname()[1]}/v1"
        run_server(
            backend,
            options,
            sock,
            lambda: talk.notice(f"Serving {backend.model} at {where}. Ctrl-C ends it."),
        )


def check_packages() -> None:
    """Refuse to go on without the server's packages; imports nothing.

    Raises
    ------
    UsageError
    """
    missing = [name for name in _NEEDED if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(
            f"The server needs {' and '.join(missing)}: pip install 'seats-cli[serve]'."
        )


def _folder(path: Path | None) -> str | None:
    """The folder below which files are read.

    Raises
    ------
    UsageError
        If there is none.
    """
    if path is None:
        return None
    found = path.expanduser().resolve()
    if not found.is_dir():
        raise UsageError(f"--media-root {path} is not a folder.")
    return str(found)
