"""Small media files made at test time, with known pictures and sounds at known times."""

from __future__ import annotations

import struct
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICKS = 60_000  # of the video stream, per second; whole for 24, 25, 30 and 60 fps
_LEVELS = (24, 72, 120, 168, 216)  # grey values that survive coding; five of them per digit


@dataclass
class Sound:
    """PCM to be written: float samples, shape (channels, n), starting at `start_s`."""

    samples: np.ndarray
    rate: int = 48_000
    layout: str = "mono"
    start_s: float = 0.0
    codec: str = "aac"
    language: str | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class Picture:
    """Frames to be written: `frames[k]` is shown at `times[k]` seconds."""

    frames: Sequence[np.ndarray]
    times: Sequence[float]
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=lambda: {"qp": "8", "preset": "ultrafast"})
    pix_fmt: str = "yuv420p"
    rate: int = 25
    ticks: int = TICKS  # per second; some codecs want the rate itself
    disposition: int | None = None  # as in `av.stream.Disposition`; None for the muxer's own


def numbered(index: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture that says which frame it is: four digits to base 5 as grey columns."""
    digits = [index // 5**k % 5 for k in range(4)]
    row = np.repeat([_LEVELS[d] for d in digits], width // 4)
    row = np.pad(row, (0, width - len(row)), mode="edge")
    return np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2).astype(np.uint8)


def number_of(pixels: np.ndarray) -> int:
    """Undo `numbered` on a picture of any size, uint8 (H, W, 3)."""
    height, width = pixels.shape[:2]
    middles = [int((k + 0.5) * width / 4) for k in range(4)]
    values = [
        float(pixels[height // 2 - 2 : height // 2 + 2, m - 2 : m + 2].mean()) for m in middles
    ]
    return sum(
        int(np.argmin([abs(v - level) for level in _LEVELS])) * 5**k for k, v in enumerate(values)
    )


def plain(value: int | tuple[int, int, int], width: int = 96, height: int = 64) -> np.ndarray:
    """A picture of one colour."""
    return np.full((height, width, 3), value, np.uint8)


def steady(count: int, fps: float = 25.0, offset_s: float = 0.0, **options: object) -> Picture:
    """`count` numbered frames at a constant rate."""
    times = [offset_s + k / fps for k in range(count)]
    return Picture([numbered(k) for k in range(count)], times, **options)  # type: ignore[arg-type]


def tone(seconds: float, hertz: float = 440.0, rate: int = 48_000, channels: int = 1) -> np.ndarray:
    """A sine of amplitude 0.5 in every channel, float32 (channels, n)."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return np.tile(wave.astype(np.float32), (channels, 1))


def click(seconds: float, at_s: float, rate: int = 48_000, width_s: float = 0.02) -> np.ndarray:
    """Silence with a burst of 2 kHz at one time, float32 (1, n)."""
    times = np.arange(round(seconds * rate)) / rate
    burst = (times >= at_s) & (times < at_s + width_s)
    return (0.8 * np.sin(2 * np.pi * 2000 * times) * burst).astype(np.float32)[None]


def write(
    path: Path,
    picture: Picture | None = None,
    sounds: Sequence[Sound] = (),
    container_options: dict[str, str] | None = None,
    drop_between: tuple[float, float] | None = None,
    leap: tuple[float, float] | None = None,
    more: Sequence[Picture] = (),
) -> Path:
    """Write a file; the container follows from the name.

    `more` are further video tracks, behind the sounds; `drop_between` leaves out the sound packets
    between two times; `leap` is a time from which on the sound's stamps are so many seconds later.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        jobs = []
        if picture is not None:
            jobs.append(_video_packets(container, picture))
        jobs += [_audio_packets(container, sound) for sound in sounds]
        jobs += [_video_packets(container, other) for other in more]
        packets = [packet for job in jobs for packet in job]
        if drop_between is not None:
            low, high = drop_between
            packets = [
                p
                for p in packets
                if p.stream.type != "audio" or not low <= float(p.pts * p.time_base) < high
            ]
        if leap is not None:
            for p in packets:
                if p.stream.type == "audio" and float(p.pts * p.time_base) >= leap[0]:
                    p.pts += round(leap[1] / p.time_base)
                    p.dts = p.pts
        # Muxers want streams interleaved by time.
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            container.mux(packet)
    return path


def _video_packets(container: av.container.OutputContainer, picture: Picture) -> list[av.Packet]:
    stream = container.add_stream(picture.codec, rate=picture.rate, options=picture.options)
    stream.height, stream.width = picture.frames[0].shape[:2]
    stream.pix_fmt = picture.pix_fmt
    stream.codec_context.time_base = Fraction(1, picture.ticks)
    if picture.disposition is not None:
        stream.disposition = picture.disposition
    packets = []
    for pixels, time in zip(picture.frames, picture.times, strict=True):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, frame.time_base = round(time * picture.ticks), Fraction(1, picture.ticks)
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def _audio_packets(container: av.container.OutputContainer, sound: Sound) -> list[av.Packet]:
    stream = container.add_stream(
        sound.codec, rate=sound.rate, layout=sound.layout, options=sound.options
    )
    if sound.language:
        stream.metadata["language"] = sound.language
    samples = sound.samples
    packed = sound.codec.startswith("pcm")
    form = "s16" if packed else "fltp"
    packets = []
    for begin in range(0, samples.shape[1], 1024):
        block = samples[:, begin : begin + 1024]
        if packed:
            block = np.round(block.T.reshape(1, -1) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), form, sound.layout)
        frame.sample_rate = sound.rate
        frame.pts = round(sound.start_s * sound.rate) + begin
        frame.time_base = Fraction(1, sound.rate)
        packets += stream.encode(frame)
    return packets + list(stream.encode(None))


def unnamed_channels(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    """A plain PCM WAV, which says how many channels there are but not what they are.

    `samples` are floats, shape (channels, n).
    """
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(samples))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.round(samples.T * 32767).astype("<i2").tobytes())
    return path


def turn(source: Path, target: Path, degrees: int) -> Path:
    """Copy an MP4 whose first track is the video, with a display matrix that turns it.

    `degrees` is clockwise, as a phone stores it: 90 for one held upright.
    """
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    matrix = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = matrix
    target.write_bytes(data)
    return target


def sweep(seconds: float, rate: int = 48_000) -> np.ndarray:
    """A sine that rises from 200 Hz to 2 kHz, so that every instant sounds different, (1, n)."""
    times = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * (200 * times + 900 * times**2 / seconds)
    return (0.4 * np.sin(phase)).astype(np.float32)[None]


def string_together(target: Path, *parts: Path) -> Path:
    """A file of other files, byte by byte one behind the other."""
    target.write_bytes(b"".join(part.read_bytes() for part in parts))
    return target
