"""What a container says about itself, before anything is decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from seats_cli.errors import MediaError, UsageError
from seats_cli.media.container import is_animated_webp, local_file, open_media, shown
from seats_cli.media.extent import (
    StrPath,
    has_frame_count,
    is_strung_together,
    missing_bytes,
    second_file,
)
from seats_cli.media.orientation import mirrored_turns
from seats_cli.media.packets import CLOCK_MAY_LEAP, GENERIC_INDEX

# 16,384 x 8,192 for pictures and 8,192 x 8,192 for moving ones: beyond every camera and screen,
# and still a bounded amount of memory. A video decoder holds many frames at a time.
_MAX_STILL_PIXELS = 1 << 27
_MAX_VIDEO_PIXELS = 1 << 26
# A damaged header's 1 Hz would stretch a second of sound over hours.
SAMPLE_RATES = range(1_000, 2_000_000)
# Without an index of their own, but with their length in samples.
_COUNTED = ("flac", "tta", "w64", "wav", "wv")

# Until FFmpeg 8.1 (PyAV 17.1), Matroska's tracks began with the samples that are not heard, so that
# the whole file seemed to be that much later.
_PRIMING_COUNTS = av.library_versions["libavformat"] < (62, 12)
_NOT_A_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
_MAX_PAGES = 100_000  # of a TIFF
# Packets within which a second picture that moves shows it; interleaved tracks take a few.
_MAX_LOOKED_AT = 20_000


@dataclass(frozen=True)
class VideoTrack:
    """One moving picture; `index` is the stream's number in the container.

    `number` is that in the file itself; `pixel_shape` is the width of a pixel over its height, 1
    where the file does not say; `mirrored_turns` is as in `seats_cli.media.orientation`.
    """

    index: int
    number: int
    codec: str
    width: int
    height: int
    rate: float | None
    claimed_frames: int
    pixel_shape: float
    mirrored_turns: int | None
    is_default: bool = False  # whether the file marks it as the one to be shown
    is_cover: bool = False  # one frame beside a film, or marked as a cover or as thumbnails
    is_marked_cover: bool = False  # the latter

    def describe(self) -> str:
        """A few words by which a person recognises the track."""
        return f"{self.codec}, {self.width}x{self.height}"


@dataclass(frozen=True)
class AudioTrack:
    """One sound track; `index` is the stream's number in the container."""

    index: int
    codec: str
    rate: int
    channels: int
    layout: str
    language: str | None
    is_default: bool

    def describe(self) -> str:
        """A few words by which a person recognises the track."""
        parts = [self.codec, self.layout, f"{self.rate} Hz"]
        return ", ".join([*parts, self.language] if self.language else parts)


@dataclass(frozen=True)
class MediaSource:
    """What a file's header says: its tracks, duration and start."""

    container: str  # FFmpeg's name of the format
    duration_s: float | None  # seconds the file says it lasts, from `origin_s`
    origin_s: float  # time stamp at which the earliest track starts: 0 on the file's timeline
    video: VideoTrack | None  # the picture that is used
    audio: tuple[AudioTrack, ...]  # all sound tracks that have a decoder, in the container's order
    notes: tuple[str, ...]  # one sentence for everything ignored
    # All video tracks that have a decoder, covers included, in the container's order.
    pictures: tuple[VideoTrack, ...] = ()
    length_is_estimate: bool = False  # `duration_s` is no more than a guess

    @property
    def is_image(self) -> bool:
        """Whether this is a still picture, which has no duration (PNG, JPEG and the like)."""
        return _is_still(self.container)

    def number_of(self, track: VideoTrack) -> int:
        """The track's number among `pictures`."""
        return [picture.index for picture in self.pictures].index(track.index)

    def with_picture(self, wanted: int | None, path: StrPath) -> MediaSource:
        """The same source with another video track as its picture.

        Parameters
        ----------
        wanted : int or None
            The track's number, from 0, covers included; None for the one that a player shows.
        path : str or path-like
            The file.

        Raises
        ------
        UsageError
            If there is no such track.
        MediaError
            If it is too large to decode safely.
        """
        if wanted is None:
            return self
        count, name = len(self.pictures), shown(path)
        if not 0 <= wanted < count:
            has = "no picture" if not count else "only track 0"
            has = f"tracks 0 to {count - 1}" if count > 1 else has
            raise UsageError(f"There is no video track {wanted}: {name} has {has}.")
        return replace(self, video=_usable(self.pictures[wanted], self.container, path))

    def sound_track(self, wanted: int | None, name: str) -> AudioTrack | None:
        """The sound track to use.

        Parameters
        ----------
        wanted : int or None
            Its number, from 0; None for the one that the file marks as default (players
            take that one), else the first.
        name : str
            The file's name in messages.

        Raises
        ------
        UsageError
            If there is no such track.
        """
        count = len(self.audio)
        if wanted is None:
            marked = [track for track in self.audio if track.is_default]
            return next(iter(marked or self.audio), None)
        if not 0 <= wanted < count:
            has = "no sound" if not count else "only track 0"
            has = f"tracks 0 to {count - 1}" if count > 1 else has
            raise UsageError(f"There is no sound track {wanted}: {name} has {has}.")
        return self.audio[wanted]


def _is_still(container: str) -> bool:
    return container.endswith("_pipe")


def max_pixels(container: str) -> int:
    """The largest picture allowed, in pixels, by FFmpeg's name of the container."""
    return _MAX_STILL_PIXELS if _is_still(container) else _MAX_VIDEO_PIXELS


def probe(path: StrPath) -> MediaSource:
    """Read the header of a media file.

    Parameters
    ----------
    path : str or path-like
        A local file.

    Returns
    -------
    MediaSource
        Tracks, duration and origin of the timeline.

    Raises
    ------
    MediaError
        If the file cannot be opened or claims a picture too large to decode safely.
    """
    path = local_file(path)
    with open_media(path) as container:
        return _describe(container, path)


def _describe(container: InputContainer, path: StrPath) -> MediaSource:
    notes = _cut_off(path) + _followed(path)
    pages = 1 + _extra_pages(path) if container.format.name == "tiff_pipe" else 1
    if pages > 1:
        notes.append(f"The file has {pages:,} pictures; only the first is used.")
    videos, sounds = [], []
    for stream in container.streams:
        if stream.type not in ("video", "audio"):
            continue
        if _decoder_missing(stream):
            if stream.disposition & _NOT_A_VIDEO:
                continue
            notes.append(f"Stream {stream.index} ({stream.type}) has no decoder and is ignored.")
        elif isinstance(stream, VideoStream):
            videos.append(stream)
        elif isinstance(stream, AudioStream) and stream.rate not in SAMPLE_RATES:
            notes.append(
                f"Stream {stream.index} claims {stream.rate} sound samples per second "
                "and is ignored."
            )
        elif isinstance(stream, AudioStream):
            sounds.append(stream)
    _check_tiles(videos, shown(path))
    # A picture without a size is one that is only announced: see `late_share` of `Survey`.
    videos = [stream for stream in videos if stream.width] or videos
    pictures = _video_tracks(container, videos)
    name = container.format.name
    if is_animated_webp(path):
        name, pictures = "webp", tuple(replace(track, codec="webp") for track in pictures)
    films = [track for track in pictures if not track.is_cover]
    # As players do: what the file marks as the one to be shown, then the largest, then the first.
    video = max(films, key=lambda t: (t.is_default, t.width * t.height, -t.index), default=None)
    covers = {track.index for track in pictures if track.is_cover}
    videos = [stream for stream in videos if stream.index not in covers]
    origin = min(_starts(container, [*videos, *sounds]), default=0.0)
    duration = _seconds(container.duration, Fraction(1, av.time_base))
    if duration and duration > origin > 0 and "matroska" in container.format.name:
        duration -= origin  # Matroska's duration is the time stamp of the end
    return MediaSource(
        container=name,
        duration_s=duration if duration and duration > 0 else None,
        origin_s=origin,
        video=None if video is None else _usable(video, container.format.name, path),
        audio=tuple(map(_audio_track, sounds)),
        notes=tuple(notes),
        pictures=pictures,
        length_is_estimate=_is_estimate(container, path),
    )


def _starts(container: InputContainer, streams: Sequence[VideoStream | AudioStream]) -> list[float]:
    """When the streams begin, in seconds, as far as they say; sound with what is heard of it."""
    begins = [(_seconds(stream.start_time, stream.time_base), stream) for stream in streams]
    found = [(start, stream) for start, stream in begins if start is not None]
    heard: dict[float, float] = {}
    if _PRIMING_COUNTS and "matroska" in container.format.name:
        for start, stream in found:
            if isinstance(stream, AudioStream) and stream.rate and stream.time_base:
                ticks = stream.codec_context.delay / stream.rate / stream.time_base
                heard[start] = start + float(math.floor(ticks + 0.5) * stream.time_base)
    # A picture that says nothing has been given the start of the sound.
    return [heard.get(start, start) for start, _ in found]


def _cut_off(path: StrPath) -> list[str]:
    """A sentence if a RIFF file (WAV, AVI) is shorter than its header says."""
    missing = missing_bytes(path)
    if missing is None:
        return []
    claimed, size = missing
    return [f"The file is cut off: it should have {claimed:,} bytes, but only {size:,} are there."]


def _check_tiles(streams: Sequence[VideoStream], name: str) -> None:
    """Refuse a photo that FFmpeg gives in parts, each as a video stream of its own.

    Raises
    ------
    MediaError
        If there is nothing but such parts.
    """
    if len(streams) > 1 and all(stream.disposition & Disposition.dependent for stream in streams):
        raise MediaError(
            f"{name} is a photo in {len(streams)} tiles (HEIC), which is not supported; save it as "
            "JPEG or PNG."
        )


def _followed(path: StrPath) -> list[str]:
    """A sentence if a second file follows in this one, which is not read."""
    begins = second_file(path)
    if begins is None:
        return []
    return [
        f"A second file begins at byte {begins:,} of this one; only the first is used, as players "
        "do. Split it there, or join the two with a tool for media."
    ]


def _is_estimate(container: InputContainer, path: StrPath) -> bool:
    """Whether the length is a guess: from the byte rate, or from one of several clocks."""
    name, flags = container.format.name, container.format.flags
    if flags & CLOCK_MAY_LEAP or is_strung_together(path):
        return True
    if name == "mp3":
        return not has_frame_count(path)
    return bool(flags & GENERIC_INDEX) and name not in _COUNTED


def _decoder_missing(stream: Stream) -> bool:
    # PyAV leaves the context out when FFmpeg knows no decoder for the stream.
    return getattr(stream, "codec_context", None) is None


def _seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    return None if ticks is None or time_base is None else float(ticks * time_base)


def _video_tracks(
    container: InputContainer, streams: Sequence[VideoStream]
) -> tuple[VideoTrack, ...]:
    """The video tracks, with those that are covers marked as such.

    Besides what the file marks as a cover, that is what holds one frame only beside a picture that
    moves: programs that cannot mark a cover write it as one more video track.
    """
    covers = {stream.index for stream in streams if stream.disposition & _NOT_A_VIDEO}
    films = [stream for stream in streams if stream.index not in covers]
    if len(films) > 1:
        single = _single_frames(container, films)
        if len(single) < len(films):
            covers |= single
    return tuple(_video_track(stream, stream.index in covers) for stream in streams)


def _single_frames(container: InputContainer, streams: Sequence[VideoStream]) -> set[int]:
    """The indices of the streams that have but one frame.

    Where the header does not count them, packets are read until all other streams have shown two.
    """
    single = {stream.index for stream in streams if _claimed_frames(stream) == 1}
    open_ = [stream for stream in streams if not _claimed_frames(stream)]
    counts = dict.fromkeys((stream.index for stream in open_), 0)
    looked_at = 0
    with suppress(av.error.FFmpegError, IndexError):  # damage is for the reading to find
        for packet in container.demux(*open_) if open_ else ():
            looked_at += 1
            counts[packet.stream.index] += packet.size > 0
            if min(counts.values()) > 1 or looked_at > _MAX_LOOKED_AT:
                break
    return single | {index for index, count in counts.items() if count == 1}


def _claimed_frames(stream: VideoStream) -> int:
    """How many frames the header counts, 0 if it does not say."""
    # AVI counts ticks: frames that were left out on purpose are in its number too.
    return 0 if stream.container.format.name == "avi" else max(stream.frames, 0)


def _video_track(stream: VideoStream, is_cover: bool) -> VideoTrack:
    rate = stream.average_rate
    shape = stream.sample_aspect_ratio
    return VideoTrack(
        index=stream.index,
        number=stream.id,
        codec=stream.codec_context.name,
        width=stream.width,
        height=stream.height,
        rate=float(rate) if rate else None,
        claimed_frames=_claimed_frames(stream),
        pixel_shape=float(shape) if shape else 1.0,
        mirrored_turns=None,
        is_default=bool(stream.disposition & Disposition.default),
        is_cover=is_cover,
        is_marked_cover=bool(stream.disposition & _NOT_A_VIDEO),
    )


def _usable(track: VideoTrack, container: str, path: StrPath) -> VideoTrack:
    """The track to be decoded, and what only the file's bytes say about it.

    Raises
    ------
    MediaError
        If it claims a picture too large to decode safely.
    """
    if track.width * track.height > max_pixels(container):
        raise MediaError(
            f"The picture claims {track.width} x {track.height} pixels, more than can be "
            "decoded safely; scale the video down first."
        )
    with open(path, "rb") as file:
        return replace(track, mirrored_turns=mirrored_turns(file, container, track.number))


def _audio_track(stream: AudioStream) -> AudioTrack:
    language = stream.metadata.get("language")
    return AudioTrack(
        index=stream.index,
        codec=stream.codec_context.name,
        rate=stream.rate or 0,
        channels=stream.channels,
        layout=stream.layout.name,
        language=None if language in (None, "", "und") else language,
        is_default=bool(stream.disposition & Disposition.default),
    )


def _extra_pages(path: StrPath) -> int:
    """How many pictures a TIFF holds besides the first: the directories that follow its first."""
    with open(path, "rb") as file:
        order: Literal["little", "big"] = "little" if file.read(4)[:1] == b"I" else "big"
        seen = set[int]()
        at = int.from_bytes(file.read(4), order)
        while at and at not in seen and len(seen) < _MAX_PAGES:
            seen.add(at)
            file.seek(at)
            entries = int.from_bytes(file.read(2), order)
            file.seek(12 * entries, os.SEEK_CUR)
            at = int.from_bytes(file.read(4), order)
    return max(len(seen) - 1, 0)
