"""What the recipes of trained methods share: steps, saves, held-out accuracy, the checkpoint.

A run saves its state every two minutes in the folder of its checkpoint, and the same command goes
on from there. What is drawn has a generator of its own for each purpose and step, so that two runs
that differ in one setting see the same clips, and a resumed one sees those it would have seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil, cos, pi
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seats_cli.errors import ModelError, SeatsError, UsageError
from seats_cli.families.checkpoint_folder import find_folder
from seats_cli.models.load import load_model
from seats_cli.models.method_weights import stored_for, weights_for
from seats_cli.models.optimize import sync_rope, use_for_encoders
from seats_cli.selection.method import METHODS, class_of
from seats_cli.training.build import export
from seats_cli.training.forward import Thinker
from seats_cli.training.held_out import Answers, macro, right_by_family, validation_batches
from seats_cli.training.minibatch import TrainingBatch, training_batch
from seats_cli.training.objective import WorkerGroup
from seats_cli.training.train import run_workers, wait_while_there
from seats_cli.world.layouts import WIDE_FRAME_SIZES
from seats_cli.world.wording import LINKED_FAMILIES

log = logging.getLogger(__name__)

RECOVERED = 0.97  # of the accuracy at the start, below which a warning is due
_WARM_UP = 0.05  # of a phase's steps, in which the learning rate rises
_SAVE_EVERY = 120.0  # seconds
_LOG_EVERY = 25  # steps
_STATE, _RECORD = "state.pt", "training.json"  # in the folder of the checkpoint


@dataclasses.dataclass(frozen=True)
class MethodSettings:
    """What decides a run, whatever the method."""

    model: str | None = None  # the checkpoint to start from, as for `load_model`
    seed: int = 0  # of the added weights and of all draws
    steps: int = 1000
    pairs: int = 16  # of a clip and a question in a step, at least and over all workers
    tokens: int = 2000  # of picture and sound in each of the batches that make up a step
    questions: int = 2  # about each clip
    level: float = 1.0  # how difficult clips are, 0..1
    checks: int = 6  # batches of `check_clips` clips that the held-out accuracy is taken from
    check_clips: int = 4

    def check(self) -> None:
        """Refuse what cannot be run.

        Raises
        ------
        UsageError
        """
        for name in ("steps", "pairs", "tokens", "questions"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` is {getattr(self, name)}: it has to be 1 at least.")
        for name in ("seed", "checks"):
            if getattr(self, name) < 0:
                raise UsageError(f"`{name}` is {getattr(self, name)}: it has to be 0 at least.")


CLIPS, SHARES, KINDS, NOISE = range(4)  # purposes that numbers are drawn for


class MethodTrainer(ABC):
    """A model with the weights that a method adds to it, and how they are trained on a CPU.

    Nothing of the model learns but what a subclass hands to `learn`; its encoders never do. Weights
    of the method that the checkpoint has are trained further.

    Parameters
    ----------
    settings : MethodSettings
    workers : WorkerGroup, optional
        This process among others; alone by default.

    Raises
    ------
    UsageError, ModelError
        If settings are impossible, or the recipe does not fit the model.
    """

    method: ClassVar[str]  # its name, and that of its file
    settings: MethodSettings

    def __init__(self, settings: MethodSettings, workers: WorkerGroup | None = None) -> None:
        settings.check()
        self.settings, self.workers = settings, workers or WorkerGroup()
        loaded = load_model(settings.model, device="cpu", dtype="float32")
        if loaded.facts.family != "qwen2_5_omni" or loaded.facts.quantization:
            raise ModelError(
                "The recipes train small Qwen2.5-Omni models, unquantized: "
                f"'{loaded.facts.id}' is none."
            )
        self.adapter, self.architecture = loaded.adapter, loaded.architecture
        self.model: Thinker = loaded.model
        self.processor: Any = loaded.processor
        self.model.requires_grad_(False)
        self.notices: list[str] = []  # what whoever runs the recipe ought to know
        largest, most = max(h * w for h, w in WIDE_FRAME_SIZES), loaded.sizing.max_pixels
        if settings.level > 0 and most is not None and most < largest:
            self.notices.append(
                f"Clips have frames of up to {largest} pixels, and this model scales its own to "
                f"{most}: give a `model` that reads larger ones."
            )
        self.steps_done = 0
        self.accuracy: dict[str, dict[str, float]] = {}  # held-out, by moment and condition

    # ------------------------------------------------- what a recipe consists of

    @property
    @abstractmethod
    def added(self) -> nn.Module:
        """What the method adds to the model."""

    @abstractmethod
    def answers(self, batch: TrainingBatch, number: int) -> Answers:
        """What is learnt from: the `number`-th batch of this step, with the method's gradients."""

    @abstractmethod
    def under(self, condition: str, batch: TrainingBatch) -> Answers:
        """The answers to held-out questions under one of `conditions`, or at the "start"."""

    @property
    @abstractmethod
    def conditions(self) -> tuple[str, ...]:
        """What the held-out accuracy is taken of when training is over."""

    def file_name(self) -> str:
        """Of the added weights, without `.safetensors`."""
        return self.method

    def facts(self) -> dict[str, str]:
        """What is noted in the file of the added weights."""
        return {}

    def fits(self, batch: TrainingBatch) -> bool:
        """Whether the method has something to learn from these clips."""
        return True

    def milestones(self) -> dict[int, tuple[str, str]]:
        """Numbers of steps done, to the name of the moment and the condition to be measured."""
        return {}

    def stored(self) -> dict[str, Tensor] | None:
        """Copies of the method's weights in a `model` that is given and has some; None else."""
        given = self.settings.model  # what ships with the bundled model is made from the seed
        if given is None or not stored_for(find_folder(given).path, self.method):
            return None
        found = weights_for(self.adapter, self.method)
        return {name: value.clone() for name, value in found.items()}

    # ------------------------------------------------- training

    def learn(self, rates: Sequence[tuple[nn.Module, float, int]], phases: Sequence[int]) -> None:
        """Let modules learn, each at its highest rate and from its own step on.

        In each of the phases, lengths in steps, rates rise for 5 % of it and then follow a cosine
        to 0.
        """
        self._phases = tuple(phases)
        groups = [
            {"params": list(module.parameters()), "highest": rate, "first": first}
            for module, rate, first in rates
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=0.01)
        self._set_rates()

    def _set_rates(self) -> None:
        begin, scale = 0, 0.0
        for length in self._phases:
            if begin <= self.steps_done < begin + length:
                scale = rate_at(self.steps_done - begin, length)
            begin += length
        for group in self.optimizer.param_groups:
            learns = self.steps_done >= group["first"]
            group["lr"] = group["highest"] * scale * learns
            for parameter in group["params"]:
                parameter.requires_grad_(learns)

    def generator(self, purpose: int, number: int = 0) -> np.random.Generator:
        """Of the `number`-th batch of this worker's present step."""
        seed = [self.settings.seed, purpose, self.steps_done, self.workers.rank, number]
        return np.random.default_rng(seed)

    def batch(self, number: int = 0) -> TrainingBatch:
        """The `number`-th of the present step: the first clips drawn for it that fit."""
        rng, own = self.generator(CLIPS, number), self.settings
        while True:
            made = training_batch(
                rng, self.processor, tokens=own.tokens, questions=own.questions, level=own.level
            )
            if self.fits(made):
                return made

    def batches(self) -> Iterator[TrainingBatch]:
        """Those of the present step, with this worker's part of the pairs."""
        left = ceil(self.settings.pairs / self.workers.size)
        number = 0
        while left > 0:
            made = self.batch(number)
            left -= pairs_of(made)
            number += 1
            yield made

    def step(self, batches: Sequence[TrainingBatch] | None = None) -> float:
        """One step; its loss, the mean over this worker's pairs."""
        self._set_rates()
        drawn = list(self.batches()) if batches is None else batches
        total, mean = sum(map(pairs_of, drawn)), 0.0
        self.optimizer.zero_grad()
        for number, batch in enumerate(drawn):
            with self.running():
                found = self.answers(batch, number)
                loss = cross_entropy(found.logits, found.target) * (pairs_of(batch) / total)
                loss.backward()  # type: ignore[no-untyped-call]
            mean += float(loss.detach())
        groups = self.optimizer.param_groups
        learning = [value for group in groups for value in group["params"] if value.requires_grad]
        self.workers.average_gradients(learning)
        if all(bool(value.grad.isfinite().all()) for value in learning if value.grad is not None):
            self.optimizer.step()
        else:
            log.warning("step %d skipped: a gradient is not finite", self.steps_done + 1)
        self.steps_done += 1
        return mean

    @contextmanager
    def running(self) -> Iterator[None]:
        """The model with the angles of its checkpoint, and the encoders' faster attention."""
        with sync_rope(self.adapter), use_for_encoders(self.adapter):
            yield

    # ------------------------------------------------- held-out accuracy

    def measure(self, moment: str, conditions: Sequence[str]) -> None:
        """Note and show the held-out accuracy under some conditions."""
        own = self.settings
        if not own.checks:
            return
        checks = validation_batches(self.processor, clips=own.check_clips, count=own.checks)
        found = self.accuracy.setdefault(moment, {})
        for condition in conditions:
            table = right_by_family(partial(self.under, condition), checks, self.workers)
            right, asked = (sum(column) for column in zip(*table.values(), strict=True))
            found[condition] = round(right / asked, 4)
            linked = macro(table, LINKED_FAMILIES)
            if linked == linked:
                found[f"{condition}, picture and sound"] = round(linked, 4)
            log.info("held-out %s, %s: %.3f of %d", moment, condition, right / asked, asked)

    def warnings(self) -> list[str]:
        """What the accuracies that have been measured give cause to say."""
        before = self.accuracy.get("before", {}).get("start")
        if before is None:
            return []
        said = []
        for moment, condition in self.milestones().values():
            after = self.accuracy.get(moment, {}).get(condition)
            if after is not None and after < RECOVERED * before:
                said.append(
                    f"The held-out accuracy {moment}, {condition}, is {100 * after:.1f} %, below "
                    f"{100 * RECOVERED:.0f} % of the {100 * before:.1f} % before training."
                )
        return said

    # ------------------------------------------------- files

    def record(self) -> dict[str, Any]:
        """How the weights came about, for the checkpoint."""
        done = {"steps_done": self.steps_done, "workers": self.workers.size}
        made = {"schema_version": 1, "method": self.method, **done}
        return {**made, "settings": _plain(self.settings), "held_out_accuracy": self.accuracy}

    def save(self, folder: Path) -> None:
        """The checkpoint with the method's weights beside its own, and how they came about."""
        folder.mkdir(parents=True, exist_ok=True)
        export(self.model, self.processor, folder)
        prefix = class_of(METHODS[self.method]).weights_prefix
        added = self.added.state_dict()
        tensors = {f"{prefix}{name}": value.half() for name, value in added.items()}
        beside = folder / f"{self.file_name()}.safetensors"
        save_file(tensors, beside, {"recipe": json.dumps(_plain(self.settings)), **self.facts()})
        beside.chmod(0o644)  # written for the owner only
        (folder / _RECORD).write_text(json.dumps(self.record(), indent=1) + "\n")

    def save_state(self, folder: Path) -> None:
        """Write all that a later run needs, in a way that leaves the last state whole."""
        if self.workers.rank > 0:
            return
        state = {
            "model": self.model.state_dict(),
            "added": self.added.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps_done": self.steps_done,
            "accuracy": self.accuracy,
            "settings": _plain(self.settings),
        }
        unfinished = folder / f"{_STATE}.part"
        torch.save(state, unfinished)
        unfinished.replace(folder / _STATE)

    def resume(self, folder: Path) -> None:
        """Continue from the state in a folder, if there is one.

        Raises
        ------
        UsageError
            If it is one of other settings, or the folder holds a checkpoint already.
        """
        path, own = folder / _STATE, _plain(self.settings)
        if not path.exists():
            if (folder / "config.json").exists():
                raise UsageError(f"'{folder}' holds a checkpoint already: give another `out`.")
            return
        state = torch.load(path, weights_only=True)
        others = {name: value for name, value in state["settings"].items() if own[name] != value}
        if others:
            name, value = next(iter(others.items()))
            raise UsageError(
                f"The run in '{folder}' was begun with `{name}` {value} and not {own[name]}: give "
                "the settings that it has, or another `out`."
            )
        self.model.load_state_dict(state["model"])
        self.added.load_state_dict(state["added"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps_done, self.accuracy = state["steps_done"], state["accuracy"]
        log.info("resumed at step %d", self.steps_done)


def pairs_of(batch: TrainingBatch) -> int:
    """Pairs of a clip and a question."""
    return sum(map(len, batch.questions))


def rate_at(step: int, steps: int) -> float:
    """Share of the highest learning rate at a step, from 0, of a phase."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + cos(pi * min(1.0, (step - warm) / max(1, steps - warm))))


def _plain(settings: MethodSettings) -> dict[str, Any]:
    """Settings as JSON has them."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return plain


def train(trainer: MethodTrainer, out: Path, pause: Path | None = None) -> None:
    """Train to the end, from the saved state where there is one, and write the checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    trainer.resume(out)
    if not trainer.accuracy:
        trainer.measure("before", ["start"])
    saved, losses = time.monotonic(), []
    steps = trainer.settings.steps
    while trainer.steps_done < steps:
        wait_while_there(pause, trainer.workers, lambda: trainer.save_state(out))
        losses.append(trainer.step())
        done = trainer.steps_done
        if done % _LOG_EVERY == 0 or done == steps:
            log.info("step %d  loss %.3f", done, sum(losses) / len(losses))
            losses.clear()
        if done in trainer.milestones():
            moment, condition = trainer.milestones()[done]
            trainer.measure(moment, [condition])
        if time.monotonic() - saved > _SAVE_EVERY:
            trainer.save_state(out)
            saved = time.monotonic()
    trainer.measure("after", trainer.conditions)
    for sentence in trainer.warnings():
        log.warning("%s", _with_flags(sentence))
    if trainer.workers.rank == 0:
        trainer.save(out)
        (out / _STATE).unlink(missing_ok=True)


def recipe(description: str, usual: MethodSettings) -> argparse.ArgumentParser:
    """The options that all recipes have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="of the checkpoint (resumable)")
    parser.add_argument("--model", help="checkpoint to start from; the bundled one by default")
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument(
        "--pairs", type=int, default=usual.pairs, help="clips with a question in a step, at least"
    )
    parser.add_argument("--checks", type=int, default=usual.checks, help="held-out batches, or 0")
    parser.add_argument("--workers", type=int, default=2, help="processes, one per core")
    parser.add_argument("--pause", type=Path, help="wait while this file exists")
    return parser


Build = Callable[[Any, WorkerGroup], MethodTrainer]


def _work(workers: WorkerGroup, given: tuple[Build, Any, Path, Path | None]) -> None:
    build, settings, out, pause = given
    level = logging.INFO if workers.rank == 0 else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s")
    torch.set_flush_denormal(True)
    train(build(settings, workers), out, pause)


def run_recipe(
    parser: argparse.ArgumentParser, options: argparse.Namespace, build: Build, settings: Any
) -> None:
    """Train in as many processes as asked for; exit with one sentence where that is impossible."""
    try:
        if options.workers < 1:
            raise UsageError(f"`workers` is {options.workers}: it has to be 1 at least.")
        # Whatever is refused is refused here, and not in the processes.
        trainer = build(settings, WorkerGroup())
        trainer.resume(options.out)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        for sentence in trainer.notices:
            log.warning("%s", _with_flags(sentence))
        del trainer
        options.out.mkdir(parents=True, exist_ok=True)
        run_workers(
            options.workers, options.out, _work, (build, settings, options.out, options.pause)
        )
    except SeatsError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {_with_flags(str(error))}\n")


def _with_flags(sentence: str) -> str:
    return re.sub(r"`(\w+)`", lambda found: "--" + found[1].replace("_", "-"), sentence)
