"""`read_clip`: header, survey, choice of frames, picture, sound, warnings for what was lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.families.base import FrameSizing
from seats_cli.media.audio import DecodedSound, decode_sound
from seats_cli.media.clip import Clip, MediaFacts, ReadOptions
from seats_cli.media.container import local_file, shown
from seats_cli.media.extent import StrPath, is_cut_off
from seats_cli.media.frame_sampling import FramePlan, plan_frames
from seats_cli.media.limits import check_decoded_size
from seats_cli.media.notices import (
    NOTICEABLE_S,
    overall_notices,
    picture_notices,
    sound_notices,
    timeline_notices,
    track_notices,
)
from seats_cli.media.packets import PacketTable, open_stream
from seats_cli.media.pixels import FrameScaler, Size
from seats_cli.media.probe import AudioTrack, MediaSource, VideoTrack, probe
from seats_cli.media.survey import Survey, survey
from seats_cli.media.timecode import check_range
from seats_cli.media.video import DecodedFrames, can_skip_nonref, decode_frames

Progress = Callable[[str, float], None]

# Decoding this many frames from the file's start takes a minute at worst: worth it to find frames
# that did not turn up behind a seek.
_AFFORDABLE_FRAMES = 20_000
_LONG_S = 60.0  # decoded for nothing: worth a sentence


@dataclass
class ReadPass:
    """One file being read, and what came of it.

    Every pass over the packets (survey, picture, sound) opens the file anew: a demuxer that has
    met damage or the end of the file does not reliably go back, and a raw stream cannot seek.
    """

    # The file and what its header says.
    path: StrPath
    source: MediaSource
    options: ReadOptions  # what of it is wanted
    sizing: FrameSizing  # bounds on the size of the frames, `options.max_pixels` included
    audio_track: AudioTrack | None  # the sound to read
    survey: Survey  # what its packets say
    on_progress: Progress | None = None  # as for `read_clip`
    warnings: list[str] = field(default_factory=list)
    may_seek: bool = True  # until a seek has led astray
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
        """Read the header, unless it is given, and the packets; check the request against them.

        Raises
        ------
        MediaError
            If the file cannot be read.
        UsageError
            If the range, `max_pixels` or a track's number do not fit the file.
        """
        path = local_file(path)
        source = source or probe(path)
        if options.video:
            source = source.with_picture(options.video_track, path)
        track = source.sound_track(options.audio_track, shown(path)) if options.audio else None
        sizing = options.bound(sizing or FrameSizing())
        # The timeline is the same whether or not the sound is wanted.
        shared = track or source.sound_track(None, shown(path))
        found = survey(path, source, source.video, shared, options)
        claimed, length = source.duration_s, found.timeline.length_s
        length = claimed if length is None else length
        check_range(options.start, None, length)
        # An end that only the header knows of is the file's end.
        if claimed is not None and length is not None and not source.length_is_estimate:
            length = max(claimed, length)
        check_range(None, options.end, length)
        warnings = [*source.notes, *track_notices(source, options)]
        warnings += timeline_notices(found.timeline, found.late_share, options)
        return cls(path, source, options, sizing, track, found, on_progress, warnings)

    @property
    def begin_s(self) -> float:
        """Seconds on the file's timeline at which the clip begins."""
        return self.options.start or 0.0

    @cached_property
    def length_s(self) -> float | None:
        """Seconds the file lasts: as its header says, unless its packets prove that wrong."""
        claimed, found = self.source.duration_s, self.survey.timeline.length_s
        if claimed is None or found is None:
            return None if self.source.is_image else claimed or found
        if abs(claimed - found) <= NOTICEABLE_S:
            return claimed
        estimate = self.source.length_is_estimate
        return found if estimate or found > claimed or self.header_is_wrong else claimed

    @cached_property
    def header_is_wrong(self) -> bool:
        """Whether the file is there to its last byte, so that a greater length is a wrong claim."""
        return is_cut_off(self.path) is False

    def plan_picture(self, track: VideoTrack) -> PacketTable:
        """Choose the frames: sets `plan` and `picture_end_s`."""
        table, options = self.survey.table, self.options
        assert table is not None
        times = table.seconds() - self._origin_s(table)
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
        stamps = (plan.times + self._origin_s(table)) / float(table.time_base)
        wanted = np.rint(stamps).astype(np.int64)
        picture = None
        # 1. Fast: without the frames that no other refers to, where the codec marks them.
        if can_skip_nonref(track.codec, table):
            picture = self._decode(track, table, wanted, "AUTO", skip_nonref=True)
        # 2. Every frame: where there is damage nothing is skipped, so that all of it is found.
        if picture is None or picture.missing or picture.broken:
            picture = self._decode(track, table, wanted, "AUTO")
        # 3. From the start: where a seek has landed may look right and be wrong all the same.
        affordable = np.searchsorted(table.pts, wanted[-1]) <= _AFFORDABLE_FRAMES
        if picture is not None and picture.missing and picture.sought and affordable:
            self.may_seek = False
            picture = self._decode(track, table, wanted, "AUTO") or picture
        # 4. One frame at a time: frame threads lose good frames next to a broken one. Slower.
        if picture is None or picture.missing:
            again = self._decode(track, table, wanted, "SLICE")
            if picture is None or (again is not None and again.missing < picture.missing):
                picture = again
        if picture is None:
            self.plan = self.picture_end_s = None
            return
        self.picture = picture
        ahead_s = self._decoded_ahead_s(table, int(wanted[0]))
        if ahead_s > _LONG_S:
            self.warnings.append(
                f"No keyframe near the start of the range can be found, so the {ahead_s:.0f} s "
                "before it were decoded too."
            )
        self.warnings += picture_notices(track, table, plan, picture, self.options)

    def read_sound(self, track: AudioTrack) -> None:
        """Take the sound of the range, if any decodes."""
        with open_stream(self.path, track.index, AudioStream) as (container, stream):
            self.sound = decode_sound(
                container,
                stream,
                self.options,
                origin_s=self.source.origin_s,
                length_s=self.length_s,
                mover=self.survey.timeline.mover(track.index),
                indexed=self.survey.indexed,
                picture_end_s=self.picture_end_s,
                on_progress=self._reporter("sound"),
            )
        if self.sound is not None:
            self.warnings += sound_notices(self.source, track, self.sound, self.options)

    def end_s(self, sound_s: float) -> float:
        """Seconds on the timeline at which a clip with so much sound ends."""
        end = max(self.picture_end_s or 0.0, self.begin_s + sound_s)
        return end if self.options.end is None else min(self.options.end, end)

    def facts(self, end_s: float | None, scaler: FrameScaler | None, sound_s: float) -> MediaFacts:
        """The facts of a clip that ends at `end_s`, with frames by `scaler` and so much sound."""
        source, track = self.source, self.source.video
        plan = None if scaler is None else self.plan
        sound = self.audio_track if sound_s else None
        return MediaFacts(
            path=os.fspath(self.path),
            container=source.container,
            duration_s=self.length_s,
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
        scaler, shape = None, 1.0
        if picture is not None and self.source.video is not None:
            scaler = picture.scaler
            shape = scaler.upright_shape(self.source.video.pixel_shape)
        return Clip(
            frames=picture.pixels if picture else None,
            frame_times=plan.times - self.begin_s if plan else None,
            fps=plan.fps if plan else None,
            audio=sound.samples if sound else None,
            facts=self.facts(self.end_s(sound_s), scaler, sound_s),
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
        largest: Size | None = None,
    ) -> DecodedFrames | None:
        """One pass; a second one where a seek has led astray or the largest frame came late."""
        again = partial(
            self._decode, track, table, wanted, threads, skip_nonref=skip_nonref, largest=largest
        )
        with open_stream(self.path, track.index, VideoStream) as (container, stream):
            stream.thread_type = threads
            report, turns = self._reporter("picture"), track.mirrored_turns
            picture = decode_frames(
                container,
                stream,
                table,
                wanted,
                self.sizing,
                report,
                turns,
                mover=self.survey.timeline.mover(track.index),
                may_seek=self.may_seek,
                skip_nonref=skip_nonref,
                largest=largest,
            )
        if picture is None and self.may_seek:
            self.may_seek = False
            return again()
        # The size of the frames is that of the first one's until others are known.
        if picture is not None and largest is None and picture.largest != picture.scaler.coded_size:
            return again(largest=picture.largest)
        return picture

    def _decoded_ahead_s(self, table: PacketTable, first: int) -> float:
        """Seconds of picture that are decoded ahead of the first wanted frame, in ticks."""
        begin = int(table.pts[0])
        if self.may_seek and len(table.keys):
            begin = int(table.keys.pts[table.keys.before(first)])
        return float((first - begin) * table.time_base)

    def _origin_s(self, table: PacketTable) -> float:
        """Seconds at which the timeline starts in a table's stamps; counted ones begin at 0."""
        return 0.0 if table.counted else self.source.origin_s

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
    job.warnings += overall_notices(
        job.source, options, job.picture_end_s, job.sound, lambda: job.header_is_wrong
    )
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
