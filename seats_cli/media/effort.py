"""Moving pictures that take hours to unpack from next to nothing."""

from __future__ import annotations

import os

from seats_cli.errors import MediaError
from seats_cli.media.opening import StrPath, shown
from seats_cli.media.probe import VideoTrack

# Below this it takes a minute at worst: a quarter of an hour of 1080p, 750 frames of 8192 x 8192.
_HARMLESS_PIXELS = 5e10
# Of a black film there are a few dozen bytes per frame: 80,000 pixels per byte at 4K.
_PIXELS_PER_BYTE = 5e5


def check_effort(path: StrPath, track: VideoTrack, frames: int) -> None:
    """Refuse a video whose frames cannot be what the file is about.

    Parameters
    ----------
    path : str or path-like
        The file.
    track : VideoTrack
        Its picture.
    frames : int
        How many there are.

    Raises
    ------
    MediaError
        If there are more pixels to a byte than in any real film, and many of them.
    """
    pixels = float(frames) * track.width * track.height
    if pixels > _HARMLESS_PIXELS and pixels > _PIXELS_PER_BYTE * os.path.getsize(path):
        raise MediaError(
            f"{shown(path)} would unpack to {frames:,} frames of {track.width} x {track.height} "
            "pixels from next to nothing, as no real video does; scale it down first."
        )
