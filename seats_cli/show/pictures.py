"""The clip's frames and its sound as small pictures."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from seats_cli.media.clip import SAMPLE_RATE

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.show.record import Record

Pixels = npt.NDArray[np.uint8]

_MAX_SIDE = 480  # of a frame in the page
_PAGE_PIXELS = 8_000_000  # of all frames together, about 1 MB as WebP
_MEL_BANDS, _N_FFT, _HOP = 96, 512, 160
_MAX_COLUMNS = 2400


def display_aspect(record: Record) -> float:
    """Width over height at which the clip's upright picture is meant to be seen."""
    media = record.media
    if media.source_width and media.source_height:
        return media.source_width * record.pixel_shape / media.source_height
    assert record.grid is not None
    return record.grid.columns / record.grid.rows


def grid_frames(clip: Clip, record: Record) -> list[Pixels]:
    """The first frame of every temporal grid, uint8 (H, W, 3), as the model got it."""
    assert clip.frames is not None
    assert record.grid is not None
    return list(clip.frames[:: record.grid.frames])


def page_size(count: int, width: int, height: int, aspect: float) -> tuple[int, int]:
    """Width and height in pixels of each of `count` frames in a page.

    The shape is that of the display; the size is bounded by what the model saw, by what an
    eye needs, and by all frames together.
    """
    longest = min(_MAX_SIDE, max(width, height))
    shrink = math.sqrt(min(1.0, _PAGE_PIXELS / (count * longest * longest)))
    side = longest * shrink
    wide, high = (side, side / aspect) if aspect >= 1 else (side * aspect, side)
    return max(1, round(wide)), max(1, round(high))


def resized(pixels: Pixels, width: int, height: int) -> Image.Image:
    """A frame at another size."""
    return Image.fromarray(np.ascontiguousarray(pixels)).resize(
        (width, height), Image.Resampling.LANCZOS
    )


def encode(image: Image.Image, **options: Any) -> bytes:
    """A picture as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **{"quality": 72, "method": 4, **options})
    return buffer.getvalue()


def log_mel(audio: npt.NDArray[np.float32]) -> Pixels:
    """The log-mel spectrogram of a sound as grey values.

    Parameters
    ----------
    audio : float32 array, shape (n,)
        Mono at 16 kHz.

    Returns
    -------
    uint8 array, shape (96, columns)
        High bands first; 80 dB between black and white. A long sound is looked at in 2,400
        places.
    """
    import librosa

    hop = max(_HOP, -(-len(audio) // _MAX_COLUMNS))
    power = librosa.feature.melspectrogram(
        y=audio if len(audio) >= _N_FFT else np.pad(audio, (0, _N_FFT - len(audio))),
        sr=SAMPLE_RATE,
        n_fft=_N_FFT,
        hop_length=hop,
        n_mels=_MEL_BANDS,
    )
    decibels = librosa.power_to_db(power, ref=np.max, top_db=80.0)
    if not np.isfinite(decibels).all() or not power.any():  # silence has no loudest moment
        return np.zeros(power.shape, np.uint8)
    grey: Pixels = ((decibels[::-1] + 80.0) * (255 / 80)).round().clip(0, 255).astype(np.uint8)
    return grey
