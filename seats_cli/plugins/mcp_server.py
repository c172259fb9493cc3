"""Tools for programs that speak the Model Context Protocol: ask a clip, plan a question about it.

The server reads files below one folder and nothing else: no URLs, and no link that leads out of it.
Messages go over stdin and stdout; whatever else is said goes to stderr.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio.to_thread
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from seats_cli import __version__
from seats_cli.config import ModelOptions
from seats_cli.errors import ADVICE, MediaError, SeatsError, out_of_memory_on
from seats_cli.families.registry import BUNDLED, named_shapes
from seats_cli.media.clip import ReadOptions
from seats_cli.plugins.clip_model import ClipModel, ClipSource, config_from
from seats_cli.report.documents import plan_document
from seats_cli.results import Turn

_INSTRUCTIONS = (
    "Ask about videos, sounds and pictures below {root}, with a model on this machine. Paths are "
    "relative to that folder. A clip stays open for a while: further questions about it are fast. "
    "plan_clip tells what a question would take, without running the model."
)
_MAX_CHARACTERS = 100_000  # of a question

Rate = Annotated[float, Field(gt=0, le=1000)]  # frames per second
Length = Annotated[int, Field(ge=1)]  # tokens
Result = TypeVar("Result")


class _LeftError(Exception):
    """The client has cancelled the call."""


@dataclass(frozen=True)
class Moment:
    """A part of the clip that the answer rests on."""

    start_s: float
    end_s: float
    modality: str  # "video" or "audio"
    share: float  # of the attention to the clip


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of the prompt."""

    video: int
    audio: int
    text: int


@dataclass(frozen=True)
class EarlierTurn:
    """A question that was asked before, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class ClipAnswer:
    """What `ask_clip` returns."""

    answer: str
    evidence: list[Moment]
    tokens_offered: TokenCounts
    average_retention: float | None  # of the clip's tokens, over the decoder's layers
    seconds: float  # in all
    warnings: list[str] = field(default_factory=list)
    thinking: str = ""  # what a Thinking model reasoned before


def make_server(root: Path, model: ModelOptions, *, max_new_tokens: int | None = None) -> MCPServer:
    """A server with the tools `ask_clip` and `plan_clip`.

    Parameters
    ----------
    root : Path
        The folder below which clips may be read.
    model : ModelOptions
        The model, which is loaded with the first question.
    max_new_tokens : int or None
        Longest answer, where a call does not say.

    Raises
    ------
    MediaError
        If there is no such folder.
    """
    if not root.is_dir():
        raise MediaError(f"{root} is not a folder; name one that holds the clips.")
    folder = Path(os.path.realpath(root))
    clips = ClipModel(model)
    server: MCPServer = MCPServer(
        "seats",
        title="seats",
        instructions=_INSTRUCTIONS.format(root=folder),
        version=__version__,
        log_level="WARNING",
    )

    async def ask_clip(
        path: str,
        question: str,
        retain: float | str | None = None,
        method: str | None = None,
        full: bool = False,
        start: float | None = None,
        end: float | None = None,
        fps: Rate = 2.0,
        audio: bool = True,
        system: str | None = None,
        history: list[EarlierTurn] | None = None,
        max_tokens: Length | None = None,
    ) -> ClipAnswer:
        """Answer a question about a video, a sound or a picture.

        path: the file, relative to the server's folder. retain: share of the clip's tokens to keep,
        as 0.1 or "10%" (default 25%); full keeps all of them. start, end: seconds. history: earlier
        questions about the clip with their answers, which the question may refer to. The result
        says which moments of the clip the answer rests on.
        """

        def work(check: Callable[[], None]) -> ClipAnswer:
            answer = clips.ask(
                ClipSource(path=path_below(folder, path)),
                _question(question),
                config=config_from(retain, method, full=full),
                read=ReadOptions(start=start, end=end, fps=fps, audio=audio),
                system=system,
                history=[Turn(turn.question, turn.answer) for turn in history or ()],
                max_new_tokens=max_tokens or max_new_tokens,
                check=check,
                on_text=lambda _piece: check(),
            )
            moments = [
                Moment(one.start_s, one.end_s, one.modality, one.share) for one in answer.evidence
            ]
            return ClipAnswer(
                answer=answer.text,
                evidence=moments,
                tokens_offered=TokenCounts(*answer.trace.offered),
                average_retention=answer.trace.average_retention()[2],
                seconds=answer.timing.total_s,
                warnings=list(answer.warnings),
                thinking=answer.thinking,
            )

        return await _in_thread(work)

    async def plan_clip(
        path: str,
        retain: float | str | None = None,
        full: bool = False,
        start: float | None = None,
        end: float | None = None,
        fps: Rate = 2.0,
        model_name: str | None = None,
        max_tokens: Length = 128,
    ) -> dict[str, Any]:
        """Tokens, FLOPs and memory that a question about a clip would take.

        Nothing is run: only the file's index is read. path and retain are as for ask_clip;
        model_name is another model than the server's: qwen2.5-omni-7b, qwen3-omni-30b-a3b.
        """

        def work(_check: Callable[[], None]) -> dict[str, Any]:
            from seats_cli.cost.estimate import find_model, plan_file

            if model_name is not None and model_name.lower() not in named_shapes():
                # A folder would be one outside of the root.
                raise ToolError(f"`model_name` is one of {', '.join(named_shapes())}.")
            found = find_model(model_name.lower() if model_name else model.model or BUNDLED)
            planned = plan_file(
                path_below(folder, path),
                ReadOptions(start=start, end=end, fps=fps),
                found,
                config_from(retain, full=full),
                max_new_tokens=max_tokens,
            )
            return plan_document(planned, memory=True)

        return await _in_thread(work)

    reads = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    server.add_tool(ask_clip, title="Ask a clip", annotations=reads)
    server.add_tool(plan_clip, title="Plan a question", annotations=reads)
    return server


def path_below(root: Path, path: str) -> str:
    """The file that a client names, if it lies below a folder, links followed.

    Parameters
    ----------
    root : Path
        The folder, itself without links.
    path : str
        Relative to it, or absolute.

    Raises
    ------
    MediaError
        If it lies elsewhere. Whether there is a file elsewhere is not told.
    """
    outside = MediaError(f"Only files below {root} may be read; give a path relative to it.")
    if "\0" in path:
        raise outside
    real = Path(os.path.realpath(root / path))
    if not real.is_relative_to(root):
        raise outside
    return str(real)


def _question(text: str) -> str:
    if len(text) > _MAX_CHARACTERS:
        raise ToolError(f"The question is longer than {_MAX_CHARACTERS:,} characters.")
    return text.strip()


async def _in_thread(work: Callable[[Callable[[], None]], Result]) -> Result:
    """Run something that takes long, which ends soon after the client has cancelled the call.

    `work` is given what it has to call now and then. Its errors become sentences for the client.
    """
    left = threading.Event()

    def check() -> None:
        if left.is_set():
            raise _LeftError

    try:
        return await anyio.to_thread.run_sync(partial(work, check), abandon_on_cancel=True)
    except SeatsError as error:
        raise ToolError(str(error)) from error
    except Exception as error:
        place = out_of_memory_on(error)
        if place is None:
            raise
        raise ToolError(f"Out of memory on the {place}. {ADVICE}") from error
    finally:
        left.set()
