"""What reading a file would give, from its packets and one decoded frame: fast."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.families.base import FrameSizing
from seats_cli.media.clip import MediaFacts
from seats_cli.media.container import StrPath, open_media, shown
from seats_cli.media.frame_sampling import FramePlan, plan_frames
from seats_cli.media.notices import gap_notices
from seats_cli.media.packets import (
    PacketTable,
    ignore_errors,
    packets,
    scan_packets,
    select_only,
    stamp,
)
from seats_cli.media.pixels import FrameScaler
from seats_cli.media.probe import AudioTrack, Source, VideoTrack, probe
from seats_cli.media.timecode import check_range
from seats_cli.media.timeline import NO_GAPS, Gaps, Times, picture_times


@dataclass(frozen=True)
class ClipOutline:
    """The facts of a `Clip` without its pixels and samples.

    Parameters
    ----------
    facts : MediaFacts
        As `read_clip` would give them for an undamaged file.
    fps : float or None
        Effective frames per second, None without a picture.
    warnings : tuple of str
        What of the file would not be used as it stands.
    """

    facts: MediaFacts
    fps: float | None
    warnings: tuple[str, ...] = ()


def outline_clip(
    path: StrPath,
    *,
    fps: float = 2.0,
    max_frames: int = 768,
    sizing: FrameSizing | None = None,
    start: float | None = None,
    end: float | None = None,
    audio: bool = True,
    audio_track: int | None = None,
    max_audio: float | None = None,
) -> ClipOutline:
    """Work out frames, their size and seconds of sound; parameters as for `read_clip`.

    Raises
    ------
    MediaError
        If the file cannot be read or holds neither picture nor sound in the range.
    UsageError
        If the range, the rate, the bounds or the track number make no sense.
    """
    source = probe(path)
    check_range(start, end, source.duration_s)
    track, chosen = source.video, source.sound_track(audio_track, shown(path)) if audio else None
    plan, scaler, gaps, warnings = None, None, NO_GAPS, list(source.notes)
    if track is not None:
        plan, scaler, gaps = _picture(
            path, source, track, chosen, fps, max_frames, sizing, start, end
        )
        warnings += gap_notices(gaps)
    if track is not None and plan is not None and plan.fps < fps and plan.source_fps > plan.fps:
        _warn_of_thinning(warnings, plan, fps, max_frames)
    sound_s = 0.0 if chosen is None else _sound_seconds(path, source, chosen, gaps, start, end)
    if max_audio is not None and sound_s > max_audio:
        warnings.append(f"Only the first {max_audio:g} of {sound_s:.1f} s of sound are used.")
        sound_s = max_audio
    if plan is None and not sound_s:
        raise MediaError(f"{shown(path)} holds no picture and no sound that could be used here.")
    if not sound_s and audio:
        warnings.append("There is no sound to use; only the picture is.")
    begin, length = start or 0.0, source.duration_s
    stop = min(value for value in (end, length, float("inf")) if value is not None)
    facts = MediaFacts(
        path=os.fspath(path),
        container=source.container,
        duration_s=length,
        start_s=begin,
        end_s=stop if stop < float("inf") else begin + sound_s,
        video_codec=track.codec if track else None,
        source_width=scaler.source_width if scaler else None,
        source_height=scaler.source_height if scaler else None,
        source_fps=plan.source_fps if plan else None,
        rotation_deg=scaler.rotation_deg if scaler else 0,
        frames_used=len(plan.times) if plan else 0,
        width=scaler.width if scaler else None,
        height=scaler.height if scaler else None,
        audio_codec=chosen.codec if chosen and sound_s else None,
        audio_tracks=len(source.audio),
        audio_track=source.audio.index(chosen) if chosen and sound_s else None,
        source_sample_rate=chosen.rate if chosen and sound_s else None,
        source_channels=chosen.channels if chosen and sound_s else None,
        audio_used_s=sound_s,
    )
    return ClipOutline(facts, plan.fps if plan else None, tuple(warnings))


def _picture(
    path: StrPath,
    source: Source,
    track: VideoTrack,
    listened: AudioTrack | None,
    fps: float,
    max_frames: int,
    sizing: FrameSizing | None,
    start: float | None,
    end: float | None,
) -> tuple[FramePlan | None, FrameScaler | None, Gaps]:
    """Frames to take, and their size from the first one that decodes."""
    with open_media(path) as container:
        stream = container.streams[track.index]
        assert isinstance(stream, VideoStream)
        shift = source.origin_s
        table = scan_packets(
            container,
            stream,
            None if start is None else start + shift,
            None if end is None else end + shift,
        )
    times, gaps = picture_times(path, source, table, listened)
    plan = _plan(times, table, source, track, fps, max_frames, start, end)
    if plan is None:
        return None, None, gaps
    with open_media(path) as container:
        stream = container.streams[track.index]
        assert isinstance(stream, VideoStream)
        select_only(container, stream)
        frame = next(iter(container.decode(stream)), None)
        if frame is None:
            return None, None, gaps
        return plan, FrameScaler.for_frame(frame, len(plan.times), sizing or FrameSizing()), gaps


def _plan(
    times: Times,
    table: PacketTable,
    source: Source,
    track: VideoTrack,
    fps: float,
    max_frames: int,
    start: float | None,
    end: float | None,
) -> FramePlan | None:
    plan = plan_frames(
        times,
        table.last_duration * float(table.time_base),
        header_fps=track.rate,
        start=start,
        end=end,
        fps=fps,
        max_frames=max_frames,
    )
    return plan.with_fps(fps) if plan is not None and source.is_image else plan


def _sound_seconds(
    path: StrPath,
    source: Source,
    track: AudioTrack,
    gaps: Gaps,
    start: float | None,
    end: float | None,
) -> float:
    """Seconds of sound in the range, from the time stamps of its packets."""
    last = 0.0
    with open_media(path) as container:
        stream = container.streams[track.index]
        assert isinstance(stream, AudioStream)
        select_only(container, stream)
        for packet in packets(container, stream, ignore_errors):
            when, base = stamp(packet), packet.time_base
            if packet.size and when is not None and base is not None:
                last = max(last, float((when + (packet.duration or 0)) * base))
    heard_to = float(gaps.close(np.array([last - source.origin_s]))[0])
    stop = heard_to if end is None else min(end, heard_to)
    return max(0.0, stop - (start or 0.0))


def _warn_of_thinning(warnings: list[str], plan: FramePlan, fps: float, max_frames: int) -> None:
    used = len(plan.times)
    wanted = used / plan.fps * fps
    if used + 2 > max_frames and wanted >= used + 2:
        warnings.append(
            f"The picture is sampled at {plan.fps:.2g} instead of {fps:g} frames per second, "
            f"because no more than {used} frames are taken; choose a shorter part "
            "(--start, --end) or allow more (--max-frames)."
        )
