"""Decoding the chosen frames: one pass, scaled as they come, nothing else kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seats_cli.media.clip import FrameSizing
from seats_cli.media.decoding import FrameReader
from seats_cli.media.packets import select_only
from seats_cli.media.pixels import FrameScaler
from seats_cli.media.probe import max_pixels
from seats_cli.media.scan import PacketTable

# Frames that a decoder in trouble may hand out too late.
_DISORDER = 32


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
    mirrored_turns: int | None = None,
    *,
    spare: bool = False,
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
        As `seats_cli.media.mirror.mirrored_turns`.
    spare : bool
        Do not decode what is not needed, where the codec allows it. Damage there goes unseen.

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
    picker = _Picker(table, wanted, sizing, on_frame, mirrored_turns)
    only = frozenset(picker.targets) if spare else frozenset()
    reader = FrameReader(container, stream, table, only)
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
        mirrored_turns: int | None,
    ) -> None:
        # The last frame at or before each instant: an exact stamp, so that it can be taken
        # when it comes instead of when the next one shows that it was the last.
        at = np.searchsorted(table.pts, wanted, side="right") - 1
        self.targets = table.pts[np.maximum(at, 0)].tolist()
        self.sizing = sizing
        self.on_frame = on_frame
        self.mirrored_turns = mirrored_turns
        self.scaler: FrameScaler | None = None
        self.pixels: npt.NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
        self.taken = 0
        self.corrupt = 0
        self._missing: dict[int, list[int]] = {}  # stamp to the places where it is wanted
        self._patience = _DISORDER
        self._before: VideoFrame | None = None

    @property
    def done(self) -> bool:
        return self._complete and not (self._missing and self._patience)

    @property
    def missing(self) -> int:
        return sum(map(len, self._missing.values()))

    @property
    def next_target(self) -> int:
        return int(self.targets[min(self.taken, len(self.targets) - 1)])

    @property
    def _complete(self) -> bool:
        return self.taken == len(self.targets)

    def offer(self, frame: VideoFrame) -> None:
        """Consider the next frame; its `pts` is set."""
        pts = frame.pts or 0
        if self._complete:
            self._patience -= 1
        for place in self._missing.pop(pts, ()):  # damage can bring frames out of order
            self._put(frame, place)
        while not self._complete and self.next_target < pts:
            self._miss(self._before or frame)
        if not self._complete and self.next_target == pts:
            self._take(frame)
            self.corrupt += frame.is_corrupt
            while not self._complete and self.next_target == pts:
                self._repeat()
        self._before = frame

    def finish(self) -> None:
        """Fill what is left with the last frame there was."""
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
            self.scaler = FrameScaler.for_frame(frame, count, self.sizing, self.mirrored_turns)
            size = (count, self.scaler.height, self.scaler.width, 3)
            self.pixels = np.empty(size, np.uint8)
        self._put(frame, self.taken)
        self._advance()

    def _put(self, frame: VideoFrame, place: int) -> None:
        assert self.scaler is not None
        self.pixels[place] = self.scaler.rgb(frame)

    def _repeat(self) -> None:
        self.pixels[self.taken] = self.pixels[self.taken - 1]
        self._advance()

    def _advance(self) -> None:
        self.taken += 1
        if self.on_frame is not None:
            self.on_frame(self.taken / len(self.targets))
