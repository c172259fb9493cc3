"""Clips from chance to frames and sound, in memory and as files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import numpy.typing as npt

from seats_cli.world.layouts import Layout
from seats_cli.world.lettering import TRAINING_FONTS
from seats_cli.world.links import truths_of
from seats_cli.world.painting import paint_frames
from seats_cli.world.script import Heard, Script
from seats_cli.world.soundtrack import draw_bed, draw_heard, over_bed, render_sound
from seats_cli.world.storylines import draw_picture, draw_plot
from seats_cli.world.vocabulary import SAMPLE_RATE
from seats_cli.world.voices import TRAINING_VOICES

SOUND_ONLY: Final = "sound"  # the plot of a clip without a picture
_MOMENTS = 0.35  # share of long clips in which all happens in one short shot
_LONG = 10.0  # seconds


@dataclass(frozen=True, eq=False)
class WorldClip:
    """A painted and synthesised script."""

    script: Script
    frames: npt.NDArray[np.uint8] | None  # (T, H, W, 3) RGB; None without a picture
    audio: npt.NDArray[np.float32] | None  # (n,), -1..1 at `SAMPLE_RATE`; None without sound

    @property
    def layout(self) -> Layout:
        """How it is sampled."""
        return self.script.layout


def draft_script(
    rng: np.random.Generator,
    layout: Layout,
    level: float,
    *,
    plot: str | None = None,
    moment: bool | None = None,
    voices: Sequence[str] = TRAINING_VOICES,
    fonts: Sequence[str] = TRAINING_FONTS,
) -> Script:
    """Decide what a clip shows and plays.

    Parameters
    ----------
    layout : Layout
        How it will be sampled.
    level : float
        Difficulty, from 0 (one large thing or a card, and plain sounds) to 1.
    plot : str, optional
        One of `storylines.PLOTS`; by default drawn by difficulty.
    moment : bool, optional
        Whether all that matters is in one short shot, where the plot has shots and the clip 8
        seconds; by default drawn for long clips.
    voices, fonts : sequence of str
        Which ones may speak and be printed; those for training by default.

    Returns
    -------
    Script
        Something can be asked about it.
    """
    while True:
        script = _draft(rng, layout, level, plot, moment, voices, fonts)
        if truths_of(script):
            return script


def _draft(
    rng: np.random.Generator,
    layout: Layout,
    level: float,
    plot: str | None,
    moment: bool | None,
    voices: Sequence[str],
    fonts: Sequence[str],
) -> Script:
    picture = None
    if layout.frame_times:
        plot = draw_plot(rng, layout, level) if plot is None else plot
        if moment is None:
            moment = layout.duration >= _LONG and bool(rng.random() < _MOMENTS)
        picture = draw_picture(rng, layout, plot, fonts=fonts, moment=moment)
    bed = draw_bed(rng, level)
    heard: tuple[Heard, ...] = ()
    if layout.audio_samples:
        seconds = layout.audio_samples / SAMPLE_RATE
        if picture is not None:
            seconds = min(seconds, layout.duration)
        heard = over_bed(draw_heard(rng, picture, seconds, level, voices=voices), bed)
    return Script(
        layout=layout,
        plot=SOUND_ONLY if plot is None or picture is None else plot,
        shots=() if picture is None else picture.shots,
        backdrops=() if picture is None else picture.backdrops,
        things=() if picture is None else picture.things,
        heard=heard,
        bed=bed,
        grain=float(rng.uniform(0, 8)) if rng.random() < 0.6 else 0.0,
        blur=bool(rng.random() < 0.3),
        seed=int(rng.integers(2**31)),
    )


def render_script(script: Script) -> WorldClip:
    """Paint the frames and synthesise the sound of a script."""
    layout = script.layout
    frames = audio = None
    if script.shots:
        frames = paint_frames(script, layout.frame_times, layout.height, layout.width)
    if layout.audio_samples:
        audio = render_sound(script)
    return WorldClip(script, frames, audio)


def write_script(path: str | Path, script: Script, *, fps: float = 12.0, scale: int = 2) -> None:
    """Write a script with a picture to an mp4 file, `scale` times as large as the model reads it.

    `path` ends in .mp4; `fps` is in frames per second.
    """
    layout = script.layout
    times = np.arange(round(layout.duration * fps)) / fps
    frames = paint_frames(script, times, layout.height * scale, layout.width * scale)
    audio = render_sound(script) if layout.audio_samples else None
    write_mp4(path, frames, fps, audio)


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
