"""Any sound format to 16 kHz mono float."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.filter import Graph

from seats_cli.media.clip import SAMPLE_RATE

_GUESSED_CHANNELS = 8  # up to 7.1, a file that names no layout means the usual one


class Mixer:
    """Streams frames of one sample format, layout and rate through libswresample.

    The weights are those of ITU-R BS.775 (centre as loud as left and right together, rear
    channels lower, no LFE), scaled down to sum to one: libswresample leaves that out for
    floats, and loud 5.1 sound would clip. Layouts for which there are no weights are averaged.

    Parameters
    ----------
    frame : AudioFrame
        A frame of the kind to come.
    """

    def __init__(self, frame: AudioFrame) -> None:
        self.kind = kind_of(frame)
        channels = len(frame.layout.channels)
        guessed = frame.layout.name.endswith(" channels")  # FFmpeg's name for "not said"
        try:
            if guessed and channels > _GUESSED_CHANNELS:
                raise ValueError("no layout to guess")
            self._graph = _graph(frame, None)
        except (av.error.FFmpegError, ValueError):
            terms = "+".join(f"{1 / channels:.6f}*c{k}" for k in range(channels))
            self._graph = _graph(frame, f"mono|c0={terms}")

    def push(self, frame: AudioFrame | None) -> Iterator[npt.NDArray[np.float32]]:
        """Feed a frame, or None for the end, and get what is ready.

        Yields
        ------
        float32 array, shape (n,)
            Mono samples at `SAMPLE_RATE`, in [-1, 1] if the input was.
        """
        if frame is not None:
            # Samples are counted here; the stamps' rounding must not stretch the sound.
            frame.pts = None
        self._graph.push(frame)
        # A frame gives one piece at most, so that it takes no exception (slow in PyAV) to see
        # that there is no second. Should one be late, it comes with the next frame or the end.
        while True:
            try:
                piece = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(piece, AudioFrame)
            yield piece.to_ndarray().reshape(-1).astype(np.float32, copy=False)
            if frame is not None:
                return


def _graph(frame: AudioFrame, pan: str | None) -> Graph:
    """A filter graph for frames like this one, mixing by `pan` or by the standard weights."""
    graph = Graph()
    last = graph.add(
        "abuffer",
        sample_rate=str(frame.sample_rate),
        sample_fmt=frame.format.name,
        channel_layout=frame.layout.name,
        time_base=f"1/{frame.sample_rate}",
    )
    chain = [graph.add("pan", pan)] if pan else []
    chain.append(
        graph.add("aresample", osr=str(SAMPLE_RATE), ochl="mono", osf="flt", rematrix_maxval="1.0")
    )
    chain.append(graph.add("abuffersink"))
    for step in chain:
        last.link_to(step)
        last = step
    graph.configure()
    return graph


def kind_of(frame: AudioFrame) -> tuple[str, str, int]:
    """What must stay the same for a `Mixer` to go on: format, layout, rate."""
    return frame.format.name, frame.layout.name, frame.sample_rate
