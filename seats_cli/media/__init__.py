"""Reading video and sound: `read_clip` and what it returns; no torch in here.

`read_clip` is imported when it is first used, because it needs PyAV and the rest does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seats_cli.families.base import SAMPLE_RATE, FrameSizing
from seats_cli.media.clip import Clip, MediaFacts, ReadOptions
from seats_cli.media.timecode import parse_time

if TYPE_CHECKING:
    from seats_cli.media.reader import read_clip

__all__ = [
    "SAMPLE_RATE",
    "Clip",
    "FrameSizing",
    "MediaFacts",
    "ReadOptions",
    "parse_time",
    "read_clip",
]


def __getattr__(name: str) -> Any:
    if name == "read_clip":
        from seats_cli.media.reader import read_clip

        return read_clip
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
