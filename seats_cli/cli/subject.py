"""What is measured: a checkpoint or random weights, a file or a clip made in memory."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from seats_cli.cli import garbage
from seats_cli.cli.console import Talk
from seats_cli.cli.session import InputOptions, ModelOptions, limit_pixels, open_model, read_input
from seats_cli.errors import UsageError

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.models import LoadedModel


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
    from seats_cli.named import named_config

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
    garbage.resume()
    return loaded


def any_clip(
    source: InputOptions, synthetic: float | None, loaded: LoadedModel, talk: Talk
) -> tuple[Clip, float]:
    """The file's clip or one made in memory, and the seconds that took."""
    if synthetic is None:
        return read_input(source, loaded.sizing, talk)
    from seats_cli.media.synthetic import synthetic_clip

    began = time.perf_counter()
    clip = synthetic_clip(
        synthetic,
        fps=source.fps,
        max_frames=source.max_frames,
        sizing=limit_pixels(loaded.sizing, source.max_pixels),
        audio=source.audio,
    )
    return clip, time.perf_counter() - began
