"""The model and the clip that a command names: files, pipes, URLs, random weights."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import typer

from seats_cli.cli import runtime
from seats_cli.cli.console import Spinner, Talk, calm_libraries
from seats_cli.cli.option_groups import was_typed, with_flags
from seats_cli.cli.options import AnyModelFlags
from seats_cli.cli.runtime import at_end, note, stop_if_interrupted
from seats_cli.config import ModelOptions
from seats_cli.errors import MediaError, UsageError
from seats_cli.families.registry import BUNDLED, named_config
from seats_cli.media.clip import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seats_cli.config import SeatsConfig
    from seats_cli.engine.session import AskableModel
    from seats_cli.engine.session_reader import SavedIndex
    from seats_cli.families.base import FrameSizing
    from seats_cli.media.clip import Clip
    from seats_cli.media.probe import MediaSource
    from seats_cli.models import LoadedModel
    from seats_cli.results import Answer


PIPE = "-"
_DEMONSTRATION = (
    "This is the small bundled demonstration model, which knows simple shapes, colours, sounds "
    "and 41 words only (see seats doctor). For real answers use --model Qwen/Qwen2.5-Omni-7B "
    "on a GPU."
)
_NAME_BYTES = 100  # of a URL's file name; file systems allow 255

_folders: list[str] = []


@dataclass(frozen=True)
class InputFile:
    """A media file that a command names."""

    name: str  # as the user wrote it: a file, a URL, or "-"
    path: str  # of the file on this machine, which for "-" and URLs is gone when the command ends
    header: MediaSource  # what the file says about itself


@dataclass(frozen=True)
class IndexInput:
    """An index that a command names in place of a media file."""

    name: str
    path: str
    index: SavedIndex


def open_input(
    name: str, talk: Talk, *, allow_local_urls: bool = False, offline: bool = False
) -> InputFile:
    """Fetch a file and read its header, before minutes are spent on loading a model.

    Raises
    ------
    MediaError
        It is not a media file, or as `local_path`.
    UsageError
        It is an indexed clip, or as `local_path`.
    """
    from seats_cli.media.probe import probe

    path = local_path(name, talk, allow_local_urls=allow_local_urls, offline=offline)
    return InputFile(name, path, probe(path))


def local_path(
    name: str, talk: Talk, *, allow_local_urls: bool = False, offline: bool = False
) -> str:
    """A file of this machine with what `name` stands for.

    Parameters
    ----------
    name : str
        The name of a file, which is returned as it is, or its `file:` URL; "-" for stdin; or an
        http(s) URL.
    talk : Talk
        Shows the progress.
    allow_local_urls : bool
        Whether a URL may lead to this machine or its own network.
    offline : bool
        Whether the network must not be used.

    Raises
    ------
    MediaError
        The file is empty, too large, or at an address that is not allowed.
    UsageError
        Stdin is a terminal, or a URL contradicts `offline`.
    """
    from seats_cli.media.container import local_file
    from seats_cli.media.fetch import download, is_url

    if name != PIPE and not is_url(name):
        return os.fspath(local_file(name))
    if name != PIPE and offline:
        raise UsageError("--offline forbids fetching a URL; give the name of a file.")
    path = _temporary("stdin" if name == PIPE else _file_name(name))
    with open(path, "wb") as target, talk.progress(f"Fetching {path.name}") as progress:
        if name == PIPE:
            _spool(target, progress)
        else:
            download(
                name,
                target,
                allow_local_urls=allow_local_urls,
                on_progress=lambda done, total: progress.update(_amount(done, total)),
            )
    return str(path)


def remove_fetched() -> None:
    """Remove every file that was fetched."""
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _temporary(name: str) -> Path:
    """A path in a new folder that is removed when the command ends, however it ends."""
    at_end(remove_fetched)
    end_on_sigterm()
    folder = Path(tempfile.gettempdir()) / f"seats-{secrets.token_hex(8)}"
    _folders.append(str(folder))  # before it exists: a signal may come right after
    folder.mkdir(mode=0o700)
    return folder / name


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that no temporary file stays behind."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, note)


def _file_name(url: str) -> str:
    """The last part of the URL's path, so that messages name what the user knows."""
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w .()+-]", "_", name).strip(". ")
    return name.encode()[-_NAME_BYTES:].decode(errors="ignore") or "download"


def _spool(target: IO[bytes], progress: Spinner) -> None:
    from seats_cli.media.fetch import copy_bounded

    stdin = sys.stdin
    if stdin is None or stdin.closed:
        raise UsageError("There is no stdin to read the video from.")
    if stdin.isatty():
        raise UsageError("'-' reads the video from a pipe: cat talk.mp4 | seats ask - QUESTION.")
    try:
        size = copy_bounded(
            runtime.Pipe(stdin.buffer),
            target,
            "The video on stdin",
            on_progress=lambda done, total: progress.update(_amount(done, total)),
        )
    except OSError as error:
        raise MediaError(f"Stdin cannot be read: {error.strerror or error}.") from error
    if size == 0:
        raise MediaError("Stdin was empty; pipe a video or audio file into it.")


def _amount(done: int, total: int | None) -> str:
    mega = f"{done / 1e6:.0f} MB"
    return f"{mega} of {total / 1e6:.0f} MB" if total else mega


def open_model(options: ModelOptions, talk: Talk) -> AskableModel:
    """Load the model and say so if it is the demonstration model."""
    from seats_cli.engine.session import load_model

    with talk.progress(f"Loading {options.model or BUNDLED}"):
        loaded = load_model(**options.arguments())
    runtime.resume_collection()
    for notice in loaded.notices:
        talk.notice(with_flags(notice))
    if loaded.facts.demonstration:
        talk.notice(_DEMONSTRATION)
        _spare_threads()
    return loaded


def open_outline(options: ModelOptions, talk: Talk) -> LoadedModel:
    """What `open_model` gives and says, but without the weights, for others to load."""
    from seats_cli.models.load import outline_model

    name = options.model or BUNDLED
    with talk.progress(f"Reading the configuration of {name}"):
        outline = outline_model(options.model, revision=options.revision, offline=options.offline)
    runtime.resume_collection()
    if outline.facts.demonstration:
        talk.notice(_DEMONSTRATION)
    return outline


def open_silently(options: ModelOptions) -> AskableModel:
    """Load the model in a process that shows nothing."""
    calm_libraries(debug=False, quiet=True)
    return open_model(options, Talk(quiet=True))


def _spare_threads() -> None:
    """One thread for the demonstration model, unless the user has chosen a number.

    Its matrices are so small that threads gain little, and on a busy machine waiting for each
    other can make them a hundred times slower.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def fit_input(
    file: InputFile,
    read: ReadOptions,
    loaded: LoadedModel,
    questions: Sequence[str | None],
    configs: Sequence[SeatsConfig | None],
    max_new_tokens: int | None,
    choices: Sequence[str] = (),
    system: str | None = None,
    spare: int = 0,
) -> tuple[ReadOptions, tuple[str, ...]]:
    """What to read of a file so that the context holds it, and what that changes.

    The latter are sentences for `read_input`, which shows them with the clip's own; `spare` are
    tokens of text that are not known yet.
    """
    from seats_cli.cost.fit import fit_file
    from seats_cli.models import need_of

    need = need_of(loaded, questions, configs, max_new_tokens, choices, system)
    need = replace(need, text=need.text + spare)
    return fit_file(file.path, read, loaded.sizing, loaded.architecture, need, source=file.header)


def read_input(
    file: InputFile,
    options: ReadOptions,
    sizing: FrameSizing,
    talk: Talk,
    notes: Sequence[str] = (),
) -> tuple[Clip, float]:
    """The clip and the seconds that reading it took; its warnings, and `notes`, are shown."""
    from seats_cli.media import read_clip

    began = time.perf_counter()
    with talk.progress(f"Reading {Path(file.path).name}") as progress:

        def report(what: str, done: float) -> None:
            stop_if_interrupted()
            progress.update(f"{what} {done:.0%}")

        clip = read_clip(file.path, options, sizing=sizing, source=file.header, on_progress=report)
    stop_if_interrupted()
    read_s = time.perf_counter() - began
    # The report names what was asked for, not the temporary file.
    facts = replace(clip.facts, path=file.name)
    clip = replace(clip, facts=facts, warnings=tuple(map(with_flags, (*notes, *clip.warnings))))
    for warning in clip.warnings:
        talk.warning(warning)
    return clip, read_s


@dataclass(frozen=True)
class OpenedClip:
    """A clip that a command asks about."""

    clip: Clip
    read: ReadOptions  # as the context has it
    read_s: float  # seconds that reading took
    ask: Callable[..., Answer]  # a question and what else `ClipSession.ask` takes
    system: str | None = None  # turn in front of every question; None for the template's own
    content_sha256: str | None = None  # of the media file behind an index, where it is known


def open_clip(
    file: InputFile,
    read: ReadOptions,
    loaded: AskableModel,
    talk: Talk,
    *,
    questions: Sequence[str | None],
    config: SeatsConfig | None,
    max_new_tokens: int | None,
    choices: Sequence[str] = (),
    system: str | None = None,
    several: bool = True,
    spare: int = 0,
) -> OpenedClip:
    """Read a file so that the context holds it and open it for questions.

    Parameters
    ----------
    questions : sequence of str or None
        Those that are known, of which the longest must fit beside the clip.
    several : bool
        Whether there will be more than one question. For a single one nothing is kept: the copy of
        the clip's states would only take memory.
    spare : int
        Tokens to leave for the turns of a conversation.

    Raises
    ------
    SeatsError
        If the model cannot be pruned so, before anything is read; and as from `read_clip`.
    """
    from seats_cli.engine.prune import check_method

    check_method(loaded, config)
    fitted, notes = fit_input(
        file, read, loaded, questions, [config], max_new_tokens, choices, system, spare
    )
    clip, read_s = read_input(file, fitted, loaded.sizing, talk, notes)
    if several:
        return OpenedClip(clip, fitted, read_s, loaded.open(clip, system=system).ask, system)

    from seats_cli.engine.answer import ask

    return OpenedClip(clip, fitted, read_s, partial(ask, loaded, clip, system=system), system)


def check_synthetic(video: str | None, synthetic: float | None, context: typer.Context) -> None:
    """Refuse a file and a synthetic clip together, neither, or a part of a synthetic one.

    What settings say about files does not concern it.

    Raises
    ------
    UsageError
    """
    if (video is None) == (synthetic is None):
        raise UsageError("Give either a VIDEO or --synthetic SECONDS.")
    parts = ("start", "end", "video_track", "audio_track", "max_audio")
    if synthetic is not None and any(was_typed(context, part) for part in parts):
        raise UsageError(
            "--start, --end, --video-track, --audio-track and --max-audio choose a part of a file; "
            "--synthetic makes a clip of just the length it says."
        )


def check_random(model: AnyModelFlags, context: typer.Context) -> None:
    """Refuse options that contradict each other, before anything is loaded.

    What settings say about checkpoints does not concern random weights.

    Raises
    ------
    UsageError
    """
    if model.random_weights is None:
        if model.layers is not None or model.hidden is not None:
            raise UsageError("--layers and --hidden need --random-weights ARCH.")
        return
    if was_typed(context, "model"):
        raise UsageError("--model and --random-weights exclude each other.")
    if was_typed(context, "quantize"):
        raise UsageError("--quantize needs the weights of a checkpoint, not random ones.")
    if was_typed(context, "adapter"):
        raise UsageError("--adapter needs the weights that it was trained on, not random ones.")
    named_config(model.random_weights, layers=model.layers, hidden=model.hidden)


def open_any(model: AnyModelFlags, seed: int, talk: Talk) -> AskableModel:
    """The checkpoint, or the architecture with random weights."""
    if model.random_weights is None:
        return open_model(model, talk)
    from seats_cli.engine.session import askable
    from seats_cli.models.random_weights import random_model

    with talk.progress(f"Building {model.random_weights} with random weights"):
        loaded = askable(random_model)(
            model.random_weights,
            layers=model.layers,
            hidden=model.hidden,
            dtype=model.dtype,
            device=model.device,
            attention=model.attention,
            seed=seed,
        )
    runtime.resume_collection()
    return loaded
