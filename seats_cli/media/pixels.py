"""From a decoded frame to upright RGB pixels of the model's size."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from seats_cli.families.base import FrameSizing
from seats_cli.media.frame_sampling import frame_size

# Bicubic and averaging when shrinking, as in the official pipeline. Without the two flags
# libswscale rounds such that white becomes 253.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True)
class FrameScaler:
    """Scales, converts and turns frames of one video."""

    # Size of the result, upright.
    height: int
    width: int
    # Size of the upright picture before scaling.
    source_height: int
    source_width: int
    quarter_turns: int  # anticlockwise quarter turns, 0 to 3, that make the coded picture upright
    mirrored: bool  # whether the coded picture is mirrored, left to right, before it is turned
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter, repr=False)

    @classmethod
    def for_frame(
        cls,
        frame: VideoFrame,
        count: int,
        sizing: FrameSizing,
        mirrored_turns: int | None = None,
    ) -> FrameScaler:
        """The scaler for a video of which `count` frames like `frame` are taken.

        `mirrored_turns` as `seats_cli.media.orientation.mirrored_turns`.

        Raises
        ------
        MediaError
            If the picture is too thin.
        """
        mirrored = mirrored_turns is not None
        turns = round(frame.rotation / 90) % 4 if mirrored_turns is None else mirrored_turns
        height, width = frame.height, frame.width
        if turns % 2:
            height, width = width, height
        rows, columns = frame_size(height, width, count, sizing)
        return cls(rows, columns, height, width, turns, mirrored)

    @property
    def rotation_deg(self) -> int:
        """The turn in degrees anticlockwise."""
        return self.quarter_turns * 90

    def upright_shape(self, pixel_shape: float) -> float:
        """A pixel's width over its height in the upright picture, from that in the coded one."""
        return 1 / pixel_shape if self.quarter_turns % 2 else pixel_shape

    def rgb(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """The frame's pixels.

        Returns
        -------
        uint8 array, shape (height, width, 3)
            RGB; transparent parts on white, as in the official pipeline.
        """
        coded = (self.height, self.width)
        if self.quarter_turns % 2:
            coded = (self.width, self.height)
        clear = any(component.is_alpha for component in frame.format.components)
        scaled = self._reformatter.reformat(
            frame,
            width=coded[1],
            height=coded[0],
            format="rgba" if clear else "rgb24",
            interpolation=_SCALING,
        )
        pixels = scaled.to_ndarray().astype(np.uint8, copy=False)
        if clear:
            pixels = _on_white(pixels)
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.quarter_turns)


def _on_white(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Flatten RGBA, uint8 (H, W, 4), to RGB on a white background."""
    colour = pixels[..., :3].astype(np.uint16)
    alpha = pixels[..., 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
