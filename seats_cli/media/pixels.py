"""From a decoded frame to upright RGB pixels of the model's size."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from seats_cli.families.base import FrameSizing
from seats_cli.media.colour import ColourConverter
from seats_cli.media.frame_sampling import frame_size

# Of another shape than the frame by less than this, a picture fills it: multiples of the model's
# patches cannot keep the shape exactly anyway.
_SAME_SHAPE = 1.02

Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class FrameScaler:
    """Scales, converts and turns frames of one video.

    Frames may have another size than the one that it was made for: they are fitted into the same
    frame, between black bars where their shape differs.
    """

    # Size of the result, upright.
    height: int
    width: int
    # Size of the upright picture before scaling.
    source_height: int
    source_width: int
    quarter_turns: int  # anticlockwise quarter turns, 0 to 3, that make the coded picture upright
    mirrored: bool  # whether the coded picture is mirrored, left to right, before it is turned
    _colours: ColourConverter = field(default_factory=ColourConverter, repr=False)

    @classmethod
    def for_frame(
        cls,
        frame: VideoFrame,
        count: int,
        sizing: FrameSizing,
        mirrored_turns: int | None = None,
        largest: Size | None = None,
    ) -> FrameScaler:
        """The scaler for a video of which `count` frames like `frame` are taken.

        `mirrored_turns` as `seats_cli.media.orientation.mirrored_turns`; `largest` is the size of
        the largest coded picture, where it is not that of `frame`.

        Raises
        ------
        MediaError
            If the picture is too thin.
        """
        mirrored = mirrored_turns is not None
        turns = round(frame.rotation / 90) % 4 if mirrored_turns is None else mirrored_turns
        height, width = largest or (frame.height, frame.width)
        if turns % 2:
            height, width = width, height
        rows, columns = frame_size(height, width, count, sizing)
        return cls(rows, columns, height, width, turns, mirrored)

    @property
    def rotation_deg(self) -> int:
        """The turn in degrees anticlockwise."""
        return self.quarter_turns * 90

    @property
    def coded_size(self) -> Size:
        """The size of the coded picture that it was made for."""
        return self._coded(self.source_height, self.source_width)

    def upright_shape(self, pixel_shape: float) -> float:
        """A pixel's width over its height in the upright picture, from that in the coded one."""
        return 1 / pixel_shape if self.quarter_turns % 2 else pixel_shape

    def rgb(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """The frame's pixels: RGB, uint8 (height, width, 3), transparent parts on white."""
        coded = self._coded(self.height, self.width)
        rows, columns = self.fitted(frame.height, frame.width)
        pixels = self._colours.rgb(frame, rows, columns)
        if (rows, columns) != coded:
            top, left = (coded[0] - rows) // 2, (coded[1] - columns) // 2
            barred = np.zeros((*coded, 3), np.uint8)
            barred[top : top + rows, left : left + columns] = pixels
            pixels = barred
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarter_turns)

    def fitted(self, height: int, width: int) -> Size:
        """The size that a coded picture of this size has in the coded frame."""
        rows, columns = self._coded(self.height, self.width)
        planned = self.coded_size
        tall, wide = height / planned[0], width / planned[1]
        if max(tall, wide) <= _SAME_SHAPE * min(tall, wide):
            return rows, columns
        longest = max(tall, wide)
        return max(1, round(rows * tall / longest)), max(1, round(columns * wide / longest))

    def _coded(self, height: int, width: int) -> Size:
        """The coded picture's size from that of the upright one."""
        return (width, height) if self.quarter_turns % 2 else (height, width)
