"""Getting at the model and the clip that a command names: files, pipes, URLs, random weights."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from seats_cli.cli import runtime
from seats_cli.cli.console import Spinner, Talk
from seats_cli.cli.runtime import at_end, note, stop_if_interrupted
from seats_cli.errors import MediaError, UsageError

if TYPE_CHECKING:
    from seats_cli.families.base import FrameSizing
    from seats_cli.media.clip import Clip
    from seats_cli.media.fetch import Readable
    from seats_cli.models import LoadedModel


PIPE = "-"
_NAME_BYTES = 100  # of a URL's file name; file systems allow 255

# One command reads stdin or a URL once, however often it asks for the file.
_fetched: dict[str, str] = {}
_folders: list[str] = []


def local_path(
    source: str, talk: Talk | None = None, *, allow_local_urls: bool = False, offline: bool = False
) -> str:
    """A file of this machine with what `source` stands for.

    Parameters
    ----------
    source : str
        The name of a file, which is returned as it is; "-" for stdin; or an http(s) URL.
    talk : Talk or None
        Shows how far it is.
    allow_local_urls : bool
        Whether a URL may lead to this machine or its own network.
    offline : bool
        Whether the network must not be used.

    Returns
    -------
    str
        For "-" and URLs a temporary file, which is gone when the command ends.

    Raises
    ------
    MediaError
        Nothing comes, or too much, or not from where it may come.
    UsageError
        Stdin is a terminal, or a URL contradicts `offline`.
    """
    from seats_cli.media.fetch import download, is_url

    if source != PIPE and not is_url(source):
        return source
    if source in _fetched:
        return _fetched[source]
    if source != PIPE and offline:
        raise UsageError("--offline forbids fetching a URL; give the name of a file.")
    talk = talk or Talk(quiet=True)
    path = _temporary("stdin" if source == PIPE else _file_name(source))
    with open(path, "wb") as target, talk.progress(f"Fetching {path.name}") as progress:
        if source == PIPE:
            _spool(target, progress)
        else:
            download(
                source,
                target,
                allow_local=allow_local_urls,
                on_progress=lambda done, total: progress.update(_amount(done, total)),
            )
    _fetched[source] = str(path)
    return str(path)


def forget() -> None:
    """Remove everything that was brought here."""
    _fetched.clear()
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _temporary(name: str) -> Path:
    """A place for a file, removed when the command ends, however it ends."""
    at_end(forget)
    _end_on_sigterm()
    folder = Path(tempfile.gettempdir()) / f"seats-{secrets.token_hex(8)}"
    _folders.append(str(folder))  # before it exists: a signal may come right after
    folder.mkdir(mode=0o700)
    return folder / name


def _end_on_sigterm() -> None:
    """Let `kill` end the process the ordinary way, so that the file does not stay behind."""
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

    stop_if_interrupted()  # the import brings in PyAV, which may lose a signal; reading would wait
    stdin = sys.stdin
    if stdin is None or stdin.closed:
        raise UsageError("There is no stdin to read the video from.")
    if stdin.isatty():
        raise UsageError("'-' reads the video from a pipe: cat talk.mp4 | seats ask - QUESTION.")
    try:
        size = copy_bounded(
            cast("Readable", stdin.buffer),
            target,
            "The video on stdin",
            on_progress=lambda done, total: progress.update(_amount(done, total)),
        )
    except OSError as error:
        raise MediaError(f"Stdin cannot be read: {error.strerror or error}.") from error
    if size == 0:
        raise MediaError("Nothing came on stdin; pipe a video or sound file into it.")


def _amount(done: int, total: int | None) -> str:
    mega = f"{done / 1e6:.0f} MB"
    return f"{mega} of {total / 1e6:.0f} MB" if total else mega


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Which model, and how to run it."""

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "sdpa"
    revision: str | None = None
    offline: bool = False


@dataclasses.dataclass(frozen=True)
class InputOptions:
    """What of a file to use; `start_s` and `end_s` are seconds."""

    path: str
    start_s: float | None = None
    end_s: float | None = None
    fps: float = 2.0
    max_frames: int = 768
    max_pixels: int | None = None
    audio: bool = True
    audio_track: int | None = None
    max_audio_s: float | None = None


def check_file(
    path: str,
    talk: Talk | None = None,
    *,
    allow_local_urls: bool = False,
    offline: bool = False,
) -> None:
    """Refuse a file that is no media before minutes are spent on loading a model.

    A pipe ("-") or a URL is brought here for that, once: `read_input` finds it again.

    Raises
    ------
    MediaError
        As `seats_cli.media.probe.probe`: only the header is read here.
    UsageError
        As `seats_cli.cli.sources.local_path`.
    """
    from seats_cli.media.probe import probe

    probe(local_path(path, talk, allow_local_urls=allow_local_urls, offline=offline))


def open_model(options: ModelOptions, talk: Talk) -> LoadedModel:
    """Load the model and say so if it is the demonstration model."""
    from seats_cli.models import default_model, load_model

    name = options.model or default_model()
    with talk.progress(f"Loading {name}"):
        loaded = load_model(
            name,
            dtype=options.dtype,
            device=options.device,
            attention=options.attention,
            revision=options.revision,
            offline=options.offline,
        )
    runtime.resume_collection()
    if loaded.facts.demonstration:
        talk.notice(
            "This is the small bundled demonstration model, which knows simple shapes, colours "
            "and sounds only (see seats doctor). For real answers use "
            "--model Qwen/Qwen2.5-Omni-7B on a GPU."
        )
        _spare_threads()
    return loaded


def _spare_threads() -> None:
    """One thread for the demonstration model, unless the user has chosen a number.

    Its matrices are so small that threads gain little, and on a busy machine waiting for each
    other costs them a hundredfold.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def read_input(options: InputOptions, sizing: FrameSizing, talk: Talk) -> tuple[Clip, float]:
    """The clip and the seconds that reading it took; its warnings are told."""
    from seats_cli.media import read_clip

    path = local_path(options.path, talk)
    began = time.perf_counter()
    with talk.progress(f"Reading {Path(path).name}") as progress:

        def report(what: str, done: float) -> None:
            stop_if_interrupted()
            progress.update(f"{what} {done:.0%}")

        clip = read_clip(
            path,
            fps=options.fps,
            max_frames=options.max_frames,
            sizing=limit_pixels(sizing, options.max_pixels),
            start=options.start_s,
            end=options.end_s,
            audio=options.audio,
            audio_track=options.audio_track,
            max_audio=options.max_audio_s,
            on_progress=report,
        )
    stop_if_interrupted()
    read_s = time.perf_counter() - began
    if path != options.path:  # the report names what was asked for, not the temporary file
        clip = dataclasses.replace(clip, facts=dataclasses.replace(clip.facts, path=options.path))
    for warning in clip.warnings:
        talk.warning(warning)
    return clip, read_s


def limit_pixels(sizing: FrameSizing, max_pixels: int | None) -> FrameSizing:
    """The model's size rules under a user's limit.

    Raises
    ------
    UsageError
        The limit is below one token's worth of pixels.
    """
    if max_pixels is None:
        return sizing
    least = sizing.factor**2
    if max_pixels < least:
        raise UsageError(
            f"--max-pixels {max_pixels} is less than the {least} pixels of one token "
            f"({sizing.factor}x{sizing.factor})."
        )
    return dataclasses.replace(
        sizing, max_pixels=max_pixels, min_pixels=min(sizing.min_pixels, max_pixels)
    )


@dataclasses.dataclass(frozen=True)
class RandomOptions:
    """Which architecture to build with random weights, if any."""

    name: str | None = None
    layers: int | None = None
    hidden: int | None = None
    seed: int = 0


def check_source(source: InputOptions, synthetic: float | None) -> None:
    """Refuse a file and a synthetic clip together, neither, or a part of a synthetic one.

    Raises
    ------
    UsageError
    """
    if (not source.path) == (synthetic is None):
        raise UsageError("Give either a VIDEO or --synthetic SECONDS.")
    parts = (source.start_s, source.end_s, source.audio_track, source.max_audio_s)
    if synthetic is not None and any(part is not None for part in parts):
        raise UsageError(
            "--start, --end, --audio-track and --max-audio choose a part of a file; "
            "--synthetic makes a clip of just the length it says."
        )


def check_random(random: RandomOptions, model: ModelOptions, *, model_typed: bool) -> None:
    """Refuse options that contradict each other, before anything is loaded.

    Raises
    ------
    UsageError
    """
    if random.name is None:
        if random.layers is not None or random.hidden is not None:
            raise UsageError("--layers and --hidden need --random-weights ARCH.")
        return
    if model.model is not None and model_typed:
        raise UsageError("--model and --random-weights exclude each other.")
    from seats_cli.families.registry import named_config

    named_config(random.name, layers=random.layers, hidden=random.hidden)


def open_any(model: ModelOptions, random: RandomOptions, talk: Talk) -> LoadedModel:
    """The checkpoint, or the architecture with random weights."""
    if random.name is None:
        return open_model(model, talk)
    from seats_cli.models.random_weights import random_model

    with talk.progress(f"Building {random.name} with random weights"):
        loaded = random_model(
            random.name,
            layers=random.layers,
            hidden=random.hidden,
            dtype=model.dtype,
            device=model.device,
            attention=model.attention,
            seed=random.seed,
        )
    runtime.resume_collection()
    return loaded


def any_clip(
    source: InputOptions, synthetic: float | None, loaded: LoadedModel, talk: Talk
) -> tuple[Clip, float]:
    """The file's clip or one made in memory, and the seconds that took."""
    if synthetic is None:
        return read_input(source, loaded.sizing, talk)
    from seats_cli.media.synthetic_clip import synthetic_clip

    began = time.perf_counter()
    clip = synthetic_clip(
        synthetic,
        fps=source.fps,
        max_frames=source.max_frames,
        sizing=limit_pixels(loaded.sizing, source.max_pixels),
        audio=source.audio,
    )
    return clip, time.perf_counter() - began
