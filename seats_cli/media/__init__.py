"""Reading video and sound: `read_clip` and what it returns; no torch in here."""

from __future__ import annotations

from seats_cli.families.base import SAMPLE_RATE, FrameSizing
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.media.reader import read_clip
from seats_cli.media.timecode import parse_time

__all__ = ["SAMPLE_RATE", "Clip", "FrameSizing", "MediaFacts", "parse_time", "read_clip"]
