"""What silence and repeats in the sound would save in the audio encoder: docs/stage0.md.

    python -m tests.sound_repeats_study assets/jfk.wav assets/sintel_15s_640.mp4

Qwen2.5-Omni's audio encoder cuts mel frames into chunks of 2 s (2 * `n_window`). Positions start
anew in each and attention stays inside it, so chunks with equal mel frames have equal features.
Shares are of chunks; the first of those that are alike would still have to be encoded. Behind the
files come sounds that are made from assets/jfk.wav, and silence.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from seats_cli.config import SeatsConfig
from seats_cli.cost.estimate import find_model, plan_file
from seats_cli.cost.flops import audio_flops
from seats_cli.families.base import SAMPLE_RATE
from seats_cli.media.clip import ReadOptions
from seats_cli.media.reader import read_clip
from seats_cli.models import load_model
from seats_cli.models.clip_features import mel_features

Sound = npt.NDArray[np.float32]
JFK = Path(__file__).parents[1] / "assets" / "jfk.wav"
MODELS = ("cpu-0.5b", "qwen2.5-omni-7b")
# A mel value is (log10(power) + 4) / 4, with power at least 1e-10: one unit is 40 dB.
_DB_PER_UNIT = 40.0
_LOWEST = (-10 + 4) / 4
_FLOORS_DB = (80.0, 60.0, 50.0)  # below the loudest; Whisper's spectrogram is clamped at the first
_ALIKE = 0.05  # mean absolute difference of mel values, 2 dB


def read_sound(path: Path) -> Sound:
    """16 kHz mono, as the tool reads it."""
    sound = read_clip(path, ReadOptions(video=False)).audio
    if sound is None:
        raise SystemExit(f"{path} has no sound.")
    return sound


def made_sounds() -> Iterator[tuple[str, Sound]]:
    """Speech in four parts with 3 s behind each; silence."""
    silence = np.zeros(3 * SAMPLE_RATE, np.float32)
    rows = [(part, silence) for part in np.array_split(read_sound(JFK), 4)]
    speech = np.concatenate([piece for row in rows for piece in row])
    pause = np.concatenate([np.full(len(p), n == 1) for row in rows for n, p in enumerate(row)])
    yield "jfk, pauses of digital silence", speech
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    for level in (-60, -50):
        room = noise * np.float32(np.abs(speech).max() * 10 ** (level / 20))
        yield f"jfk, pauses of noise at {level} dB", np.where(pause, room, speech)
    minute = np.zeros(60 * SAMPLE_RATE, np.float32)
    yield "zeros, 60 s", minute
    beep = minute.copy()
    at = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    beep[: len(at)] = 0.5 * np.sin(2 * np.pi * 880 * at)
    yield "a beep, then 60 s of silence", beep


def mel_frames(extractor: Any, sound: Sound) -> Tensor:
    """The log-mel frames (bins, n) of a sound, without padding."""
    features, mask = mel_features(extractor, sound, len(sound))
    return features[0][:, : int(mask.sum())]


def shares(mel: Tensor, frames: int) -> tuple[int, list[float]]:
    """Chunks, and the shares in the order of the table's columns."""
    chunks = mel.split(frames, dim=1)
    bounds = [max(float(mel.max()) - db / _DB_PER_UNIT, _LOWEST) for db in _FLOORS_DB]
    counts = [0] * (2 + len(_FLOORS_DB))
    for place, chunk in enumerate(chunks):
        earlier = [one for one in chunks[:place] if one.shape == chunk.shape]
        counts[0] += any(bool((one == chunk).all()) for one in earlier)
        for number, bound in enumerate(bounds, 1):
            counts[number] += float(chunk.max()) <= bound + 1e-6
        counts[-1] += any(float((one - chunk).abs().mean()) <= _ALIKE for one in earlier)
    return len(chunks), [count / len(chunks) for count in counts]


def cost_shares(path: Path, model: str) -> str:
    """The audio encoder's share of both encoders' FLOPs, and of those to a first token at 10 %."""
    run = plan_file(str(path), ReadOptions(), find_model(model), SeatsConfig(retain=0.1))
    audio = audio_flops(
        find_model(model).architecture, round(100 * (run.media.audio_used_s or 0.0))
    )
    first = run.encoder_flops + run.selection_flops + run.prefill_flops
    return f"{audio / run.encoder_flops:.1%} of the encoders, {audio / first:.1%} of a first token"


def main() -> None:
    """Command line."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("files", type=Path, nargs="*", metavar="CLIP")
    options = parser.parse_args()
    loaded = load_model("bundled", device="cpu")
    frames = find_model(MODELS[-1]).architecture.audio.window_frames
    quiet = " | ".join(f"below -{db:g} dB" for db in _FLOORS_DB[1:])
    head = f"| sound | chunks | repeated | at the floor | {quiet} | about repeated |"
    sys.stdout.write(f"{head}\n|---|{'---:|' * 6}\n")
    for name, sound in (*((p.name, read_sound(p)) for p in options.files), *made_sounds()):
        chunks, found = shares(mel_frames(loaded.processor.feature_extractor, sound), frames)
        cells = " | ".join(f"{share:.0%}".replace("%", " %") for share in found)
        sys.stdout.write(f"| {name} | {chunks} | {cells} |\n")
    for path in options.files:
        for model in MODELS:
            sys.stdout.write(f"{path.name}, {model}: {cost_shares(path, model)}\n")


if __name__ == "__main__":
    main()
