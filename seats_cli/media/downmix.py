"""From a track's channels to mono at 16 kHz.

Weights are those of ITU-R BS.775 where a layout names the channels. Channels without names are
taken for microphones, each as important as the next. Where the channels cancel each other (one of
a pair wired the wrong way round), their mix is silence: one of them is taken instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.filter import Graph

from seats_cli.families.base import SAMPLE_RATE

Samples = npt.NDArray[np.float32]

# Before they are scaled to sum to one. Sides, backs and tops, which are not listed, have the last.
_WEIGHTS = {
    **dict.fromkeys(("FL", "FR", "FLC", "FRC", "DL", "DR", "WL", "WR"), 1.0),
    "FC": math.sqrt(2),
    **dict.fromkeys(("LFE", "LFE2"), 0.0),
}
_BEHIND = math.sqrt(1 / 2)
_UNNAMED = ("NONE", "UNK", "UNSD", "USR")
_AMBISONIC = "AMBI"

# Half a second is short enough to lose little where the sound turns, and long enough for two
# channels never to be each other's opposite by chance.
_BLOCK = SAMPLE_RATE // 2
# 15 dB below the channels: unrelated ones lose 3 dB, a pair of which one is half as loud 10 dB.
_CANCELLED = 0.03
_SILENT = 1e-6  # mean square: 60 dB below full scale
_COMPARABLE = 0.5  # the first channel with that share of the loudest one's energy stands in
_FADE = SAMPLE_RATE // 50  # samples over which the mix gives way to a channel, or back


def channel_weights(names: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """The share of each channel in the mix.

    Parameters
    ----------
    names : tuple of str
        FFmpeg's names of the channels: "FL", "LFE", ...; "NONE" where the file does not say.

    Returns
    -------
    float32 array, shape (channels,)
        Not negative, with the sum 1, so that the mix cannot clip.
    """
    if names[0].startswith(f"{_AMBISONIC}0"):
        weights = [1.0] + [0.0] * (len(names) - 1)  # the first is what an omnidirectional one hears
    elif any(name.startswith((*_UNNAMED, _AMBISONIC)) for name in names):
        weights = [1.0] * len(names)
    else:
        weights = [_WEIGHTS.get(name, _BEHIND) for name in names]
    total = sum(weights)
    if not total:
        return np.full(len(names), 1 / len(names), np.float32)
    return np.array([weight / total for weight in weights], np.float32)


def kind_of(frame: AudioFrame) -> tuple[str, str, int]:
    """What all frames of a `Mixer` have in common: sample format, layout, rate."""
    return frame.format.name, frame.layout.name, frame.sample_rate


class Mixer:
    """Streams frames of one sample format, layout and rate through libswresample, and mixes them.

    Parameters
    ----------
    frame : AudioFrame
        A frame of the kind to come.
    position : int
        Where it stands on the file's timeline, in samples at `SAMPLE_RATE`: what cancels is found
        in blocks of that timeline, so that a range is mixed like the whole.
    delay : int
        Samples of silence, at the frame's rate, that stand between there and the frame.
    """

    def __init__(self, frame: AudioFrame, position: int = 0, delay: int = 0) -> None:
        self.kind = kind_of(frame)
        self.cancelled = 0  # samples so far for which one channel stands in
        self._weights = channel_weights(tuple(c.name for c in frame.layout.channels))
        self._graph = _graph(frame, delay)
        self._held: list[Samples] = []  # pieces of the block that is not full yet
        self._room = _BLOCK - position % _BLOCK
        self._shares = self._weights  # of the channels at the end of the last block
        self._begun = False

    def push(self, frame: AudioFrame | None) -> Iterator[Samples]:
        """Feed a frame, or None for the end, and get what is ready.

        Yields
        ------
        float32 array, shape (n,)
            Mono samples at `SAMPLE_RATE`, in [-1, 1] if the input was.
        """
        for piece in self._resampled(frame):
            if len(piece) == 1:
                yield piece[0]
                continue
            while piece.shape[1] >= self._room:
                self._held.append(piece[:, : self._room])
                piece = piece[:, self._room :]
                yield self._mixed()
            if piece.shape[1]:
                self._held.append(piece)
                self._room -= piece.shape[1]
        if frame is None and self._held:
            yield self._mixed()

    def _resampled(self, frame: AudioFrame | None) -> Iterator[Samples]:
        """What is ready after a frame, float32, shape (channels, n)."""
        if frame is not None:
            # The place follows from the number of samples: rounded stamps would stretch the sound.
            frame.pts = None
        self._graph.push(frame)
        # A frame gives one piece at most, so the exception that says "no more" (slow in PyAV) is
        # not waited for. Should a second piece be ready, it comes with the next frame or the end.
        while True:
            try:
                piece = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(piece, AudioFrame)
            samples: Samples = piece.to_ndarray().astype(np.float32, copy=False)
            yield samples.reshape(-1, len(self._weights)).T
            if frame is not None:
                return

    def _mixed(self) -> Samples:
        """The mix of the held block, or the channel that stands in for it."""
        block = np.concatenate(self._held, axis=1)
        self._held, self._room = [], _BLOCK
        shares = self._block_shares(block)
        mono: Samples = shares @ block
        if shares is not self._weights:
            self.cancelled += len(mono)
        if shares is not self._shares and self._begun:
            fade = np.linspace(0, 1, _FADE, dtype=np.float32)[: len(mono)]
            before = self._shares @ block[:, : len(fade)]
            mono[: len(fade)] = fade * mono[: len(fade)] + (1 - fade) * before
        self._shares, self._begun = shares, True
        return mono

    def _block_shares(self, block: Samples) -> npt.NDArray[np.float32]:
        """The channels' shares in a block: the weights, unless the channels cancel each other."""
        weights = self._weights
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinities cancel nothing
            energies = np.einsum("cn,cn->c", block, block) / block.shape[1]
            mix = weights @ block
            there = float(weights @ energies)
            if not (there > _SILENT and float(mix @ mix) / len(mix) < _CANCELLED * there):
                return weights
        heard = np.where(weights > 0, energies, 0)
        alone = np.zeros_like(weights)
        alone[np.argmax(heard >= _COMPARABLE * heard.max())] = 1
        return alone


def _graph(frame: AudioFrame, delay: int) -> Graph:
    """A filter graph that resamples frames like this one and leaves the channels apart.

    So many samples of silence come first.
    """
    graph = Graph()
    layout = frame.layout.name
    last = graph.add(
        "abuffer",
        sample_rate=str(frame.sample_rate),
        sample_fmt=frame.format.name,
        channel_layout=layout,
        time_base=f"1/{frame.sample_rate}",
    )
    silence = [graph.add("adelay", f"delays={delay}S:all=1")] if delay else []
    for step in (
        *silence,
        # Interleaved: PyAV crashes on planes of more than eight channels.
        graph.add("aresample", osr=str(SAMPLE_RATE), osf="flt"),
        graph.add("abuffersink"),
    ):
        last.link_to(step)
        last = step
    graph.configure()
    return graph
