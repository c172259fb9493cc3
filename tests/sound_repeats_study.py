"""What silence and repeats in the sound would save in the audio encoder: docs/stage0.md.

    python -m tests.sound_repeats_study assets/jfk.wav assets/sintel_15s_640.mp4

Qwen2.5-Omni's audio encoder cuts mel frames into chunks of 2 s (2 * `n_window`). Positions start
anew in each and attention stays inside it, so chunks with equal mel frames have equal features.
Shares are of chunks; the first of those that are alike would still have to be encoded. Behind the
files come sounds that are made from assets/jfk.wav, and silence.

    python -m tests.sound_repeats_study --questions 200

With questions, the bundled model answers as many, unpruned and at 10 %, with the features of equal
chunks given to all of them, and those of the first quiet chunk to all quiet ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seats_cli.config import SeatsConfig
from seats_cli.cost.estimate import find_model, plan_file
from seats_cli.cost.flops import audio_flops
from seats_cli.engine.answer import ask
from seats_cli.evaluate.generated import synthetic_set
from seats_cli.evaluate.questions import EvalProtocol, Item, open_clip
from seats_cli.evaluate.scoring import options_for, prompt_for, score
from seats_cli.families.base import SAMPLE_RATE
from seats_cli.media.clip import ReadOptions
from seats_cli.media.reader import read_clip
from seats_cli.models import LoadedModel, PreparedClip, load_model, need_of, prepare_clip
from seats_cli.models.clip_features import mel_features
from seats_cli.models.patching import replace_forward

Sound = npt.NDArray[np.float32]
JFK = Path(__file__).parents[1] / "assets" / "jfk.wav"
MODELS = ("cpu-0.5b", "qwen2.5-omni-7b")
# A mel value is (log10(power) + 4) / 4, with power at least 1e-10: one unit is 40 dB.
_DB_PER_UNIT = 40.0
_LOWEST = (-10 + 4) / 4
_FLOORS_DB = (80.0, 60.0, 50.0)  # below the loudest; Whisper's spectrogram is clamped at the first
_ALIKE = 0.05  # mean absolute difference of mel values, 2 dB
# Chunks that are alike, with questions: equal ones, and those that nowhere rise further (in dB)
# above the lowest value of the sound.
RULES: dict[str, float | None] = {"repeats": None, "floor + 10 dB": 10.0, "floor + 20 dB": 20.0}


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


def sources(mel: Tensor, frames: int, rise_db: float | None) -> list[int]:
    """For each chunk of (bins, n) the one whose features it has: itself, or an earlier one."""
    lowest, known, found = float(mel.min()), dict[Any, int](), []
    for place, chunk in enumerate(mel.split(frames, dim=1)):
        key: Any = chunk.contiguous().numpy().tobytes()
        if rise_db is not None and float(chunk.max()) - lowest <= rise_db / _DB_PER_UNIT + 1e-6:
            key = "quiet", chunk.shape[1]
        found.append(known.setdefault(key, place))
    return found


@contextmanager
def alike(loaded: LoadedModel, rise_db: float | None, counts: list[int]) -> Iterator[None]:
    """Give chunks the features of those that they are like; counts those, and all."""
    family, frames = loaded.adapter.family, loaded.architecture.audio.window_frames

    def copying(encode: Any) -> Any:
        def forward(input_features: Tensor, feature_lens: Tensor, **others: Any) -> Any:
            output = encode(input_features, feature_lens=feature_lens, **others)
            found = sources(input_features.cpu(), frames, rise_db)
            counts[0] += sum(source != place for place, source in enumerate(found))
            counts[1] += len(found)
            lengths = [chunk.shape[1] for chunk in input_features.split(frames, dim=1)]
            parts = output.last_hidden_state.split([family.audio_tokens(n) for n in lengths])
            states = torch.cat([parts[source] for source in found])
            output.last_hidden_state = output.pooler_output = states
            return output

        return forward

    with replace_forward(loaded.adapter.audio_tower, copying):
        yield


def right_answers(
    loaded: LoadedModel,
    clip: PreparedClip,
    items: Sequence[Item],
    protocol: EvalProtocol,
    budget: float | None,
) -> Iterator[bool]:
    """Whether each question about a clip is answered right."""
    for item in items:
        found = ask(
            loaded,
            clip,
            prompt_for(item, protocol),
            config=None if budget is None else SeatsConfig(retain=budget),
            max_new_tokens=protocol.max_new_tokens,
            choices=options_for(item, protocol),
            evidence=False,
        )
        yield score(item, found.text).correct


def answers(limit: int, seed: int) -> Iterator[str]:
    """Right answers with each rule and budget, in Markdown."""
    loaded, questions = load_model("bundled", device="cpu"), synthetic_set(limit, seed=seed)
    protocol, right = questions.protocol, dict[tuple[str, float | None], list[bool]]()
    counts = {rule: [0, 0] for rule in RULES}
    for _, items in questions.clips():
        prompts = [prompt_for(item, protocol) for item in items]
        choices = [choice for item in items for choice in options_for(item, protocol)]
        need = need_of(loaded, prompts, [None], protocol.max_new_tokens, choices, protocol.system)
        clip = open_clip(items[0], protocol, loaded.sizing, (loaded.architecture, need))
        prepared = prepare_clip(loaded, clip, system=protocol.system)
        asked = partial(right_answers, loaded, prepared, items, protocol)
        for budget in (None, 0.1):
            right.setdefault(("off", budget), []).extend(asked(budget))
            for rule, rise_db in RULES.items():
                with alike(loaded, rise_db, counts[rule]):
                    right.setdefault((rule, budget), []).extend(asked(budget))
        sys.stderr.write(f"\r{len(right['off', None])} of {limit} questions ")
    sys.stderr.write("\n")
    yield "| alike are | budget | chunks with features of others | right | lost, won |"
    yield "|---|---|---:|---:|---:|"
    for (rule, budget), mine in right.items():
        pairs = list(zip(right["off", budget], mine, strict=True))
        share = "" if rule == "off" else f"{counts[rule][0] / counts[rule][1]:.0%}"
        cells = share, f"{np.mean(mine):.1%}"
        changed = f"{pairs.count((True, False))}, {pairs.count((False, True))}"
        name = "unpruned" if budget is None else f"{budget:.0%}"
        yield f"| {rule} | {name} | {' | '.join(cells)} | {changed} |".replace("%", " %")


def main() -> None:
    """Command line."""
    how = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=how)
    parser.add_argument("files", type=Path, nargs="*", metavar="CLIP")
    parser.add_argument("--questions", type=int, default=0)
    parser.add_argument("--seed", type=int, default=58, help="of the questions")
    options = parser.parse_args()
    if options.questions:
        sys.stdout.writelines(f"{line}\n" for line in answers(options.questions, options.seed))
        return
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
