"""The clip as a film in which patches that never reach the LLM are dimmed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import numpy.typing as npt
from PIL import Image

from seats_cli.errors import MediaError, UsageError
from seats_cli.families.base import SAMPLE_RATE, FrameSizing
from seats_cli.files import MARK
from seats_cli.media.clip import Clip
from seats_cli.media.reader import read_clip
from seats_cli.show.encode import Pixels, display_aspect
from seats_cli.show.overlay import dim, enlarge
from seats_cli.show.record import VIDEO

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer

    from seats_cli.media.probe import MediaSource
    from seats_cli.show.record import RunRecord


_PART_S = 2.0  # read at once: 60 frames of 1280x720 are 170 MB
_MAX_RATE = 30.0
_MAX_PIXELS = 1280 * 720
_STILL_S = 2.0  # of a picture without audio
# Of the evidence, in the page's colours of the modalities.
_BARS = {"video": (86, 180, 233), "audio": (230, 159, 0)}


def render_film(
    record: RunRecord,
    clip: Clip,
    path: str,
    target: Path,
    *,
    source: MediaSource | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Write an H.264 and AAC film of the range that was read.

    Parameters
    ----------
    clip : Clip
        As it was read for the record; its audio, 16 kHz mono, becomes that of the film.
    path : str
        The clip's file, for the frames between those that the model saw.
    target : Path
        Ends in .mp4.
    source : MediaSource, optional
        What `probe` has found in the file; otherwise its header is read for every part.
    on_progress : callable, optional
        Called with the fraction that is done.

    Raises
    ------
    UsageError
        If the clip has no picture.
    MediaError
        If the file cannot be read.
    """
    if record.grid is None or clip.frames is None or clip.frame_times is None:
        raise UsageError("A film needs a picture, and this clip has none.")
    rate = Fraction(min(record.media.source_fps or 25.0, _MAX_RATE)).limit_denominator(1001)
    rate = max(rate, Fraction(1))
    total = max(1, round(_seconds(record, clip) * rate))
    height, width = _size(record)
    veil = _Veil(record, clip.frame_times, height, width)
    with av.open(str(target), "w", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = MARK
        video = container.add_stream("libx264", rate=rate)
        video.height, video.width, video.pix_fmt = height, width, "yuv420p"
        video.options = {"crf": "23", "preset": "veryfast"}
        sound: AudioStream | None = None
        if clip.audio is not None:
            sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            sound.bit_rate = 64_000
        read = partial(_part, path, source, float(rate), record)
        frames = _frames(read, clip, float(rate), total, height, width)
        written = 0
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(veil(pixels, number / float(rate)), format="rgb24")
            frame.pts = number
            frame.time_base = 1 / rate
            container.mux(video.encode(frame))
            if sound is not None and clip.audio is not None:  # interleaved with the video
                until = min(len(clip.audio), int((number + 1) / rate * SAMPLE_RATE))
                if number + 1 == total:
                    until = len(clip.audio)
                _mux_sound(container, sound, clip.audio, written, until)
                written = max(written, until)
            if on_progress is not None:
                on_progress((number + 1) / total)
        container.mux(video.encode())
        if sound is not None:
            container.mux(sound.encode())


def _mux_sound(
    container: OutputContainer,
    stream: AudioStream,
    audio: npt.NDArray[np.float32],
    start: int,
    end: int,
) -> None:
    if end <= start:
        return
    block = np.nan_to_num(audio[start:end]).clip(-1.0, 1.0).astype(np.float32)
    samples = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
    samples.sample_rate = SAMPLE_RATE
    samples.pts = start
    samples.time_base = Fraction(1, SAMPLE_RATE)
    container.mux(stream.encode(samples))


class _Veil:
    """Dims what was dropped before the LLM in each grid, and marks what the answer rests on."""

    def __init__(
        self, record: RunRecord, times: npt.NDArray[np.float64], height: int, width: int
    ) -> None:
        grid = record.grid
        assert grid is not None
        lived = record.layers_lived()[record.modality == VIDEO]
        self._lived = lived.reshape(grid.grids, grid.rows, grid.columns)
        self._begins = times[:: grid.frames]
        self._size = height, width
        self._evidence = record.evidence_in_clip
        self._current, self._dropped = -1, np.zeros((height, width), bool)

    def __call__(self, pixels: Pixels, second: float) -> Pixels:
        at = int(np.searchsorted(self._begins, second + 1e-6, side="right")) - 1
        at = min(max(at, 0), len(self._lived) - 1)
        if at != self._current:
            self._current = at
            self._dropped = enlarge(self._lived[at], *self._size) == 0
        return self._marked(dim(pixels, self._dropped), second)

    def _marked(self, pixels: Pixels, second: float) -> Pixels:
        """With a bar at the bottom where evidence is: left for the picture, right for the sound."""
        height, width = self._size
        bar, half = max(2, height // 40), width // 2
        for piece in self._evidence:
            if piece.start_s <= second + 1e-6 < piece.end_s:
                side = slice(0, half) if piece.modality == "video" else slice(half, width)
                pixels[height - bar :, side] = _BARS[piece.modality]
        return pixels


def _seconds(record: RunRecord, clip: Clip) -> float:
    """Length of the film: that of the video or of the audio, whichever is longer."""
    media = record.media
    read = 0.0 if media.end_s is None else media.end_s - media.start_s
    least = _STILL_S if media.duration_s is None else 0.0
    return max(read, clip.audio_s, least)


def _size(record: RunRecord) -> tuple[int, int]:
    """Height and width of the film: even, in the shape of the display, at most about 1280x720."""
    media, aspect = record.media, display_aspect(record)
    area = (media.source_width or 2) * (media.source_height or 2) * record.pixel_shape
    height = (min(area, _MAX_PIXELS) / aspect) ** 0.5
    return max(2, round(height / 2) * 2), max(2, round(height * aspect / 2) * 2)


def _frames(
    read: Callable[[float, float], tuple[npt.NDArray[np.float64], Pixels | tuple[()]]],
    clip: Clip,
    rate: float,
    total: int,
    height: int,
    width: int,
) -> Iterator[Pixels]:
    """`total` frames at a constant rate; where there is no new one, the last one is repeated."""
    begin = clip.facts.start_s
    assert clip.frames is not None
    shown = _fitted(clip.frames[0], height, width)
    per_part = max(1, round(_PART_S * rate))
    for first in range(0, total, per_part):
        wanted = [number / rate for number in range(first, min(first + per_part, total))]
        times, frames = read(begin + wanted[0], begin + wanted[-1] + 0.5 / rate)
        places = np.searchsorted(times, np.array(wanted) + begin + 0.25 / rate, side="right") - 1
        for place in places.tolist():
            if 0 <= place < len(frames):
                shown = _fitted(frames[place], height, width)
            yield shown


def _part(
    path: str, source: MediaSource | None, rate: float, record: RunRecord, start: float, end: float
) -> tuple[npt.NDArray[np.float64], Pixels | tuple[()]]:
    """Frames of a range and their times on the file's timeline; empty where there are none."""
    media = record.media
    area = min((media.source_width or 2) * (media.source_height or 2), _MAX_PIXELS)
    sizing = FrameSizing(
        factor=2, min_pixels=max(area, 4), max_pixels=max(area, 4), total_pixels=None
    )
    try:
        part = read_clip(
            path,
            fps=2 * rate,
            max_frames=4096,
            sizing=sizing,
            source=source,
            start=start if start > 0 else None,
            end=end,
            video_track=record.read.video_track,
            audio=False,
        )
    except (MediaError, UsageError):  # past the end of the video
        return np.zeros(0), ()
    if part.frames is None or part.frame_times is None:
        return np.zeros(0), ()
    return part.frame_times + part.facts.start_s, part.frames


def _fitted(pixels: Pixels, height: int, width: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height)))
