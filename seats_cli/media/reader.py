"""`read_clip`: header, scan, choice of frames, picture, sound, and a warning for what was lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.families.base import FrameSizing
from seats_cli.media.audio import DecodedSound, decode_sound
from seats_cli.media.clip import Clip, MediaFacts, ReadOptions
from seats_cli.media.container import StrPath, shown
from seats_cli.media.frame_sampling import FramePlan, plan_frames
from seats_cli.media.limits import check_decoded_size
from seats_cli.media.notices import (
    gap_notices,
    overall_notices,
    picture_notices,
    sound_notices,
    track_notices,
)
from seats_cli.media.packets import PacketTable, open_stream, scan_packets
from seats_cli.media.pixels import FrameScaler
from seats_cli.media.probe import AudioTrack, MediaSource, VideoTrack, probe
from seats_cli.media.timecode import check_range
from seats_cli.media.timeline import NO_GAPS, Gaps, picture_times, stamps_at
from seats_cli.media.video import DecodedFrames, can_skip_nonref, decode_frames

Progress = Callable[[str, float], None]


@dataclass
class ReadPass:
    """One file being read, and what came of it.

    Every pass over the packets (scan, picture, sound) opens the file anew: a demuxer that has
    met damage or the end of the file does not reliably go back, and a raw stream cannot seek.
    """

    # The file and what its header says.
    path: StrPath
    source: MediaSource
    options: ReadOptions  # what of it is wanted
    sizing: FrameSizing  # bounds on the size of the frames, `options.max_pixels` included
    audio_track: AudioTrack | None  # the sound to read
    on_progress: Progress | None = None  # as for `read_clip`
    warnings: list[str] = field(default_factory=list)
    gaps: Gaps = NO_GAPS
    plan: FramePlan | None = None
    picture: DecodedFrames | None = None
    picture_end_s: float | None = None
    sound: DecodedSound | None = None

    @classmethod
    def begin(
        cls,
        path: StrPath,
        options: ReadOptions,
        sizing: FrameSizing | None,
        source: MediaSource | None,
        on_progress: Progress | None = None,
    ) -> ReadPass:
        """Read the header, unless it is given, and check the request against it.

        Raises
        ------
        MediaError
            If the file cannot be read.
        UsageError
            If the range, `max_pixels` or a track's number do not fit the file.
        """
        source = source or probe(path)
        if options.video:
            source = source.with_picture(options.video_track, path)
        check_range(options.start, options.end, source.duration_s)
        track = source.sound_track(options.audio_track, shown(path)) if options.audio else None
        sizing = options.bound(sizing or FrameSizing())
        warnings = [*source.notes, *track_notices(source, options)]
        return cls(path, source, options, sizing, track, on_progress, warnings)

    @property
    def begin_s(self) -> float:
        """Seconds on the file's timeline at which the clip begins."""
        return self.options.start or 0.0

    def plan_picture(self, track: VideoTrack) -> PacketTable:
        """Scan the packets and choose the frames: sets `plan`, `gaps` and `picture_end_s`."""
        options, origin = self.options, self.source.origin_s
        with open_stream(self.path, track.index, VideoStream) as (container, stream):
            table = scan_packets(
                container,
                stream,
                None if options.start is None else options.start + origin,
                None if options.end is None else options.end + origin,
            )
        times, self.gaps = picture_times(self.path, self.source, table, self.audio_track)
        last_s = table.last_duration * float(table.time_base)
        plan = plan_frames(times, last_s, track.rate, options)
        if plan is not None:
            # A still picture has no rate of its own.
            self.plan = replace(plan, fps=options.fps) if self.source.is_image else plan
            self.picture_end_s = float(times[-1]) + (last_s or 1 / plan.source_fps)
        return table

    def read_picture(self, track: VideoTrack) -> None:
        """Take the sampled frames, if any is on screen in the range and decodes."""
        table = self.plan_picture(track)
        size = os.path.getsize(self.path)
        check_decoded_size(shown(self.path), size, len(table.pts), track.width, track.height)
        plan = self.plan
        if plan is None:
            return
        wanted = stamps_at(plan.times, self.source, table, self.gaps)
        picture = None
        # 1. Fast: without the frames that no other refers to, where the codec marks them.
        if can_skip_nonref(track.codec, table):
            picture = self._decode(track, table, wanted, "AUTO", skip_nonref=True)
        # 2. Every frame: where there is damage nothing is skipped, so that all of it is found.
        if picture is None or picture.missing or picture.broken:
            picture = self._decode(track, table, wanted, "AUTO")
        # 3. One frame at a time: frame threads lose good frames next to a broken one. Slower.
        if picture is None or picture.missing:
            again = self._decode(track, table, wanted, "SLICE")
            if picture is None or (again is not None and again.missing < picture.missing):
                picture = again
        if picture is None:
            self.plan = self.picture_end_s = None
            return
        self.picture = picture
        self.warnings += gap_notices(self.gaps)
        self.warnings += picture_notices(track, table, plan, picture, self.options)

    def read_sound(self, track: AudioTrack) -> None:
        """Take the sound of the range, if any decodes."""
        with open_stream(self.path, track.index, AudioStream) as (container, stream):
            self.sound = decode_sound(
                container,
                stream,
                self.options,
                origin_s=self.source.origin_s,
                length_s=self.source.duration_s,
                gaps=self.gaps,
                picture_end_s=self.picture_end_s,
                on_progress=self._reporter("sound"),
            )
        if self.sound is not None:
            self.warnings += sound_notices(self.source, track, self.sound, self.options)

    def facts(self, end_s: float | None, scaler: FrameScaler | None, sound_s: float) -> MediaFacts:
        """The facts of a clip that ends at `end_s`, with frames by `scaler` and so much sound."""
        source, track = self.source, self.source.video
        plan = None if scaler is None else self.plan
        sound = self.audio_track if sound_s else None
        return MediaFacts(
            path=os.fspath(self.path),
            container=source.container,
            duration_s=source.duration_s,
            start_s=self.begin_s,
            end_s=end_s,
            video_codec=track.codec if track else None,
            source_width=scaler.source_width if scaler else track.width if track else None,
            source_height=scaler.source_height if scaler else track.height if track else None,
            source_fps=plan.source_fps if plan else track.rate if track else None,
            rotation_deg=scaler.rotation_deg if scaler else 0,
            frames_used=len(plan.times) if plan else 0,
            width=scaler.width if scaler else None,
            height=scaler.height if scaler else None,
            audio_codec=sound.codec if sound else None,
            audio_tracks=len(source.audio),
            audio_track=source.audio.index(sound) if sound else None,
            source_sample_rate=sound.rate if sound else None,
            source_channels=sound.channels if sound else None,
            audio_used_s=sound_s,
            video_tracks=len(source.pictures),
            video_track=source.number_of(track) if scaler and track else None,
        )

    def clip(self) -> Clip:
        """Put together what was read."""
        plan, picture, sound = self.plan, self.picture, self.sound
        sound_s = 0.0 if sound is None else sound.length_s
        end = max(self.picture_end_s or 0.0, self.begin_s + sound_s)
        if self.options.end is not None:
            end = min(self.options.end, end)
        scaler, shape = None, 1.0
        if picture is not None and self.source.video is not None:
            scaler = picture.scaler
            shape = scaler.upright_shape(self.source.video.pixel_shape)
        return Clip(
            frames=picture.pixels if picture else None,
            frame_times=plan.times - self.begin_s if plan else None,
            fps=plan.fps if plan else None,
            audio=sound.samples if sound else None,
            facts=self.facts(end, scaler, sound_s),
            warnings=tuple(self.warnings),
            pixel_shape=shape,
        )

    def _decode(
        self,
        track: VideoTrack,
        table: PacketTable,
        wanted: npt.NDArray[np.int64],
        threads: Literal["AUTO", "SLICE"],
        *,
        skip_nonref: bool = False,
    ) -> DecodedFrames | None:
        with open_stream(self.path, track.index, VideoStream) as (container, stream):
            stream.thread_type = threads
            report, turns = self._reporter("picture"), track.mirrored_turns
            return decode_frames(
                container,
                stream,
                table,
                wanted,
                self.sizing,
                report,
                turns,
                skip_nonref=skip_nonref,
            )

    def _reporter(self, what: str) -> Callable[[float], None] | None:
        report = self.on_progress
        return None if report is None else lambda done: report(what, done)


def read_clip(
    path: StrPath,
    options: ReadOptions | None = None,
    *,
    sizing: FrameSizing | None = None,
    source: MediaSource | None = None,
    on_progress: Progress | None = None,
    **fields: Any,
) -> Clip:
    """Read sampled frames and the sound of a local file.

    Frames are scaled as they are decoded and only the sampled ones are kept; the sound is
    never held in more than one copy. A damaged file gives what is readable, with a warning.

    Which frames and in which size are the rules of qwen-omni-utils (see
    `seats_cli.media.frame_sampling`); its reader is not used, because that would lose

    - time: it samples by frame number and average rate and puts the first sample of sound at 0,
      so that picture and sound drift apart where frames come irregularly, either track starts
      late or the clock leaps;
    - rotation: its default backend (torchvision) and its image loader leave phone videos and
      photos lying on their side;
    - damage: an error ends it, or a shorter clip comes back without a word;
    - memory: that backend decodes every frame of the range in full size before it samples.

    Parameters
    ----------
    path : str or path-like
        A video, sound or image file.
    options : ReadOptions, optional
        What of it to read; by default all of it, at 2 frames per second.
    sizing : FrameSizing, optional
        The model's bounds on the size of the frames; by default those of Qwen2.5-Omni.
    source : MediaSource, optional
        What `probe` has found in this file; otherwise its header is read here.
    on_progress : callable or None
        Called with ``"picture"`` or ``"sound"`` and the fraction of it that is done.
    **fields
        Fields of `ReadOptions`, in place of those of `options`:
        ``read_clip("talk.mp4", start=10, end=20)``.

    Returns
    -------
    Clip
        Frames uint8 (T, H, W, 3) or None, sound float32 (n,) or None, facts and warnings.

    Raises
    ------
    MediaError
        If the file cannot be read or holds nothing of what was requested.
    UsageError
        If the range, the rate, the bounds or the track number make no sense.
    """
    options = replace(options or ReadOptions(), **fields)
    job = ReadPass.begin(path, options, sizing, source, on_progress)
    track = job.source.video
    if options.video and track is not None:
        job.read_picture(track)
    if job.audio_track is not None:
        job.read_sound(job.audio_track)
    if job.picture is None and job.sound is None:
        raise MediaError(_nothing(job))
    job.warnings += overall_notices(job.source, options, job.picture_end_s, job.sound)
    return job.clip()


def _nothing(job: ReadPass) -> str:
    """The message for a file that gave nothing of what was requested."""
    name, source, options = shown(job.path), job.source, job.options
    if source.video is None and not source.audio:
        return f"{name} holds neither a picture nor sound that can be decoded."
    if not options.audio and source.video is None:
        return f"{name} has no picture, and its sound was not requested."
    if not options.video and not source.audio:
        return f"{name} has no sound track, and its picture was not requested."
    if options.start is not None or options.end is not None:
        return f"Nothing in this range of {name} can be read; choose another start and end."
    return f"Nothing in {name} can be decoded; it is damaged or cut off."
