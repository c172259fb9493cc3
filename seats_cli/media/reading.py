"""One file being read: its picture, its sound, and what there is to say about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from seats_cli.media.clip import SAMPLE_RATE, FrameSizing
from seats_cli.media.decoding import can_spare
from seats_cli.media.effort import check_effort
from seats_cli.media.frames import DecodedFrames, decode_frames
from seats_cli.media.gaps import NO_GAPS, Gaps
from seats_cli.media.notices import gap_notices, picture_notices, sound_notices
from seats_cli.media.opening import StrPath, open_media
from seats_cli.media.plan import FramePlan, plan_frames
from seats_cli.media.probe import AudioTrack, Source, VideoTrack
from seats_cli.media.scan import PacketTable, scan_packets
from seats_cli.media.sound import DecodedSound, decode_sound
from seats_cli.media.timeline import picture_times, stamps_at

Progress = Callable[[str, float], None]


@dataclass
class Reading:
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
