"""Held-out accuracy of the bundled model: greedy through `generate`, and fast on packed batches."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seats_cli.media import Clip, MediaFacts, read_clip
from seats_cli.models import LoadedModel, adapter_for, build_inputs, load_model
from seats_cli.models.optimize import use_for_encoders
from seats_cli.training.batch import TrainingBatch, evaluation_batch
from seats_cli.training.forward import Thinker, Thinning, packed_forward
from seats_cli.world.clip_questions import CROSS_MODAL, FAMILIES, every_question
from seats_cli.world.clips import TinyClip, make_clip, write_clip
from seats_cli.world.layouts import FRAME_SIZES, file_layout, make_layout, weighted_choice
from seats_cli.world.vocabulary import IGNORE

PACKED_SEED = 900_001  # training seeds are small numbers
_SIZES = ((84, 140), (112, 112), (84, 112), (140, 84))


def validation_batches(processor: Any, *, clips: int = 12, count: int = 8) -> list[TrainingBatch]:
    """Held-out batches of 4 to 8 s clips in the usual frame sizes."""
    batches = []
    for index in range(count):
        rng = np.random.default_rng([PACKED_SEED, index])
        duration = 4.0 + index % 5 if index % 2 == 0 else float(rng.uniform(4, 8))
        layout = make_layout(rng, duration, _SIZES[index % len(_SIZES)])
        batches.append(evaluation_batch(rng, processor, layout, clips))
    return batches


@torch.no_grad()
def accuracy_by_family(
    model: Thinker, batches: Sequence[TrainingBatch], thinning: Thinning | None = None
) -> dict[str, tuple[int, int]]:
    """(right, asked) per family, in the order of `FAMILIES`."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    thinning = thinning or Thinning()
    for batch in batches:
        with use_for_encoders(adapter_for(model)):
            middle = thinning.cut_layer or len(model.model.language_model.layers)
            output = packed_forward(model, batch, thinning=thinning, middle_layer=middle)
        answered = batch.target != IGNORE
        wrong = torch.zeros_like(batch.target, dtype=torch.bool)
        wrong[answered] = output.logits.argmax(-1) != batch.target[answered]
        for row, questions in enumerate(batch.questions):
            for number, question in enumerate(questions, start=1):
                mine = batch.question_number[row] == number
                asked[question.family] += 1
                right[question.family] += not bool(wrong[row][mine].any())
    return {family: (right[family], asked[family]) for family in FAMILIES if asked[family]}


HELD_OUT_SEED = 700_001  # never used in training, whose seeds are small numbers
_SOURCE_RATES = (12.0, 15.0, 25.0)  # frames per second of the files


@dataclass(frozen=True)
class Wrong:
    """A question with a wrong answer."""

    family: str
    question: str
    answer: str
    expected: str


@dataclass
class Report:
    """Counts per family, and what went wrong."""

    right: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    wrong: list[Wrong] = field(default_factory=list)

    def accuracy(self, family: str) -> float:
        """Share of right answers, 0..1."""
        return self.right[family] / self.asked[family]

    def macro(self, families: tuple[str, ...] = FAMILIES) -> float:
        """Mean accuracy over the families that were asked."""
        shares = [self.accuracy(family) for family in families if self.asked[family]]
        return sum(shares) / len(shares) if shares else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {
            "schema_version": 1,
            "macro_accuracy": self.macro(),
            "cross_modal_macro_accuracy": self.macro(CROSS_MODAL),
            "families": {
                family: {"accuracy": self.accuracy(family), "n": self.asked[family]}
                for family in FAMILIES
                if self.asked[family]
            },
            "wrong": [vars(wrong) for wrong in self.wrong],
        }

    def as_table(self) -> str:
        """One line per family."""
        lines = [f"{'family':<18} accuracy    n"]
        for family in FAMILIES:
            if self.asked[family]:
                share, asked = self.accuracy(family), self.asked[family]
                lines.append(f"{family:<18} {share:8.3f} {asked:4d}")
        lines.append(f"{'macro':<18} {self.macro():8.3f} {sum(self.asked.values()):4d}")
        lines.append(f"{'cross-modal macro':<18} {self.macro(CROSS_MODAL):8.3f}")
        return "\n".join(lines)


def held_out_clips(
    count: int, *, shortest: float = 4.0, longest: float = 8.0, seed: int = HELD_OUT_SEED
) -> Iterator[tuple[np.random.Generator, TinyClip, float]]:
    """Clips the model was not trained on, with their generator state and source frame rate."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        rate = float(rng.choice(_SOURCE_RATES))
        duration = round(float(rng.uniform(shortest, longest)) * rate) / rate
        size = weighted_choice(rng, FRAME_SIZES)
        layout = file_layout(duration, size, rate, audio_seconds=duration)
        yield rng, make_clip(rng, layout), rate


def as_clip(tiny: TinyClip) -> Clip:
    """A generated clip as if it had been read from a file without loss."""
    return Clip(
        frames=tiny.frames,
        frame_times=np.array(tiny.layout.frame_times) if tiny.frames is not None else None,
        fps=tiny.layout.effective_fps if tiny.frames is not None else None,
        audio=tiny.audio,
        facts=MediaFacts("generated", "memory", tiny.layout.duration, 0.0, None),
    )


@torch.inference_mode()
def answer(loaded: LoadedModel, clip: Clip, question: str) -> str:
    """Greedy answer of a model to a question about a clip."""
    inputs = build_inputs(loaded, clip, question)
    with use_for_encoders(loaded.adapter):
        output = loaded.model.generate(**inputs, max_new_tokens=20, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return str(loaded.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


def evaluate(
    loaded: LoadedModel,
    count: int,
    *,
    mp4: bool = False,
    shortest: float = 4.0,
    longest: float = 8.0,
    seed: int = HELD_OUT_SEED,
) -> Report:
    """Ask one question of every family that each of `count` held-out clips allows."""
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        for rng, tiny, rate in held_out_clips(count, shortest=shortest, longest=longest, seed=seed):
            clip = as_clip(tiny)
            if mp4:
                path = Path(folder) / "clip.mp4"
                write_clip(path, tiny, fps=rate, scale=int(rng.choice([2, 3, 4])))
                clip = read_clip(path, sizing=loaded.sizing)
            for question in every_question(rng, tiny):
                given = answer(loaded, clip, question.text)
                report.asked[question.family] += 1
                if given == question.answer:
                    report.right[question.family] += 1
                else:
                    report.wrong.append(
                        Wrong(question.family, question.text, given, question.answer)
                    )
    return report


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--mp4", action="store_true", help="through real files")
    parser.add_argument("--shortest", type=float, default=4.0, help="seconds")
    parser.add_argument("--longest", type=float, default=8.0, help="seconds")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--threads", type=int, help="torch threads")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    report = evaluate(
        load_model(options.model),
        options.clips,
        mp4=options.mp4,
        shortest=options.shortest,
        longest=options.longest,
        seed=options.seed,
    )
    text = json.dumps(report.as_dict(), indent=1) if options.json else report.as_table()
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
