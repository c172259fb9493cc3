"""Sound compressed to be carried in a page."""

from __future__ import annotations

import io

import av
import numpy as np
import numpy.typing as npt

from seats_cli.media.clip import SAMPLE_RATE

MIME = "audio/webm"
_BLOCK = SAMPLE_RATE  # samples handed over at once
_BIT_RATE = 32_000
_MAX_BYTES = 2_000_000  # of the compressed sound: beyond it the rate falls
_LEAST_BIT_RATE = 8_000


def bit_rate(seconds: float) -> int | None:
    """Bits per second for a sound of that length; None if even the lowest is too much."""
    rate = min(_BIT_RATE, int(8 * _MAX_BYTES / max(seconds, 1.0)))
    return rate if rate >= _LEAST_BIT_RATE else None


def compress(audio: npt.NDArray[np.float32], rate: int = _BIT_RATE) -> bytes:
    """A sound as Opus in WebM, which every browser plays.

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
            # Integers: libopus takes them, and NaN or too loud a sample does no harm.
            whole = (np.nan_to_num(block).clip(-1.0, 1.0) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.pts = start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()
