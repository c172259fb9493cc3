"""Reading a clip: the scan, the plan of what to decode, and `read_clip`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from seats_cli.errors import MediaError, UsageError
from seats_cli.families.base import SAMPLE_RATE, FrameSizing
from seats_cli.media.audio import DecodedSound, decode_sound
from seats_cli.media.clip import Clip, MediaFacts
from seats_cli.media.container import StrPath, open_media, shown
from seats_cli.media.frame_sampling import FramePlan, plan_frames
from seats_cli.media.notices import gap_notices, overall_notices, picture_notices, sound_notices
from seats_cli.media.packets import PacketTable, check_effort, scan_packets
from seats_cli.media.probe import AudioTrack, Source, VideoTrack, probe
from seats_cli.media.timecode import check_range
from seats_cli.media.timeline import NO_GAPS, Gaps, picture_times, stamps_at
from seats_cli.media.video import DecodedFrames, can_spare, decode_frames

Progress = Callable[[str, float], None]


@dataclass
class ReadPass:
    """One file being read, and what came of it."""

    path: StrPath
    source: Source
    start: float | None
    end: float | None
    listened: AudioTrack | None
    on_progress: Progress | None = None
    warnings: list[str] = field(default_factory=list)
    plan: FramePlan | None = None
    picture: DecodedFrames | None = None
    picture_end_s: float | None = None
    gaps: Gaps = NO_GAPS
    sound: DecodedSound | None = None

    def __post_init__(self) -> None:
        self.warnings += self.source.notes

    @property
    def begin(self) -> float:
        """Seconds on the file's timeline at which the clip begins."""
        return self.start or 0.0

    @property
    def sound_end_s(self) -> float | None:
        """Seconds on the file's timeline at which the sound that was read ends."""
        return None if self.sound is None else self.begin + len(self.sound.samples) / SAMPLE_RATE

    def read_picture(
        self, track: VideoTrack, fps: float, max_frames: int, sizing: FrameSizing
    ) -> None:
        """Take the sampled frames, if any is on screen in the range and decodes."""
        table = self._scan(track)
        check_effort(self.path, track, len(table.pts))
        times, self.gaps = picture_times(self.path, self.source, table, self.listened)
        tick = float(table.time_base)
        plan = plan_frames(
            times,
            table.last_duration * tick,
            header_fps=track.rate,
            start=self.start,
            end=self.end,
            fps=fps,
            max_frames=max_frames,
        )
        if plan is None:
            return
        if self.source.is_image:
            plan = plan.with_fps(fps)
        wanted = stamps_at(plan.times, self.source, table, self.gaps)
        picture = None
        if can_spare(track.codec, table):
            picture = self._decode(track, table, wanted, sizing, "AUTO", spare=True)
        if picture is None or picture.missing or picture.broken:
            # Nothing is spared where there is damage, so that all of it is found.
            picture = self._decode(track, table, wanted, sizing, "AUTO")
        if picture is None or picture.missing:
            # Frame threads lose good frames next to a broken one; slower, but keeps them.
            again = self._decode(track, table, wanted, sizing, "SLICE")
            if picture is None or (again is not None and again.missing < picture.missing):
                picture = again
        if picture is None:
            return
        self.plan, self.picture = plan, picture
        self.picture_end_s = float(times[-1]) + (table.last_duration * tick or 1 / plan.source_fps)
        whole = self.start is None and self.end is None
        self.warnings += gap_notices(self.gaps)
        self.warnings += picture_notices(
            track, table, plan, picture, fps=fps, max_frames=max_frames, whole=whole
        )

    def read_sound(self, *, asked: bool, max_s: float | None) -> None:
        """Take the sound of the range, `max_s` seconds at most, if any decodes."""
        track = self.listened
        assert track is not None
        with open_media(self.path) as container:
            stream = container.streams[track.index]
            assert isinstance(stream, AudioStream)
            self.sound = decode_sound(
                container,
                stream,
                origin_s=self.source.origin_s,
                start=self.start,
                end=self.end,
                length_s=self.source.duration_s,
                max_s=max_s,
                gaps=self.gaps,
                picture_end_s=self.picture_end_s,
                on_progress=self._reporter("sound"),
            )
        if self.sound is not None:
            self.warnings += sound_notices(
                self.source, track, self.sound, chosen=asked, begin_s=self.begin, end_s=self.end
            )

    def _scan(self, track: VideoTrack) -> PacketTable:
        origin = self.source.origin_s
        with open_media(self.path) as container:
            stream = container.streams[track.index]
            assert isinstance(stream, VideoStream)
            return scan_packets(
                container,
                stream,
                None if self.start is None else self.start + origin,
                None if self.end is None else self.end + origin,
            )

    def _decode(
        self,
        track: VideoTrack,
        table: PacketTable,
        wanted: npt.NDArray[np.int64],
        sizing: FrameSizing,
        threads: Literal["AUTO", "SLICE"],
        *,
        spare: bool = False,
    ) -> DecodedFrames | None:
        with open_media(self.path) as container:
            stream = container.streams[track.index]
            assert isinstance(stream, VideoStream)
            stream.thread_type = threads
            report = self._reporter("picture")
            turns = track.mirrored_turns
            return decode_frames(
                container, stream, table, wanted, sizing, report, turns, spare=spare
            )

    def _reporter(self, what: str) -> Callable[[float], None] | None:
        report = self.on_progress
        return None if report is None else lambda done: report(what, done)


def read_clip(
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
    video: bool = True,
    on_progress: Progress | None = None,
) -> Clip:
    """Read sampled frames and the sound of a local file.

    Frames are scaled as they are decoded and only the sampled ones are kept; the sound is
    never held in more than one copy. A damaged file gives what is readable, with a warning.

    Parameters
    ----------
    path : str or path-like
        A video, sound or image file.
    fps : float
        Frames per second to take.
    max_frames : int
        Upper bound on the frames; beyond it the effective rate falls.
    sizing : FrameSizing, optional
        Bounds on the size of the frames; by default those of Qwen2.5-Omni.
    start, end : float or None
        Range in seconds from the start of the file.
    audio, video : bool
        Whether to read the sound and the picture.
    audio_track : int or None
        Which sound track, from 0; None takes the one the file marks as default, else the first.
    max_audio : float or None
        Seconds of sound at most; what is left out is told.
    on_progress : callable or None
        Called with ``"picture"`` or ``"sound"`` and the fraction of it that is done.

    Returns
    -------
    Clip
        Frames uint8 (T, H, W, 3) or None, sound float32 (n,) or None, facts and warnings.

    Raises
    ------
    MediaError
        If the file cannot be read or holds nothing of what was asked for.
    UsageError
        If the range, the rate, the bounds or the track number make no sense.
    """
    source = probe(path)
    check_range(start, end, source.duration_s)
    chosen = source.sound_track(audio_track, shown(path)) if audio else None
    if max_audio is not None and not max_audio > 0:
        raise UsageError(f"The longest sound must be above 0 s, not {max_audio:g}.")
    job = ReadPass(path, source, start, end, chosen, on_progress)
    if video and source.video is not None:
        job.read_picture(source.video, fps, max_frames, sizing or FrameSizing())
    if chosen is not None:
        job.read_sound(asked=audio_track is not None, max_s=max_audio)
    if job.picture is None and job.sound is None:
        raise MediaError(_nothing(job, audio=audio, video=video))
    job.warnings += overall_notices(
        source,
        picture_end_s=job.picture_end_s,
        sound_end_s=job.sound_end_s,
        sound_start_s=0.0 if job.sound is None else job.sound.first_s,
        start=job.begin,
        end=end,
        audio=audio,
        video=video,
        sound_cut=job.sound is not None and job.sound.cut,
    )
    return _clip(job)


def _nothing(job: ReadPass, *, audio: bool, video: bool) -> str:
    """The sentence for a file that gave nothing of what was asked for."""
    name, source = shown(job.path), job.source
    if source.video is None and not source.audio:
        return f"{name} holds neither a picture nor sound that can be decoded."
    if not audio and source.video is None:
        return f"{name} has no picture, and its sound was not asked for."
    if not video and not source.audio:
        return f"{name} has no sound track, and its picture was not asked for."
    if job.start is not None or job.end is not None:
        return f"Nothing in this range of {name} can be read; choose another start and end."
    return f"Nothing in {name} can be decoded; it is damaged or cut off."


def _clip(job: ReadPass) -> Clip:
    """Put together what was read."""
    source, plan, picture, sound = job.source, job.plan, job.picture, job.sound
    track = source.video
    ends = [s for s in (job.picture_end_s, job.sound_end_s) if s is not None]
    end = max(ends) if job.end is None else min(job.end, max(ends))
    used = job.listened if sound is not None else None
    facts = MediaFacts(
        path=os.fspath(job.path),
        container=source.container,
        duration_s=source.duration_s,
        start_s=job.begin,
        end_s=end,
        video_codec=track.codec if track else None,
        source_width=picture.source_width if picture else track.width if track else None,
        source_height=picture.source_height if picture else track.height if track else None,
        source_fps=plan.source_fps if plan else track.rate if track else None,
        rotation_deg=picture.rotation_deg if picture else 0,
        frames_used=len(picture.pixels) if picture else 0,
        width=picture.pixels.shape[2] if picture else None,
        height=picture.pixels.shape[1] if picture else None,
        audio_codec=used.codec if used else None,
        audio_tracks=len(source.audio),
        audio_track=source.audio.index(used) if used else None,
        source_sample_rate=used.rate if used else None,
        source_channels=used.channels if used else None,
        audio_used_s=len(sound.samples) / SAMPLE_RATE if sound else 0.0,
    )
    return Clip(
        frames=picture.pixels if picture else None,
        frame_times=plan.times - job.begin if plan and picture else None,
        fps=plan.fps if plan and picture else None,
        audio=sound.samples if sound else None,
        facts=facts,
        warnings=tuple(job.warnings),
    )
