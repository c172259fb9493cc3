"""Decoding video into frames of one size at the planned times.

`FrameReader` walks the file and decides what is decoded: it seeks over long stretches that are not
wanted, skips frames to which no other refers, and gets past damage. `_Picker` takes the wanted
frames out of what comes, whatever order damage brings it in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.families.base import FrameSizing
from seats_cli.media.colour import note_coding, strange_coding
from seats_cli.media.packets import PacketTable, land, packets, stamp
from seats_cli.media.pixels import FrameScaler, Size
from seats_cli.media.probe import max_pixels
from seats_cli.media.timeline import Mover

_PREDICTED = (PictureType.P, PictureType.B, PictureType.S)
# Seeking flushes the decoder and consults the index: worth it above this many frames.
_SEEK_GAIN = 48
# More frames in a row than this are rarely lost; a damaged stamp is likelier.
_LEAP = 32
# How many frames too late a decoder that has met damage may return a frame.
_MAX_DISORDER = 32


def can_skip_nonref(codec: str, table: PacketTable) -> bool:
    """Whether frames can be left out of decoding without a change to any other.

    H.264 marks every frame to which no other refers. HEVC marks those of a temporal layer, to
    which a higher layer may refer.
    """
    return codec == "h264" and not table.counted


class FrameReader:
    """Decodes a stream, seeking over stretches that are not wanted and carrying on after damage.

    Parameters
    ----------
    container, stream, table
        An open file, its video stream and that stream's time stamps.
    mover : Mover or None
        What moves the packets to the joined timeline, where they are not on it.
    may_seek : bool
        Whether to pass over stretches that are not wanted by the container's means.
    only : set of int
        Time stamps of the wanted frames: where the codec marks the frames to which no other
        refers, only the wanted ones of these are decoded, and come out the same. Empty to
        decode everything.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        table: PacketTable,
        mover: Mover | None = None,
        may_seek: bool = True,
        only: Set[int] = frozenset(),
    ) -> None:
        self.container = container
        self.stream = stream
        self.table = table
        self.errors = 0
        self._max_pixels = max_pixels(container.format.name)
        self._count = 0
        self._at: int | None = None  # stamp of the last frame
        self.astray = False  # a seek has led to where decoding cannot start
        self._mover = mover
        self._jumped_to: int | None = None
        self._awaited: int | None = None  # index of the keyframe with which decoding goes on
        self._first: int | None = None  # stamp of that keyframe, until its frame has come
        self._held: VideoFrame | None = None
        self.may_seek = may_seek and not table.counted and len(table.keys) > 0
        self._only = only if can_skip_nonref(stream.codec_context.name, table) else frozenset()
        self._progressive = False  # known from the first frame on

    @property
    def sought(self) -> bool:
        """Whether it has passed over a stretch."""
        return self._jumped_to is not None

    def frames(self, picker: _Picker) -> Iterator[VideoFrame]:
        """Frames in display order, less those that were skipped, to the end of the file."""
        # 1. Begin at the keyframe before the first wanted frame.
        self._jump(picker.next_target)
        jumped = True
        while jumped and not picker.done:
            jumped = False
            # 2. Decode until the next wanted frame is so far away that seeking is cheaper; the
            #    demuxer's iterator ends with the seek, so a new one starts behind it.
            for packet in packets(self.container, self.stream, self._count_error):
                if self.astray:
                    return
                if self._awaited is not None and not self._arrives(packet):
                    continue
                if self._mover is not None and packet.size:
                    packet = self._mover.move(packet)
                yield from self._decode(packet)
                if not picker.done and self._jump(picker.next_target):
                    jumped = True
                    break
        # 3. A frame that was held back for its doubtful stamp, with nothing after it to refute it.
        if self._held is not None:
            yield self._held

    def _arrives(self, packet: Packet[VideoStream]) -> bool:
        """Whether this is the keyframe that a seek has led to; what comes before it is no use."""
        keys, wanted = self.table.keys, self._awaited
        assert wanted is not None
        if not packet.is_keyframe or stamp(packet) != keys.stated[wanted]:
            self.astray = packet.size == 0  # the file ends without it
            return False
        if self._mover is not None:
            self._mover.number = int(keys.number[wanted])
        self._awaited, self._first = None, int(keys.pts[wanted])
        return True

    def _starts_well(self, frame: VideoFrame) -> bool:
        """Whether the first frame behind a seek is the keyframe, and one that needs no other.

        Cheap recorders mark every frame as a keyframe, and decoders make a picture of them all.
        """
        pts, first = frame.pts or 0, self._first
        if first is None or pts < first:
            return True
        self._first = None
        return pts == first and (frame.key_frame or frame.pict_type not in _PREDICTED)

    def _count_error(self) -> None:
        self.errors += 1

    def _decode(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
        self._skip_or_decode(packet)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.errors += 1
            return
        for frame in frames:
            note_coding(frame, self.stream.codec_context)
            if frame.width * frame.height > self._max_pixels:
                raise MediaError(
                    f"The picture has {frame.width} x {frame.height} pixels, more than can be "
                    "decoded safely; scale the video down first."
                )
            self._check_fields(frame)
            if self._stamp(frame):
                if not self._starts_well(frame):
                    self.astray = True
                    return
                yield from self._settle(frame)

    def _skip_or_decode(self, packet: Packet[VideoStream]) -> None:
        """Let the decoder leave out the packet's frame if it is not wanted and not referred to."""
        if self._only:
            idle = self._progressive and packet.pts is not None and packet.pts not in self._only
            self.stream.codec_context.skip_frame = "NONREF" if idle else "DEFAULT"

    def _check_fields(self, frame: VideoFrame) -> None:
        """Stop skipping at the first interlaced frame: each field may have a stamp of its own."""
        if self._only and frame.interlaced_frame:
            self.errors += self._progressive  # half of a frame may have been skipped
            self._only = frozenset()
            self.stream.codec_context.skip_frame = "DEFAULT"
        self._progressive = True

    def _settle(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Hold back a frame whose stamp leaps ahead, until the next one confirms it.

        A single damaged stamp would make all frames up to it count as missing.
        """
        pts = frame.pts or 0
        if self._held is not None:
            if pts > (self._held.pts or 0):
                self._at = self._held.pts
                yield self._held
            else:
                self.errors += 1
            self._held = None
        at = pts if self._at is None else self._at
        there, here = np.searchsorted(self.table.pts, [pts, at])
        if there - here > _LEAP:
            self._held = frame
        else:
            self._at = pts
            yield frame

    def _stamp(self, frame: VideoFrame) -> bool:
        """Make sure the frame has a time; False if it cannot be placed."""
        if self.table.counted:
            if self._count >= len(self.table.pts):
                return False
            frame.pts = int(self.table.pts[self._count])
            self._count += 1
        elif frame.pts is None:
            frame.pts = frame.dts
        return frame.pts is not None

    def _jump(self, target: int) -> bool:
        """Seek if a keyframe far ahead is at or before the next wanted frame."""
        if not self.may_seek:
            return False
        keys, pts = self.table.keys, self.table.pts
        wanted = keys.before(target)
        key = int(keys.pts[wanted])
        if self._at is None:
            near = not self.table.partial and np.searchsorted(pts, key) < _SEEK_GAIN
        else:
            near = np.searchsorted(pts, key) - np.searchsorted(pts, self._at) < _SEEK_GAIN
        # Damaged stamps can lead back to the same place again and again.
        if near or (self._jumped_to is not None and key <= self._jumped_to):
            return False
        landed = land(self.container, self.stream, keys, wanted)
        if landed is None:
            self.astray = True
            return True
        self._jumped_to, self._held = key, None
        self._awaited, self._at = landed, int(keys.pts[landed])
        return True


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """The wanted frames, and how much of them was damaged."""

    pixels: npt.NDArray[np.uint8]  # uint8 array, shape (n, H, W, 3): RGB, upright
    scaler: FrameScaler  # how they were made: sizes and rotation
    broken: int  # packets that could not be decoded and frames the decoder marks as damaged
    missing: int  # wanted frames that did not decode; the frame before stands in for each
    sought: bool = False  # stretches that were not wanted were passed over, by seeking
    # How many of the wanted frames have which size: height and width of the coded picture.
    sizes: Mapping[Size, int] = field(default_factory=dict)
    strange: str | None = None  # how colours are coded, if that cannot be converted

    @property
    def largest(self) -> Size:
        """The size of the largest coded picture, the first of equal ones."""
        return max(self.sizes, key=lambda size: size[0] * size[1])


def decode_frames(
    container: InputContainer,
    stream: VideoStream,
    table: PacketTable,
    wanted: npt.NDArray[np.int64],
    sizing: FrameSizing,
    on_frame: Callable[[float], None] | None = None,
    mirrored_turns: int | None = None,
    *,
    mover: Mover | None = None,
    may_seek: bool = True,
    skip_nonref: bool = False,
    largest: Size | None = None,
) -> DecodedFrames | None:
    """Decode the frames that are on screen at the given times.

    Parameters
    ----------
    container, stream, table
        An open file, its video stream and that stream's time stamps.
    wanted : int64 array, shape (n,)
        Time stamps in ticks of the stream, non-decreasing; repeated ones repeat the frame.
    sizing : FrameSizing
        Bounds on the size of the frames.
    on_frame : callable or None
        Called with the fraction done after each frame taken.
    mirrored_turns : int or None
        As `seats_cli.media.orientation.mirrored_turns`.
    mover, may_seek
        As for `FrameReader`.
    skip_nonref : bool
        Do not decode what is neither wanted nor referred to, where the codec marks it. Damage
        there goes unnoticed.
    largest : (int, int), optional
        Height and width of the largest coded picture, if an earlier call has shown that it is not
        the first.

    Returns
    -------
    DecodedFrames or None
        None if not a single frame decodes, or a seek has led astray: `may_seek` must be False then.

    Raises
    ------
    MediaError
        If the picture is too large or too thin.
    """
    stream.codec_context.options = {"max_pixels": str(max_pixels(container.format.name))}
    tag = stream.codec_context.codec_tag
    picker = _Picker(table, wanted, sizing, on_frame, mirrored_turns, largest, tag)
    only = frozenset(picker.targets) if skip_nonref else frozenset()
    reader = FrameReader(container, stream, table, mover, may_seek, only)
    for frame in reader.frames(picker):
        picker.offer(frame)
        if picker.done:
            break
    if reader.astray:
        return None
    picker.finish()
    if picker.scaler is None:
        return None
    broken = reader.errors + picker.corrupt
    return DecodedFrames(
        picker.pixels,
        picker.scaler,
        broken,
        picker.missing,
        reader.sought,
        sizes=Counter(size for size in picker.sizes if size is not None),
        strange=picker.strange,
    )


class _Picker:
    """Takes the wanted frames out of a sequence that is in display order but for damage."""

    def __init__(
        self,
        table: PacketTable,
        wanted: npt.NDArray[np.int64],
        sizing: FrameSizing,
        on_frame: Callable[[float], None] | None,
        mirrored_turns: int | None,
        largest: Size | None,
        tag: str,
    ) -> None:
        # The last frame at or before each instant: an exact stamp, so that it can be taken
        # when it comes instead of when the next one shows that it was the last.
        at = np.searchsorted(table.pts, wanted, side="right") - 1
        self.targets = table.pts[np.maximum(at, 0)].tolist()
        self.sizing = sizing
        self.on_frame = on_frame
        self.mirrored_turns = mirrored_turns
        self.largest = largest
        self.sizes: list[Size | None] = [None] * len(self.targets)  # of each place's coded picture
        self.tag = tag
        self.strange: str | None = None
        self.scaler: FrameScaler | None = None
        self.pixels: npt.NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        self.taken = 0
        self.corrupt = 0
        self._missing: dict[int, list[int]] = {}  # stamp to the places where it is wanted
        self._wait = _MAX_DISORDER  # frames to look at after the last wanted one
        self._before: VideoFrame | None = None

    @property
    def done(self) -> bool:
        """Whether no further frame is wanted."""
        return self._complete and not (self._missing and self._wait)

    @property
    def missing(self) -> int:
        return sum(map(len, self._missing.values()))

    @property
    def next_target(self) -> int:
        """Time stamp of the next wanted frame, in ticks of the stream."""
        return int(self.targets[min(self.taken, len(self.targets) - 1)])

    @property
    def _complete(self) -> bool:
        return self.taken == len(self.targets)

    def offer(self, frame: VideoFrame) -> None:
        """Consider the next frame; its `pts` is set."""
        pts = frame.pts or 0
        # 1. Damage can bring frames out of order: one that was given up takes its place after all.
        if self._complete:
            self._wait -= 1
        for place in self._missing.pop(pts, ()):
            self._put(frame, place)
        # 2. Wanted frames before this one did not come: the frame before stands in.
        while not self._complete and self.next_target < pts:
            self._miss(self._before or frame)
        # 3. This frame, as often as it is wanted.
        if not self._complete and self.next_target == pts:
            self._take(frame)
            self.corrupt += frame.is_corrupt
            while not self._complete and self.next_target == pts:
                self._repeat()
        self._before = frame

    def finish(self) -> None:
        """Fill what is left with the last frame of the file."""
        if self._before is None:
            return
        while not self._complete:
            self._miss(self._before)

    def _miss(self, instead: VideoFrame) -> None:
        self._missing.setdefault(self.next_target, []).append(self.taken)
        self._take(instead)

    def _take(self, frame: VideoFrame) -> None:
        if self.scaler is None:
            count = len(self.targets)
            self.scaler = FrameScaler.for_frame(
                frame, count, self.sizing, self.mirrored_turns, self.largest
            )
            self.strange = strange_coding(frame, self.tag)
            size = (count, self.scaler.height, self.scaler.width, 3)
            self.pixels = np.empty(size, np.uint8)
        self._put(frame, self.taken)
        self._advance()

    def _put(self, frame: VideoFrame, place: int) -> None:
        assert self.scaler is not None
        self.pixels[place] = self.scaler.rgb(frame)
        self.sizes[place] = frame.height, frame.width

    def _repeat(self) -> None:
        self.pixels[self.taken] = self.pixels[self.taken - 1]
        self.sizes[self.taken] = self.sizes[self.taken - 1]
        self._advance()

    def _advance(self) -> None:
        self.taken += 1
        if self.on_frame is not None:
            self.on_frame(self.taken / len(self.targets))
