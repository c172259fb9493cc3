"""Facts of a run in words, for every report and page alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING

from seats_cli.report.format import format_percent, format_ratio, format_si

if TYPE_CHECKING:
    from seats_cli.media.clip import MediaFacts
    from seats_cli.results import ModelFacts

UNPRUNED = "unpruned, every token in every layer"


def file_name(path: str) -> str:
    """The file name alone, with bytes that are not UTF-8 replaced."""
    return (PurePath(path).name or path).encode("utf-8", "replace").decode("utf-8")


def frames_phrase(media: MediaFacts, fps: float | None = None) -> str:
    """What the model was given of the picture: "24 frames 448x252 at 2 fps", or "no video"."""
    if not media.frames_used:
        return "no video"
    rate = "" if fps is None else f" at {fps:.3g} fps"
    return f"{media.frames_used} frames {media.width}x{media.height}{rate}"


def audio_phrase(media: MediaFacts) -> str:
    """What the model was given of the audio: "12.0 s of sound", or "no sound"."""
    return f"{media.audio_used_s:.1f} s of sound" if media.audio_used_s else "no sound"


def size_phrase(parameters: int) -> str:
    """How large a model is: "8.93G parameters"."""
    return f"{format_si(parameters).replace(' ', '')} parameters"


def precision_phrase(model: ModelFacts) -> str:
    """In what a model computes, and how its weights are quantized: "bfloat16, FP8, ..."."""
    return f"{model.dtype}, {model.quantization}" if model.quantization else model.dtype


def targets_phrase(video: float, audio: float) -> str:
    """The retention ratios that were requested."""
    return f"{format_percent(video)} of video and {format_percent(audio)} of audio requested"


def schedule_phrase(drop_layers: Sequence[int], late_layer: int | None) -> str:
    """Where in the model tokens are dropped."""
    layers = ", ".join(map(str, drop_layers))
    drops = f"drops after layers {layers}" if layers else "no drop layers"
    late = "no late block" if late_layer is None else f"late block from layer {late_layer}"
    return f"{drops}, {late}"


def kept_phrase(kept: int, offered: int) -> str:
    """Tokens kept and their share: "250 (25 %)"; a dash where none were offered."""
    return f"{kept:,} ({100 * kept / offered:.0f} %)" if offered else "-"


def cost_row(label: str, full: float, pruned: float, show: Callable[[float], str]) -> Sequence[str]:
    """Cells of a cost: unpruned, pruned, and the ratio of the two."""
    return label, show(full), show(pruned), format_ratio(pruned, full)
