"""Drawing from a saved trace: finding its clip again, and what does not go with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from seats_cli.cli.session import InputOptions
from seats_cli.cli.settings import from_command_line
from seats_cli.cli.source import PIPE
from seats_cli.errors import UsageError

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.show.record import Record

# What a saved trace has settled already.
_SETTLED = (
    *("start", "end", "fps", "max_frames", "max_pixels", "audio", "audio_track", "max_audio"),
    *("retain", "retain_video", "retain_audio", "full", "skip_still", "kv", "allocation", "config"),
    *("model", "device", "dtype", "attn", "revision", "max_new_tokens", "seed", "with_full"),
)


def load_saved(trace: Path, video: str | None) -> tuple[Record, InputOptions]:
    """A saved record and how to read its clip again."""
    from seats_cli.media.download import is_url
    from seats_cli.show.storage import load_record

    record = load_record(trace)
    reading, path = record.reading, video or record.media.path
    if video is None:
        if path == PIPE or is_url(path):
            raise UsageError(f"{trace} was made from a pipe or a URL; give the VIDEO too.")
        beside = trace.parent / path
        path = str(beside) if not Path(path).exists() and beside.exists() else path
    return record, InputOptions(
        path,
        reading.start_s,
        reading.end_s,
        reading.fps,
        reading.max_frames,
        None,
        reading.audio,
        reading.audio_track,
        reading.max_audio_s,
    )


def check_clip(record: Record, clip: Clip) -> None:
    """Refuse another clip than the one that was asked about."""
    was, found = record.media, clip.facts
    for what, before, now in (
        ("frames", was.frames_used, found.frames_used),
        ("pixels of width", was.width, found.width),
        ("pixels of height", was.height, found.height),
        ("s of sound", round(was.audio_used_s, 2), round(found.audio_used_s, 2)),
    ):
        if before != now:
            raise UsageError(
                f"{found.path} is not the clip of this trace: it gives {now or 0:g} {what} where "
                f"the trace has {before or 0:g}."
            )


def check_settled(context: typer.Context, question: str | None) -> None:
    """Refuse options that a saved trace has settled."""
    if question is not None:
        raise UsageError("--trace draws a question that was asked; leave QUESTION out.")
    for name in _SETTLED:
        if from_command_line(context, name):
            raise UsageError(
                f"--trace draws a run as it was: --{name.replace('_', '-')} has no effect on it."
            )
