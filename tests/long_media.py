"""Memory for a long film: `python -m tests.long_media`.

Writes two hours of 1080p with sound, by repeating encoded packets, reads it in a process of its
own with the default settings, and fails if that takes more memory than the limit.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from itertools import cycle
from pathlib import Path

import av
import numpy as np

LIMIT_GIB = 1.5
ROOT = Path(__file__).parents[1]
FPS, RATE, FRAME = 25, 48_000, 1024  # frames and samples per second, samples per AAC packet
GROUP = 2 * FPS  # frames that are encoded; each repetition starts with a keyframe


def write_film(path: Path, seconds: float, width: int = 1920, height: int = 1080) -> None:
    """A film of moving bars under a tone, of any length for the price of a few seconds."""
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "crf": "40", "g": str(GROUP), "bf": "0"}
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=RATE, layout="stereo")
        pictures = [bytes(p) for k in range(GROUP) for p in video.encode(_bars(k, width, height))]
        pictures += [bytes(packet) for packet in video.encode(None)]
        tones = [bytes(packet) for k in range(200) for packet in sound.encode(_tone(k))]
        frames, blocks = round(seconds * FPS), round(seconds * RATE / FRAME)
        source, other = cycle(pictures), cycle(tones[50:])
        shown = heard = 0
        while shown < frames or heard < blocks:
            if heard >= blocks or (shown < frames and shown / FPS <= heard * FRAME / RATE):
                packet = av.Packet(next(source))
                packet.is_keyframe = shown % GROUP == 0
                packet.stream, packet.time_base = video, Fraction(1, FPS)
                packet.pts = packet.dts = shown
                packet.duration = 1
                shown += 1
            else:
                packet = av.Packet(next(other))
                packet.is_keyframe = True
                packet.stream, packet.time_base = sound, Fraction(1, RATE)
                packet.pts = packet.dts = heard * FRAME
                packet.duration = FRAME
                heard += 1
            container.mux(packet)


def _bars(index: int, width: int, height: int) -> av.VideoFrame:
    column = (np.arange(width) + 8 * index) // 64 % 8 * 32
    pixels = np.broadcast_to(column.astype(np.uint8)[None, :, None], (height, width, 3))
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    frame.pts, frame.time_base = index, Fraction(1, FPS)
    return frame


def _tone(index: int) -> av.AudioFrame:
    times = (np.arange(FRAME) + index * FRAME) / RATE
    wave = (0.3 * np.sin(2 * np.pi * 440 * times)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), "fltp", "stereo")
    frame.sample_rate, frame.pts, frame.time_base = RATE, index * FRAME, Fraction(1, RATE)
    return frame


def read_and_measure(path: str) -> None:
    """Read a file as `seats ask` does and print what it took, as one line of JSON."""
    from seats_cli.media import read_clip

    before = _peak_gib()
    began = time.monotonic()
    clip = read_clip(path)
    assert clip.frames is not None
    print(
        json.dumps(
            {
                "seconds": round(time.monotonic() - began, 1),
                "frames": list(clip.frames.shape),
                "audio_s": round(clip.audio_s, 2),
                "frames_gib": round(clip.frames.nbytes / (1 << 30), 3),
                "audio_gib": round(clip.audio_s * 16_000 * 4 / (1 << 30), 3),
                "peak_gib_before": round(before, 3),
                "peak_gib": round(_peak_gib(), 3),
                "warnings": clip.warnings,
            }
        )
    )


def _peak_gib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 30 if sys.platform == "darwin" else 1 << 20)


def main() -> None:
    """Write, read, report; exit code 1 above the limit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--file", type=Path, help="keep the film here, or use the one there")
    parser.add_argument("--read", metavar="FILE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        read_and_measure(arguments.read)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = arguments.file or Path(folder) / "long.mp4"
        began = time.monotonic()
        if not path.exists():
            write_film(path, arguments.hours * 3600)
        print(f"{path.stat().st_size / 1e6:.0f} MB in {time.monotonic() - began:.0f} s")
        command = [sys.executable, "-m", "tests.long_media", "--read", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    print(done.stdout.strip())
    sys.exit(json.loads(done.stdout)["peak_gib"] > LIMIT_GIB)


if __name__ == "__main__":
    main()
