"""Write frames and sound to a real video file (H.264 and AAC)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from seats_cli.world.clips import TinyClip
from seats_cli.world.drawing import render_frames
from seats_cli.world.vocabulary import SAMPLE_RATE


def write_mp4(
    path: str | Path,
    frames: npt.NDArray[np.uint8],
    fps: float,
    audio: npt.NDArray[np.float32] | None = None,
    sample_rate: int = SAMPLE_RATE,
    *,
    crf: int = 22,
) -> None:
    """Encode a clip.

    Parameters
    ----------
    path : str or Path
        Ends in .mp4.
    frames : uint8 array, shape (T, H, W, 3)
        RGB; H and W even.
    fps : float
        Frames per second.
    audio : float32 array, shape (n,), optional
        Mono, -1..1.
    sample_rate : int
        Hz, of `audio`.
    crf : int
        Quality of the picture; smaller is better.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.options = {"crf": str(crf), "preset": "veryfast"}
        sound = None
        if audio is not None:
            sound = container.add_stream("aac", rate=sample_rate, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if sound is not None and audio is not None:
            track = np.ascontiguousarray(audio, dtype=np.float32)[None]
            samples = av.AudioFrame.from_ndarray(track, format="fltp", layout="mono")
            samples.sample_rate = sample_rate
            samples.pts = 0
            container.mux(sound.encode(samples))
            container.mux(sound.encode())


def write_clip(path: str | Path, clip: TinyClip, *, fps: float = 12.0, scale: int = 3) -> None:
    """Draw a generated clip `scale` times as large as the model sees it and write it to a file."""
    assert clip.scene is not None, "an mp4 file needs a picture"
    times = np.arange(round(clip.layout.duration * fps)) / fps
    height, width = clip.layout.height * scale, clip.layout.width * scale
    write_mp4(path, render_frames(clip.scene, times, height, width), fps, clip.audio)
