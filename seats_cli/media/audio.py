"""Decoding sound into 16 kHz mono on the clip's timeline.

Packets are decoded to frames; `_Placer` decides where on the timeline each belongs;
`downmix.Mixer` turns them into 16 kHz mono; `_Timeline` writes them there and leaves silence where
nothing is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from seats_cli.families.base import SAMPLE_RATE
from seats_cli.media.clip import ReadOptions
from seats_cli.media.downmix import Mixer, kind_of
from seats_cli.media.packets import packets, seek_before, stamp
from seats_cli.media.probe import SAMPLE_RATES
from seats_cli.media.timeline import Mover

MAX_AUDIO_S = 8 * 3600.0  # 1.7 GiB of float32; longer files are cut there, with a warning
# Missing sound that is taken for silence: some recorders leave out the pauses in speech.
# Longer is a damaged stamp, unless the picture continues meanwhile.
_PAUSE_S = 3600.0
_PAUSE_WITHOUT_PICTURE_S = 600.0
_FIRST_BUFFER_S = 600.0
_JUMP_S = 0.04  # time stamps in Matroska are rounded to 1 ms and some muxers are sloppier
# Sound decodes hundreds of times faster than it plays, so a range that begins this early is
# decoded from the file's start: what comes out is what the whole file gives, to the sample.
_EXACT_S = 300.0
# Decoded ahead of other ranges, because what a codec gives depends on what came before: a few
# frames in AAC, Opus and MP3, a second where it predicts (G.722, G.726).
_LEAD_IN_S = 2.0


@dataclass(frozen=True, eq=False)
class DecodedSound:
    """Sound from the start of the range."""

    samples: npt.NDArray[np.float32]  # float32 array, shape (n,): mono, `SAMPLE_RATE`, in [-1, 1]
    broken: int  # packets that could not be decoded; silence stands in for them
    first_s: float  # seconds from the start of the range to the first decoded sample
    joined: int  # leaps in the time stamps too large to be silence, closed up
    cut: bool  # the sound continues beyond what was requested, or beyond `MAX_AUDIO_S`
    cancelled_s: float  # seconds in which one channel stands in for a mix that cancels itself

    @property
    def length_s(self) -> float:
        """Seconds from the start of the range to the last sample."""
        return len(self.samples) / SAMPLE_RATE


def decode_sound(
    container: InputContainer,
    stream: AudioStream,
    options: ReadOptions,
    *,
    origin_s: float,
    length_s: float | None,
    mover: Mover | None,
    indexed: bool,
    picture_end_s: float | None,
    on_progress: Callable[[float], None] | None = None,
) -> DecodedSound | None:
    """Decode a sound track, or a range of it.

    Parameters
    ----------
    container, stream
        An open file and one of its audio streams.
    options : ReadOptions
        The range and `max_audio`.
    origin_s : float
        Time stamp in seconds of the start of the file's timeline.
    length_s : float or None
        Seconds the file claims to last.
    mover : Mover or None
        What moves the packets to the joined timeline, where they are not on it.
    indexed : bool
        Whether the container's index leads to the right place.
    picture_end_s : float or None
        Where the picture ends on the file's timeline, if it was read.
    on_progress : callable or None
        Called with the fraction done.

    Returns
    -------
    DecodedSound or None
        None if nothing decodes in the range.
    """
    # 1. Begin ahead of the range; `_Timeline` drops what lies before it.
    begin, longest = options.start or 0.0, options.max_audio
    ahead = None
    if begin > _EXACT_S and stream.time_base is not None:
        ahead = int((origin_s + begin - _LEAD_IN_S) / stream.time_base)
        if indexed:
            seek_before(container, stream, ahead)
    # 2. How much to expect: the range, the limits, and what the header claims.
    wanted_s = np.inf if options.end is None else options.end - begin
    stop = begin + min(wanted_s, MAX_AUDIO_S, np.inf if longest is None else longest)
    expected = (min(stop, length_s) if length_s else min(stop, begin + 60.0)) - begin
    track = _Timeline(max(expected, 0.0), stop - begin)
    placer = _Placer(track, begin, None if picture_end_s is None else picture_end_s - begin)
    broken = 0

    def count_error() -> None:
        nonlocal broken
        broken += placer.at_s >= 0  # what lies ahead of the range is not heard

    # 3. Decode to the end of the range. A broken packet leaves a hole in the stamps, and so
    #    silence of its length in the sound.
    for packet in packets(container, stream, count_error):
        if mover is not None and packet.size:
            packet = mover.move(packet)
        # Not across parts: the headers of the next one may come with a packet that is passed over.
        if ahead is not None and not (mover is not None and mover.has_parts):
            when = stamp(packet)
            if when is not None and when < ahead:
                continue
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            count_error()
            continue
        for frame in frames:
            placer.add(frame, origin_s)
        if on_progress is not None and expected > 0:
            on_progress(min(max(placer.at_s / expected, 0.0), 1.0))
        if placer.at_s > track.limit_s + _JUMP_S:
            break
    # 4. The resampler holds back a few milliseconds.
    placer.flush()
    if track.first is None:
        return None
    cut = track.limit_s < wanted_s and placer.at_s > track.limit_s + _JUMP_S
    samples = track.samples()
    return DecodedSound(
        samples,
        broken,
        first_s=track.first / SAMPLE_RATE,
        joined=placer.joined,
        cut=cut,
        cancelled_s=placer.cancelled / SAMPLE_RATE,
    )


class _Placer:
    """Finds each frame's place on the timeline of the range and writes it there.

    Frames that follow each other closely form a run: only the first one's stamp counts, and the
    rest continue from it sample by sample. A hole, a leap or a new format begins another run.
    """

    def __init__(self, track: _Timeline, begin_s: float, picture_end_s: float | None) -> None:
        self.track = track
        self.begin_s = begin_s
        self.picture_end_s = picture_end_s
        self.at_s = 0.0  # where the next frame is expected
        self.joined = 0
        self.cancelled = 0  # samples in the range of which the mix cancels itself
        self._cancelled = 0  # of the mixer so far
        self._shift_s = 0.0
        self._mixer: Mixer | None = None
        self._position = 0

    def add(self, frame: AudioFrame, origin_s: float) -> None:
        """Place a frame; `origin_s` is the time stamp at which the file's timeline starts."""
        if frame.samples == 0 or frame.sample_rate not in SAMPLE_RATES:
            return
        # 1. Its stamp on the range's timeline, shifted by the leaps that were closed here. Without
        #    a stamp it follows the last one.
        when = self.at_s
        if frame.time is not None:
            when = frame.time - origin_s + self._shift_s - self.begin_s
        # 2. A leap that cannot be silence is closed, for this frame and all that follow.
        if self._is_leap(when):
            self.joined += 1
            self._shift_s += self.at_s - when
            when = self.at_s
        # 3. Not where the last run ends, or of another kind: begin a new run.
        if (
            self._mixer is None
            or kind_of(frame) != self._mixer.kind
            or abs(when - self.at_s) > _JUMP_S
        ):
            self.flush()
            self.at_s = when
            # Resampled from an instant of which there is a sample both before and after, so that
            # the same samples come out wherever in the file decoding begins.
            every = math.gcd(frame.sample_rate, SAMPLE_RATE)
            instant = math.floor((when + self.begin_s) * every + 1e-6)
            delay = round((when + self.begin_s - instant / every) * frame.sample_rate)
            self._position = instant * SAMPLE_RATE // every - round(self.begin_s * SAMPLE_RATE)
            on_file = self._position + round(self.begin_s * SAMPLE_RATE)
            self._mixer, self._cancelled = Mixer(frame, on_file, delay), 0
        self.at_s += frame.samples / frame.sample_rate
        self._write(self._mixer, frame)

    def flush(self) -> None:
        """End the run: write what the mixer still holds."""
        if self._mixer is not None:
            self._write(self._mixer, None)
            self._mixer = None

    def _is_leap(self, when: float) -> bool:
        """Whether a time must be wrong: it goes back, or implies an implausible silence."""
        gap = when - self.at_s
        if gap < -1.0:
            return self.track.first is not None  # a range is entered from before its start
        if when >= self.track.limit_s and self.track.limit_s < MAX_AUDIO_S:
            return False  # beyond the range: closing the leap would pull it in
        if self.picture_end_s is None:
            return gap > _PAUSE_WITHOUT_PICTURE_S
        return gap > _PAUSE_S and when > self.picture_end_s + _PAUSE_S

    def _write(self, mixer: Mixer, frame: AudioFrame | None) -> None:
        for samples in mixer.push(frame):
            before = self._cancelled
            self._cancelled = mixer.cancelled
            kept = self.track.write(self._position, samples)
            self.cancelled += kept if self._cancelled > before else 0
            self._position += len(samples)


class _Timeline:
    """A growing buffer of samples; what is never written stays silent."""

    def __init__(self, expected_s: float, limit_s: float) -> None:
        self.limit_s = limit_s
        self.first: int | None = None
        self._end = 0
        self._expected = int(min(expected_s + 1.0, MAX_AUDIO_S) * SAMPLE_RATE)
        # A header may claim gigabytes: the buffer grows with what is decoded.
        size = min(self._expected, int(_FIRST_BUFFER_S * SAMPLE_RATE))
        self._buffer = np.zeros(size, np.float32)

    def write(self, position: int, samples: npt.NDArray[np.float32]) -> int:
        """Put samples at a position, less what lies before 0, over earlier ones or too late.

        `samples` is changed in place. Returns how many were taken.
        """
        limit = round(self.limit_s * SAMPLE_RATE)
        skip = max(self._end - position, 0)
        stop = min(position + len(samples), limit)
        begin = position + skip
        if stop <= begin:
            return 0
        if stop > len(self._buffer):
            # `resize` grows in place where the system can, without a second copy of hours of
            # sound; the new part is zero.
            self._buffer.resize(min(max(stop, self._next_size()), limit), refcheck=False)
        target = self._buffer[begin:stop]
        np.nan_to_num(samples[skip : skip + len(target)], copy=False, nan=0.0)
        np.clip(samples[skip : skip + len(target)], -1.0, 1.0, out=target)
        self.first = begin if self.first is None else self.first
        self._end = stop
        return stop - begin

    def _next_size(self) -> int:
        """Twice as much, but not beyond what is expected, which would never be used."""
        size = len(self._buffer)
        return min(2 * size, self._expected) if size < self._expected else size * 5 // 4

    def samples(self) -> npt.NDArray[np.float32]:
        """Everything up to the last sample written, float32, shape (n,)."""
        return self._buffer[: self._end]
