"""Loading a model and reading a clip as every command does it."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from seats_cli.cli import garbage
from seats_cli.cli.console import Talk
from seats_cli.cli.interrupt import stop_if_interrupted
from seats_cli.cli.source import local_path
from seats_cli.errors import UsageError

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip, FrameSizing
    from seats_cli.models import LoadedModel


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
        As `seats_cli.cli.source.local_path`.
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
    garbage.resume()
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
