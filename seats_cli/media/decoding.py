"""Decoding a video stream in display order, past stretches nobody asked for."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Protocol

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.media.packets import packets, seek_before
from seats_cli.media.probe import max_pixels
from seats_cli.media.scan import PacketTable

# Seeking costs flushing the decoder and a look at the index: worth it above this many frames.
_SEEK_GAIN = 48
# More frames in a row than this are rarely lost; a damaged stamp is likelier.
_LEAP = 32


def can_spare(codec: str, table: PacketTable) -> bool:
    """Whether frames that are not wanted can be passed over without a trace.

    H.264 marks every frame that no other refers to. HEVC marks those of a temporal layer, to
    which a higher layer may refer.
    """
    return codec == "h264" and not table.counted


class Picker(Protocol):
    """Who takes the frames, and knows which one is wanted next."""

    @property
    def done(self) -> bool:
        """Nothing more is wanted."""

    @property
    def next_target(self) -> int:
        """Time stamp of the next frame wanted, in ticks of the stream."""


class FrameReader:
    """Decodes a stream, jumping over stretches nobody asked for and over damage.

    Parameters
    ----------
    container, stream, table
        An open file, its video stream and that stream's time stamps.
    only : set of int
        Time stamps of the frames that are wanted. Where the codec says which frames no other
        frame refers to, those of them that are not wanted are not decoded: the wanted ones come
        out the same. Empty to decode everything.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        table: PacketTable,
        only: Set[int] = frozenset(),
    ) -> None:
        self.container = container
        self.stream = stream
        self.table = table
        self.errors = 0
        self._max_pixels = max_pixels(container.format.name)
        self._count = 0
        self._at: int | None = None  # stamp of the frame that came last
        self._jumped_to: int | None = None
        self._held: VideoFrame | None = None
        self._may_seek = not table.counted and len(table.keyframes) > 0
        self._only = only if can_spare(stream.codec_context.name, table) else frozenset()
        self._progressive = False  # before the first frame nobody knows

    def frames(self, picker: Picker) -> Iterator[VideoFrame]:
        """Frames in display order until the file ends; restarts after every jump."""
        self._jump(picker.next_target)
        jumped = True
        while jumped and not picker.done:
            jumped = False
            for packet in packets(self.container, self.stream, self._count_error):
                yield from self._decode(packet)
                if not picker.done and self._jump(picker.next_target):
                    jumped = True
                    break
        if self._held is not None:
            yield self._held

    def _count_error(self) -> None:
        self.errors += 1

    def _decode(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
        self._spare(packet)
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            self.errors += 1
            return
        for frame in frames:
            if frame.width * frame.height > self._max_pixels:
                raise MediaError(
                    f"The picture has {frame.width} x {frame.height} pixels, more than can be "
                    "decoded safely; scale the video down first."
                )
            self._check_fields(frame)
            if self._stamp(frame):
                yield from self._settle(frame)

    def _spare(self, packet: Packet[VideoStream]) -> None:
        """Let the decoder pass over the packet's frame if nobody needs it."""
        if self._only:
            idle = self._progressive and packet.pts is not None and packet.pts not in self._only
            self.stream.codec_context.skip_frame = "NONREF" if idle else "DEFAULT"

    def _check_fields(self, frame: VideoFrame) -> None:
        """The two fields of a frame can have stamps of their own: then nothing is spared."""
        if self._only and frame.interlaced_frame:
            self.errors += self._progressive  # half of a frame may have been passed over
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
        """Seek if the next wanted frame is far beyond a keyframe that lies ahead."""
        if not self._may_seek:
            return False
        keys, pts = self.table.keyframes, self.table.pts
        key = int(keys[max(int(np.searchsorted(keys, target, side="right")) - 1, 0)])
        if self._at is None:
            near = not self.table.partial and np.searchsorted(pts, key) < _SEEK_GAIN
        else:
            near = np.searchsorted(pts, key) - np.searchsorted(pts, self._at) < _SEEK_GAIN
        # Damaged stamps can lead to the same place again and again.
        if near or (self._jumped_to is not None and key <= self._jumped_to):
            return False
        self._jumped_to, self._held = key, None
        self._may_seek = seek_before(self.container, self.stream, key)
        self._at = key
        return True
