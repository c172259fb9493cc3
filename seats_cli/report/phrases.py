"""Numbers and facts of a run in words, for every report and page alike."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.media.clip import MediaFacts
    from seats_cli.results import Answer, Evidence, ModelFacts

NOT_AVAILABLE = "n/a"

_SI = ("", "k", "M", "G", "T", "P", "E")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def format_bytes(size: float | None) -> str:
    """Bytes with a binary unit and three significant digits, `1.46 GiB`."""
    if not _usable(size):
        return NOT_AVAILABLE
    value, unit = float(size), _BINARY[0]
    for unit in _BINARY:
        if abs(value) < 1023.5 or unit == _BINARY[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{_three_digits(value)} {unit}"


def format_si(value: float | None, unit: str = "") -> str:
    """A count with an SI prefix and three significant digits, `12.3 TFLOP`."""
    if not _usable(value):
        return NOT_AVAILABLE
    scaled, prefix = float(value), ""
    for prefix in _SI:
        if abs(scaled) < 999.5 or prefix == _SI[-1]:
            break
        scaled /= 1000
    digits = f"{scaled:.0f}" if not prefix and scaled == int(scaled) else _three_digits(scaled)
    return f"{digits} {prefix}{unit}".rstrip()


def format_percent(ratio: float | None) -> str:
    """A ratio 0..1 as per cent with one decimal, `25.0 %`."""
    return f"{100 * ratio:.1f} %" if _usable(ratio) else NOT_AVAILABLE


def format_seconds(seconds: float | None) -> str:
    """A duration: milliseconds below 0.1 s, minutes from 100 s on."""
    if not _usable(seconds):
        return NOT_AVAILABLE
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def format_count(value: int | None) -> str:
    """An integer with thousands separated by commas."""
    return NOT_AVAILABLE if value is None else f"{value:,}"


def format_ratio(part: float | None, whole: float | None) -> str:
    """`part / whole` as per cent; not available when there is no whole."""
    if not _usable(part) or not _usable(whole) or whole == 0:
        return NOT_AVAILABLE
    return format_percent(part / whole)


def format_time(seconds: float) -> str:
    """A time in a clip, to a tenth of a second: `0:05.0`, `1:02:05.0`; rounded half to even."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{clock}:{rest // 10:02d}.{rest % 10}"


def _three_digits(value: float) -> str:
    magnitude = abs(value)
    return f"{value:.0f}" if magnitude >= 99.95 else f"{value:.{1 if magnitude >= 9.995 else 2}f}"


def _usable(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def time_words(seconds: float) -> str:
    """A duration, below 10 ms with one digit more than in the report of a single answer."""
    if 0 < seconds < 0.00995:
        return f"{1000 * seconds:.1f} ms"
    return format_seconds(seconds) if seconds else "-"


def format_factor(factor: float | None) -> str:
    """A factor with two significant digits, `6.9x`."""
    if factor is None:
        return NOT_AVAILABLE
    return f"{factor:.2f}x" if factor < 0.995 else f"{factor:.{1 if factor < 9.95 else 0}f}x"


# ---------------------------------------------------------------- phrases

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


def name_phrase(model: ModelFacts, *, revision: bool = False) -> str:
    """What answered: "Qwen/Qwen2.5-Omni-7B@ae9e1690543f with the adapter ./lora"."""
    name = f"{model.id}@{model.revision[:12]}" if revision and model.revision else model.id
    return f"{name} with the adapter {model.adapter}" if model.adapter else name


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


SENSES = {"video": "picture", "audio": "sound"}


def evidence_phrase(piece: Evidence) -> str:
    """A piece of evidence: "0:05.0 to 0:06.0 (sound, 41 %)"."""
    span = f"{format_time(piece.start_s)} to {format_time(piece.end_s)}"
    return f"{span} ({SENSES[piece.modality]}, {100 * piece.share:.0f} %)"


def evidence_lines(answer: Answer) -> list[str]:
    """What an answer rests on, strongest first, or a line that says there are none."""
    if not answer.evidence:
        return ["No evidence: a picture has none, nor has a clip of which no token was left."]
    return [evidence_phrase(piece) for piece in answer.evidence]


def skips_words(config: SeatsConfig) -> str:
    """How labels of runs end that skip parts of the encoders: " still 4 reuse 0.97"; or nothing."""
    parts = ""
    if config.still_tolerance is not None:
        parts += f" still {config.still_tolerance:g}"
    if config.encoder_reuse is not None:
        parts += f" reuse {config.encoder_reuse:g}"
    if config.encoder_keep is not None:
        parts += f" keep {100 * config.encoder_keep:.4g}%"
    return parts


_SKIPS = re.compile(r"(?: (?:still|reuse|keep) [\d.e+-]+%?)*$")


def split_label(label: str) -> tuple[str, str]:
    """A run's label without what `skips_words` has added, and that."""
    found = _SKIPS.search(label)
    at = found.start() if found else len(label)
    return label[:at], label[at:]
