"""Decoding the chosen frames: one pass, scaled as they come, nothing else kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seats_cli.errors import MediaError
from seats_cli.media.clip import FrameSizing
from seats_cli.media.packets import packets, seek_before, select_only
from seats_cli.media.pixels import FrameScaler
from seats_cli.media.probe import max_pixels
from seats_cli.media.scan import PacketTable

# Seeking costs flushing the decoder and a look at the index: worth it above this many frames.
_SEEK_GAIN = 48


@dataclass(frozen=True, eq=False)
class DecodedFrames:
    """The frames asked for and what happened on the way.

    Parameters
    ----------
    pixels : uint8 array, shape (n, H, W, 3)
        RGB, upright.
    rotation_deg : int
        Anticlockwise turn of the coded picture that made it upright: 0, 90, 180 or 270.
    source_width, source_height : int
        Size of the upright picture in the file.
    broken : int
        Packets that could not be decoded and frames the decoder marks as damaged.
    missing : int
        Frames asked for that did not decode; the frame before stands in for each.
    """

    pixels: npt.NDArray[np.uint8]
    rotation_deg: int
    source_width: int
    source_height: int
    broken: int
    missing: int


def decode_frames(
    container: InputContainer,
    stream: VideoStream,
    table: PacketTable,
    wanted: npt.NDArray[np.int64],
    sizing: FrameSizing,
    on_frame: Callable[[float], None] | None = None,
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

    Returns
    -------
    DecodedFrames or None
        None if not a single frame decodes.

    Raises
    ------
    MediaError
        If the picture is too large or too thin.
    """
    select_only(container, stream)
    stream.codec_context.options = {"max_pixels": str(max_pixels(container.format.name))}
    picker = _Picker(table, wanted, sizing, on_frame)
    reader = _Reader(container, stream, table)
    for frame in reader.frames(picker):
        picker.offer(frame)
        if picker.done:
            break
    picker.finish()
    if picker.scaler is None:
        return None
    scaler = picker.scaler
    return DecodedFrames(
        pixels=picker.pixels,
        rotation_deg=scaler.rotation_deg,
        source_width=scaler.source_width,
        source_height=scaler.source_height,
        broken=reader.errors + picker.corrupt,
        missing=picker.missing,
    )


class _Picker:
    """Takes the wanted frames out of a sequence in display order."""

    def __init__(
        self,
        table: PacketTable,
        wanted: npt.NDArray[np.int64],
        sizing: FrameSizing,
        on_frame: Callable[[float], None] | None,
    ) -> None:
        # The last frame at or before each instant: an exact stamp, so that it can be taken
        # when it comes instead of when the next one shows that it was the last.
        at = np.searchsorted(table.pts, wanted, side="right") - 1
        self.targets = table.pts[np.maximum(at, 0)].tolist()
        self.sizing = sizing
        self.on_frame = on_frame
        self.scaler: FrameScaler | None = None
        self.pixels: npt.NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        self.taken = 0
        self.missing = 0
        self.corrupt = 0
        self._before: VideoFrame | None = None

    @property
    def done(self) -> bool:
        return self.taken == len(self.targets)

    @property
    def next_target(self) -> int:
        return int(self.targets[self.taken])

    def offer(self, frame: VideoFrame) -> None:
        """Consider the next frame; its `pts` is set."""
        pts = frame.pts or 0
        while not self.done and self.next_target < pts:
            self.missing += 1
            self._take(self._before or frame)
        if not self.done and self.next_target == pts:
            self._take(frame)
            self.corrupt += frame.is_corrupt
            while not self.done and self.next_target == pts:
                self._repeat()
        self._before = frame

    def finish(self) -> None:
        """Fill what is left with the last frame there was."""
        if self._before is None:
            return
        while not self.done:
            self.missing += 1
            self._take(self._before)

    def _take(self, frame: VideoFrame) -> None:
        if self.scaler is None:
            self.scaler = FrameScaler.for_frame(frame, len(self.targets), self.sizing)
            size = (len(self.targets), self.scaler.height, self.scaler.width, 3)
            self.pixels = np.empty(size, np.uint8)
        self.pixels[self.taken] = self.scaler.rgb(frame)
        self._advance()

    def _repeat(self) -> None:
        self.pixels[self.taken] = self.pixels[self.taken - 1]
        self._advance()

    def _advance(self) -> None:
        self.taken += 1
        if self.on_frame is not None:
            self.on_frame(self.taken / len(self.targets))


class _Reader:
    """Decodes a stream, jumping over stretches nobody asked for and over damage."""

    def __init__(self, container: InputContainer, stream: VideoStream, table: PacketTable) -> None:
        self.container = container
        self.stream = stream
        self.table = table
        self.errors = 0
        self._max_pixels = max_pixels(container.format.name)
        self._count = 0
        self._at: int | None = None  # stamp of the frame that came last
        self._may_seek = not table.counted and len(table.keyframes) > 0

    def frames(self, picker: _Picker) -> Iterator[VideoFrame]:
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

    def _count_error(self) -> None:
        self.errors += 1

    def _decode(self, packet: Packet[VideoStream]) -> Iterator[VideoFrame]:
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
            if self._stamp(frame):
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
        if frame.pts is not None:
            self._at = frame.pts
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
        if near:
            return False
        self._may_seek = seek_before(self.container, self.stream, key)
        self._at = key
        return True
