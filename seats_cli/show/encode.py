"""Frames and audio of a clip, small enough to embed in a page."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from seats_cli.families.base import SAMPLE_RATE

if TYPE_CHECKING:
    from seats_cli.media.clip import Clip
    from seats_cli.show.record import RunRecord


Pixels = npt.NDArray[np.uint8]

_MAX_SIDE = 480  # of a frame in the page
_PAGE_PIXELS = 8_000_000  # of all frames together, about 1 MB as WebP
_MEL_BANDS, _N_FFT, _HOP = 96, 512, 160
_MAX_COLUMNS = 2400


def display_aspect(record: RunRecord) -> float:
    """Width over height at which the clip's upright picture is meant to be seen."""
    media = record.media
    if media.source_width and media.source_height:
        return media.source_width * record.pixel_shape / media.source_height
    assert record.grid is not None
    return record.grid.columns / record.grid.rows


def grid_frames(clip: Clip, record: RunRecord) -> list[Pixels]:
    """The first frame of every temporal grid as the model saw it, uint8 (H, W, 3)."""
    assert clip.frames is not None
    assert record.grid is not None
    return list(clip.frames[:: record.grid.frames])


def page_size(count: int, width: int, height: int, aspect: float) -> tuple[int, int]:
    """Width and height in pixels of each of `count` frames in a page.

    The shape is that of the display; the size is bounded by what the model saw, by what is
    visible, and by the total of all frames.
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
    """The log-mel spectrogram of audio as grey values.

    Parameters
    ----------
    audio : float32 array, shape (n,)
        Mono at 16 kHz.

    Returns
    -------
    uint8 array, shape (96, columns)
        High bands first; 80 dB between black and white. Long audio has a longer hop, for at most
        about 2,400 columns.
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
    if not np.isfinite(decibels).all() or not power.any():  # silence has no maximum to refer to
        return np.zeros(power.shape, np.uint8)
    grey: Pixels = ((decibels[::-1] + 80.0) * (255 / 80)).round().clip(0, 255).astype(np.uint8)
    return grey


MIME = "audio/webm"
_BLOCK = SAMPLE_RATE  # samples encoded at once
_BIT_RATE = 32_000
_MAX_BYTES = 2_000_000  # of the compressed audio; longer audio gets a lower rate
_LEAST_BIT_RATE = 8_000


def bit_rate(seconds: float) -> int | None:
    """Bits per second for audio of that length; None if even the lowest rate is too large."""
    rate = min(_BIT_RATE, int(8 * _MAX_BYTES / max(seconds, 1.0)))
    return rate if rate >= _LEAST_BIT_RATE else None


def compress(audio: npt.NDArray[np.float32], rate: int = _BIT_RATE) -> bytes:
    """Audio as Opus in WebM, which every browser plays.

    Parameters
    ----------
    audio : float32 array, shape (n,)
        Mono at 16 kHz, -1 to 1.
    rate : int
        Bits per second.
    """
    buffer = io.BytesIO()
    # bitexact: no random numbers, so that the same run gives the same page
    options = {"fflags": "+bitexact"}
    with av.open(buffer, "w", format="webm", options=options) as container:
        stream = container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = rate
        for start in range(0, len(audio), _BLOCK):
            block = np.ascontiguousarray(audio[start : start + _BLOCK])[None]
            # Integers, which libopus accepts; NaN and samples beyond full scale do no harm.
            whole = (np.nan_to_num(block).clip(-1.0, 1.0) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
