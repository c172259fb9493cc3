"""Held-out accuracy of the bundled model: greedy through `generate`, and fast on packed batches.

Words are said and printed in voices and fonts that the model has not been trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from seats_cli.evaluate.generated import synthetic_set
from seats_cli.evaluate.questions import open_clip
from seats_cli.media import Clip, MediaFacts, read_clip
from seats_cli.models import LoadedModel, adapter_for, build_inputs, load_model
from seats_cli.models.optimize import use_for_encoders
from seats_cli.training.forward import Thinker, Thinning, packed_forward
from seats_cli.training.minibatch import TrainingBatch, evaluation_batch
from seats_cli.training.objective import WorkerGroup
from seats_cli.world.clips import WorldClip, draft_script, render_script, write_script
from seats_cli.world.layouts import WIDE_FRAME_SIZES, file_layout, make_layout, weighted_choice
from seats_cli.world.lettering import HELD_OUT_FONTS
from seats_cli.world.links import every_question
from seats_cli.world.vocabulary import IGNORE
from seats_cli.world.voices import HELD_OUT_VOICES
from seats_cli.world.wording import FAMILIES, LINKED_FAMILIES

PACKED_SEED = 900_001  # training seeds are small numbers
_SIZES = ((252, 392), (168, 224), (224, 336), (112, 112), (308, 336), (168, 280))


def validation_batches(processor: Any, *, clips: int = 4, count: int = 12) -> list[TrainingBatch]:
    """Held-out batches of 4 to 8 s clips, with voices and fonts that training does not have."""
    batches = []
    for index in range(count):
        rng = np.random.default_rng([PACKED_SEED, index])
        duration = 4.0 + index % 5 if index % 2 == 0 else float(rng.uniform(4, 8))
        layout = make_layout(rng, duration, _SIZES[index % len(_SIZES)])
        batches.append(
            evaluation_batch(
                rng, processor, layout, clips, voices=HELD_OUT_VOICES, fonts=HELD_OUT_FONTS
            )
        )
    return batches


class Answers(NamedTuple):
    """What a model says at the answers' tokens, n of a batch."""

    logits: torch.Tensor  # (n, vocabulary)
    target: torch.Tensor  # LongTensor (n,)
    question: torch.Tensor  # LongTensor (n,): running number of its question in the batch


def packed_answers(batch: TrainingBatch, logits: torch.Tensor) -> Answers:
    """Logits of packed questions, in the order of `target[target != IGNORE]`, as answers."""
    counts = torch.tensor([len(row) for row in batch.questions])
    number = batch.question_number - 1 + (counts.cumsum(0) - counts)[:, None]
    answered = batch.target != IGNORE
    return Answers(logits, batch.target[answered], number[answered])


@torch.no_grad()
def right_by_family(
    answers: Callable[[TrainingBatch], Answers],
    batches: Sequence[TrainingBatch],
    workers: WorkerGroup | None = None,
) -> dict[str, tuple[int, int]]:
    """(right, asked) per family, in the order of `FAMILIES`; each worker answers a part."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    workers = workers or WorkerGroup()
    for batch in batches[workers.rank :: workers.size]:
        found = answers(batch)
        wrong = set(found.question[found.logits.argmax(-1) != found.target].tolist())
        for number, question in enumerate(one for row in batch.questions for one in row):
            asked[question.family] += 1
            right[question.family] += number not in wrong
    counts = torch.tensor([[right[family], asked[family]] for family in FAMILIES])
    totals = workers.total(counts).tolist()
    return {family: (a, n) for family, (a, n) in zip(FAMILIES, totals, strict=True) if n}


def accuracy_by_family(
    model: Thinker, batches: Sequence[TrainingBatch], thinning: Thinning | None = None
) -> dict[str, tuple[int, int]]:
    """(right, asked) per family, in the order of `FAMILIES`, of a model that sees whole clips."""
    chosen = thinning or Thinning()

    def answers(batch: TrainingBatch) -> Answers:
        with use_for_encoders(adapter_for(model)):
            output = packed_forward(model, batch, thinning=chosen)
        return packed_answers(batch, output.logits)

    return right_by_family(answers, batches)


def _by_family(right: Counter[str], asked: Counter[str]) -> dict[str, tuple[int, int]]:
    return {family: (right[family], asked[family]) for family in FAMILIES if asked[family]}


def macro(table: Mapping[str, tuple[int, int]], families: Sequence[str] | None = None) -> float:
    """Mean accuracy (right / asked) over those of the families that were asked."""
    families = tuple(table) if families is None else families
    shares = [table[family][0] / table[family][1] for family in families if family in table]
    return sum(shares) / len(shares) if shares else float("nan")


HELD_OUT_SEED = 700_001  # never used in training, whose seeds are small numbers
_SOURCE_RATES = (12.0, 15.0, 25.0)  # frames per second of the files


@dataclass
class Report:
    """Counts per family, and the questions with a wrong answer."""

    right: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, str]] = field(default_factory=list)

    def count(self, family: str, question: str, expected: str, given: str) -> None:
        """Take in an answer."""
        self.asked[family] += 1
        if given == expected:
            self.right[family] += 1
        else:
            wrong = {"family": family, "question": question, "answer": given}
            self.wrong.append({**wrong, "expected": expected})

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        table = _by_family(self.right, self.asked)
        return {
            "schema_version": 1,
            "macro_accuracy": macro(table),
            "cross_modal_macro_accuracy": macro(table, LINKED_FAMILIES),
            "families": {
                family: {"accuracy": right / asked, "n": asked}
                for family, (right, asked) in table.items()
            },
            "wrong": self.wrong,
        }

    def as_table(self) -> str:
        """One line per family."""
        table = _by_family(self.right, self.asked)
        lines = [f"{'family':<18} accuracy    n"]
        for family, (right, asked) in table.items():
            lines.append(f"{family:<18} {right / asked:8.3f} {asked:4d}")
        lines.append(f"{'macro':<18} {macro(table):8.3f} {sum(self.asked.values()):4d}")
        lines.append(f"{'cross-modal macro':<18} {macro(table, LINKED_FAMILIES):8.3f}")
        return "\n".join(lines)


HeldOutClip = tuple[np.random.Generator, WorldClip, float]


def held_out_clips(
    count: int, *, shortest: float = 4.0, longest: float = 8.0, seed: int = HELD_OUT_SEED
) -> Iterator[HeldOutClip]:
    """Clips the model was not trained on, with their generator state and source frame rate."""
    for index in range(count):
        rng = np.random.default_rng([seed, 2, index])  # 2: a stream of its own
        rate = float(rng.choice(_SOURCE_RATES))
        duration = round(float(rng.uniform(shortest, longest)) * rate) / rate
        size = weighted_choice(rng, WIDE_FRAME_SIZES)
        layout = file_layout(duration, size, rate, audio_seconds=duration)
        voices, fonts = HELD_OUT_VOICES, HELD_OUT_FONTS
        yield rng, render_script(draft_script(rng, layout, 1.0, voices=voices, fonts=fonts)), rate


def as_clip(made: WorldClip) -> Clip:
    """A generated clip as if it had been read from a file without loss."""
    return Clip(
        frames=made.frames,
        frame_times=np.array(made.layout.frame_times) if made.frames is not None else None,
        fps=made.layout.effective_fps if made.frames is not None else None,
        audio=made.audio,
        facts=MediaFacts("generated", "memory", made.layout.duration, 0.0, None),
    )


@torch.inference_mode()
def answer(loaded: LoadedModel, clip: Clip, question: str) -> str:
    """Greedy answer of a model to a question about a clip."""
    inputs = build_inputs(loaded, clip, question)
    with use_for_encoders(loaded.adapter):
        output = loaded.model.generate(**inputs, max_new_tokens=20, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return str(loaded.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


def blanked(clip: Clip, tracks: Collection[str]) -> Clip:
    """A clip with its "picture" grey or its "sound" silent, or both: what is left to guess from."""
    if "picture" in tracks and clip.frames is not None:
        clip = replace(clip, frames=np.full_like(clip.frames, 128))
    if "sound" in tracks and clip.audio is not None:
        clip = replace(clip, audio=np.zeros_like(clip.audio))
    return clip


def evaluate(
    loaded: LoadedModel,
    clips: Iterable[HeldOutClip],
    *,
    mp4: bool = False,
    blank: Collection[str] = (),
) -> Report:
    """Ask one question of every family that each clip allows.

    Parameters
    ----------
    mp4 : bool
        Through real files.
    blank : collection of str
        Which of "picture" and "sound" to blank: an answer that is right all the same was a guess.
    """
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        for rng, made, rate in clips:
            clip = as_clip(made)
            if mp4:
                path = Path(folder) / "clip.mp4"
                write_script(path, made.script, fps=rate)
                clip = read_clip(path, sizing=loaded.sizing)
            clip = blanked(clip, blank)
            for question in every_question(rng, made.script):
                given = answer(loaded, clip, question.text)
                report.count(question.family, question.text, question.answer, given)
    return report


def evaluate_set(loaded: LoadedModel, count: int, *, blank: Collection[str] = ()) -> Report:
    """Ask the first `count` questions of the bundled set, all of them without options.

    Parameters
    ----------
    blank : collection of str
        As of `evaluate`.
    """
    report = Report()
    questions = synthetic_set(count)
    for _, asked in groupby(questions.items, key=lambda item: item.clip_key):
        items = list(asked)
        clip = blanked(open_clip(items[0], questions.protocol, loaded.sizing), blank)
        for item in items:
            given = answer(loaded, clip, item.question)
            report.count(item.family, item.question, item.answer_text, given)
    return report


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("--clips", type=int, default=100, help="number of clips")
    parser.add_argument(
        "--synthetic",
        type=int,
        metavar="N",
        help="instead of clips of their own, the first N questions of the bundled set",
    )
    parser.add_argument("--mp4", action="store_true", help="through real files")
    parser.add_argument(
        "--blank",
        action="append",
        choices=("picture", "sound"),
        help="without what is there to see or hear; may be given twice",
    )
    parser.add_argument("--shortest", type=float, default=4.0, help="seconds")
    parser.add_argument("--longest", type=float, default=8.0, help="seconds")
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--threads", type=int, help="torch threads")
    options = parser.parse_args(arguments)
    if options.synthetic is not None and options.mp4:
        parser.error("--synthetic asks about clips in memory: not with --mp4")
    if options.threads:
        torch.set_num_threads(options.threads)
    blank = options.blank or ()
    loaded = load_model(options.model)
    if options.synthetic is not None:
        report = evaluate_set(loaded, options.synthetic, blank=blank)
    else:
        spans = {"shortest": options.shortest, "longest": options.longest}
        clips = held_out_clips(options.clips, **spans, seed=options.seed)
        report = evaluate(loaded, clips, mp4=options.mp4, blank=blank)
    text = json.dumps(report.as_dict(), indent=1) if options.json else report.as_table()
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
