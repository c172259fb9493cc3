"""What reading a file would give, from its packets and one decoded frame: fast."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.families.base import FrameSizing
from seats_cli.media.clip import MediaFacts, ReadOptions
from seats_cli.media.container import shown
from seats_cli.media.extent import StrPath
from seats_cli.media.notices import size_notices, thinning_notices
from seats_cli.media.packets import REORDER_S, land, open_stream, packets, stamp
from seats_cli.media.pixels import FrameScaler
from seats_cli.media.probe import AudioTrack, MediaSource, VideoTrack
from seats_cli.media.reader import ReadPass

_LOOKED_AT = 9  # keyframes decoded to see whether the picture's size changes


@dataclass(frozen=True)
class ClipOutline:
    """The facts of a `Clip` without its pixels and samples."""

    facts: MediaFacts  # as `read_clip` would give them for an undamaged file
    fps: float | None  # effective frames per second, None without a picture
    warnings: tuple[str, ...] = ()  # what of the file would not be used as it stands


def outline_clip(
    path: StrPath,
    options: ReadOptions | None = None,
    *,
    sizing: FrameSizing | None = None,
    source: MediaSource | None = None,
    **fields: Any,
) -> ClipOutline:
    """Work out frames, their size and seconds of sound; parameters as for `read_clip`.

    Raises
    ------
    MediaError
        If the file cannot be read or holds neither picture nor sound in the range.
    UsageError
        If the range, the rate, the bounds or the track number make no sense.
    """
    options = replace(options or ReadOptions(), **fields)
    job = ReadPass.begin(path, options, sizing, source)
    video, audio = job.source.video, job.audio_track
    scaler, warnings = None, job.warnings
    if options.video and video is not None:
        scaler = _scaler(job, video)
    if scaler is not None and job.plan is not None:
        warnings += thinning_notices(job.plan, options)
    sound_s = 0.0 if audio is None else _sound_seconds(job, audio)
    if options.max_audio is not None and sound_s > options.max_audio:
        warnings.append(
            f"Only the first {options.max_audio:g} of {sound_s:.1f} s of sound are used."
        )
        sound_s = options.max_audio
    if scaler is None and not sound_s:
        raise MediaError(f"{shown(path)} has neither a picture nor sound that can be used.")
    if not sound_s and options.audio:
        warnings.append("There is no usable sound; only the picture is used.")
    facts = job.facts(job.end_s(sound_s), scaler, sound_s)
    fps = job.plan.fps if scaler is not None and job.plan is not None else None
    return ClipOutline(facts, fps, tuple(warnings))


def _scaler(job: ReadPass, track: VideoTrack) -> FrameScaler | None:
    """Choose the frames and take their size from some that decode; warns if it changes."""
    job.plan_picture(track)
    table, plan = job.survey.table, job.plan
    if table is None or plan is None:
        return None
    with open_stream(job.path, track.index, VideoStream) as (container, stream):
        first = next(iter(container.decode(stream)), None)
    if first is None:
        return None
    sizes = Counter([(first.height, first.width)])
    # A few keyframes, spread over the range: a part that is much of it is met.
    keys, ends = table.keys, table.pts[[0, -1]]
    looked_at = np.unique(np.linspace(0, len(keys) - 1, _LOOKED_AT).round().astype(int))
    for wanted in looked_at[1:] if len(keys) and not table.counted and ends[0] < ends[1] else ():
        with (
            suppress(MediaError),
            open_stream(job.path, track.index, VideoStream) as (
                container,
                stream,
            ),
        ):
            if land(container, stream, keys, int(wanted)) is not None:
                stream.codec_context.skip_frame = "NONKEY"
                frame = next(iter(container.decode(stream)), None)
                sizes.update([] if frame is None else [(frame.height, frame.width)])
    largest = max(sizes, key=lambda size: size[0] * size[1])
    scaler = FrameScaler.for_frame(
        first, len(plan.times), job.sizing, track.mirrored_turns, largest
    )
    job.warnings += size_notices(scaler, sizes)
    return scaler


def _sound_seconds(job: ReadPass, track: AudioTrack) -> float:
    """Seconds of sound in the range, from the time stamps of its packets."""
    sound_end = job.survey.ends_s.get(track.index)
    if sound_end is None:
        last = 0.0
        with open_stream(job.path, track.index, AudioStream) as (container, stream):
            for packet in packets(container, stream):
                when, base = stamp(packet), packet.time_base
                if packet.size and when is not None and base is not None:
                    at_s = float(when * base) - job.source.origin_s
                    if job.options.end is not None and at_s > job.options.end + REORDER_S:
                        break  # of hours, the rest does not matter
                    last = max(last, float((when + (packet.duration or 0)) * base))
        sound_end = last - job.source.origin_s
    stop = sound_end if job.options.end is None else min(job.options.end, sound_end)
    return max(0.0, stop - job.begin_s)
