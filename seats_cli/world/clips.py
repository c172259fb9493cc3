"""Pictures and sounds together on one timeline, with the truth about them; also as real files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from seats_cli.world.drawing import render_frames
from seats_cli.world.layouts import Layout, weighted_choice
from seats_cli.world.scene import Scene, sample_scene
from seats_cli.world.sounds import MIN_LENGTH, Sound, sample_sound, synthesise
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


KIND_WEIGHTS = {"beeps": 0.36, "speech": 0.2, "tone": 0.15, "chirp": 0.13, "noise": 0.16}
_EDGE = 0.12  # seconds kept free between a sound and a change of picture


@dataclass(frozen=True, eq=False)
class Draft:
    """What a clip will show and play, before any of it is drawn or synthesised."""

    layout: Layout
    scene: Scene | None  # None without a picture
    sounds: tuple[Sound, ...] = ()  # by the time at which they start
    floor: float = 0.0  # standard deviation of the room noise; 0 for digital silence
    noise_seed: int = 0  # for the room noise


@dataclass(frozen=True, eq=False)
class TinyClip(Draft):
    """A generated clip and what is true of it."""

    frames: npt.NDArray[np.uint8] | None = None
    audio: npt.NDArray[np.float32] | None = None


def _free_slots(
    rng: np.random.Generator, scene: Scene | None, seconds: float, local: bool, count: int
) -> list[tuple[float, float]]:
    """`count` time spans for sounds: in different segments if `local`, else side by side."""
    low, high = 0.08, seconds - 0.08
    if local and scene is not None and len(scene.segments) > 1:
        spans = [
            (max(low, segment.start + _EDGE), min(high, segment.end - _EDGE))
            for segment in scene.segments
        ]
        order = rng.permutation(len(spans))[:count]
        return [spans[index] for index in order]
    borders = np.linspace(low, high, count + 1)
    borders[1:-1] += rng.uniform(-0.2, 0.2, size=count - 1) * (high - low) / count
    return [
        (float(borders[index]), float(borders[index + 1]) - (_EDGE if index < count - 1 else 0.0))
        for index in rng.permutation(count)
    ]


def _draw_sounds(
    rng: np.random.Generator, scene: Scene | None, seconds: float
) -> tuple[Sound, ...]:
    """None, one, two or three sounds of different kinds that do not overlap."""
    draw = rng.random()
    count = 0 if draw < 0.07 else 1 if draw < 0.66 else 2 if draw < 0.94 else 3
    slots = _free_slots(rng, scene, seconds, bool(rng.random() < 0.85), max(count, 1))[:count]
    sounds: list[Sound] = []
    unused = dict(KIND_WEIGHTS)
    for low, high in slots:
        fitting = {kind: unused[kind] for kind in unused if MIN_LENGTH[kind] <= high - low}
        if fitting:
            kind = weighted_choice(rng, fitting)
            del unused[kind]
            sounds.append(sample_sound(rng, kind, low, high))
    return tuple(sorted(sounds, key=lambda sound: sound.start))


def draft_clip(rng: np.random.Generator, layout: Layout, *, multi_share: float = 0.75) -> Draft:
    """Decide what a clip is about; a share of `multi_share` shows more than one picture."""
    scene = None
    if layout.frame_times:
        times = np.array(layout.frame_times)
        scene = sample_scene(rng, times, layout.duration, multi_share=multi_share)
    if not layout.audio_samples:
        return Draft(layout, scene)
    seconds = layout.audio_samples / SAMPLE_RATE
    heard = seconds if scene is None else min(seconds, layout.duration)
    sounds = _draw_sounds(rng, scene, heard)
    return Draft(layout, scene, sounds, draw_floor(rng), int(rng.integers(2**31)))


def draw_floor(rng: np.random.Generator) -> float:
    """Level of the room noise; in three of ten clips there is none."""
    return float(10 ** rng.uniform(-4.5, -2.8)) if rng.random() < 0.7 else 0.0


def render_clip(draft: Draft) -> TinyClip:
    """Draw the frames and synthesise the sound of a draft."""
    layout, scene = draft.layout, draft.scene
    clip = TinyClip(**vars(draft))
    if scene is not None:
        frames = render_frames(scene, layout.frame_times, layout.height, layout.width)
        clip = replace(clip, frames=frames)
    if layout.audio_samples:
        samples = layout.audio_samples
        audio = synthesise(draft.sounds, samples, floor=draft.floor, seed=draft.noise_seed)
        clip = replace(clip, audio=audio)
    return clip


def make_clip(rng: np.random.Generator, layout: Layout) -> TinyClip:
    """Generate a clip of the given layout; the same state of `rng` gives the same clip."""
    return render_clip(draft_clip(rng, layout))


SHORTEST, LONGEST = 2.5, 5.0  # seconds of the moment; two seconds are four frames
_QUIET = 2.0  # seconds that the pictures before and after it stay at least
_IN_THE_MIDDLE = 0.7  # share of moments with a still picture on both sides


def draft_moment(rng: np.random.Generator, layout: Layout) -> tuple[Draft, int]:
    """Decide what happens in a long quiet clip, and in which of its segments (an index).

    The layout needs picture and sound, and at least 7 seconds.
    """
    scene = sample_scene(rng, np.array(layout.frame_times), layout.duration, multi_share=1.0)
    length = float(rng.uniform(SHORTEST, LONGEST))
    pieces = 3 if len(scene.segments) > 2 and rng.random() < _IN_THE_MIDDLE else 2
    if pieces == 3:
        moment = 1
        start = float(rng.uniform(_QUIET, layout.duration - _QUIET - length))
        borders = [0.0, start, start + length, layout.duration]
    else:
        moment = int(rng.integers(2))
        cut = length if moment == 0 else layout.duration - length
        borders = [0.0, cut, layout.duration]
    segments = tuple(
        replace(segment, start=borders[index], end=borders[index + 1])
        for index, segment in enumerate(scene.segments[:pieces])
    )
    kind = weighted_choice(rng, KIND_WEIGHTS)
    sound = sample_sound(rng, kind, borders[moment] + _EDGE, borders[moment + 1] - _EDGE)
    quiet = replace(scene, segments=segments, motion="still", speed=0.0)
    return Draft(layout, quiet, (sound,), draw_floor(rng), int(rng.integers(2**31))), moment
