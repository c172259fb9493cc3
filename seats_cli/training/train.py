"""Train the bundled model on generated clips.

One command runs both phases, resumes where it was stopped, and exports the result:

    python -m seats_cli.training.train --out runs/second --export runs/second/model

The state is written every two minutes, in one piece: the run may be killed at any time. While the
file that `--pause` names exists, it waits.

Training is data-parallel in single-threaded processes, one per core: two threads of one process
wait for each other in every small operation; processes meet once per step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from transformers import Qwen2Tokenizer

from seats_cli.models.optimize import use_for_encoders
from seats_cli.models.registry import adapter_for
from seats_cli.training.build import (
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
    export,
    spell_alike,
    start_encoders_from,
)
from seats_cli.training.forward import Thinker, Thinning, encode
from seats_cli.training.held_out import accuracy_by_family, macro, validation_batches
from seats_cli.training.hyperparameters import Hyperparameters, Phase
from seats_cli.training.minibatch import (
    TrainingBatch,
    drill_batch,
    long_batch,
    training_batch,
)
from seats_cli.training.objective import (
    DenseHeads,
    Figures,
    Muon,
    Naming,
    WorkerGroup,
    draw_thinning,
    encoder_loss,
    joint_loss,
    split_parameters,
)
from seats_cli.world.lettering import HELD_OUT_FONTS
from seats_cli.world.voices import HELD_OUT_VOICES
from seats_cli.world.wording import FAMILIES


def _work(rank: int, size: int, meeting: Path, task: Callable[..., None], options: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        task(WorkerGroup(rank, size), options)
    finally:
        dist.destroy_process_group()


def run_workers(
    size: int, folder: Path, task: Callable[[WorkerGroup, Any], None], options: Any
) -> None:
    """Run `task(workers, options)` in `size` processes; with one, in this process.

    The workers find each other by a file in `folder`.
    """
    if size == 1:
        task(WorkerGroup(), options)
        return
    meeting = (folder / "meeting").resolve()
    meeting.unlink(missing_ok=True)
    # Daemons end with this process only if it exits in an orderly way, so SIGTERM has to exit.
    # Workers left behind would keep training and overwrite the state of the next run.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    spawn(_work, (size, meeting, task, options), nprocs=size, daemon=True)  # type: ignore[no-untyped-call]


def wait_while_there(path: Path | None, workers: WorkerGroup, save: Callable[[], None]) -> None:
    """Wait, with the state saved, for as long as there is a file at `path`.

    All workers wait here: one that waited for the others inside a step would give up.
    """
    saved = False
    while workers.agree(float(path is not None and path.exists())):
        if not saved:
            save()
            saved = True
        time.sleep(1.0)


log = logging.getLogger(__name__)

_SAVE_EVERY = 120.0  # seconds
_LOG_EVERY = 25  # steps
_CHECK_EVERY = 250
_CHECK_SEED = 900_002  # training seeds are small numbers
_STATEFUL = ("model", "heads", "muon", "adam")  # attributes of a trainer in its saved state
_GRADIENT_LIMIT = 1e3  # Muon ignores the scale of gradients; this only stops explosions


class Trainer:
    """State of a run: model, heads, optimisers and where in the schedule it is.

    Parameters
    ----------
    settings : Hyperparameters
        What decides the result.
    out : Path
        Folder of the run.
    workers : WorkerGroup, optional
        This process among others; alone by default.
    start : Path, optional
        Folder of a model whose encoders to start from; fresh weights by default.
    pause : Path, optional
        While this file exists, no step is begun.
    """

    def __init__(
        self,
        settings: Hyperparameters,
        out: Path,
        workers: WorkerGroup | None = None,
        *,
        start: Path | None = None,
        pause: Path | None = None,
    ) -> None:
        self.settings = settings
        self.out = out
        self.workers = workers or WorkerGroup()
        torch.manual_seed(settings.seed)
        self.processor = build_processor(self._tokenizer())
        config = build_config(
            self.processor.tokenizer,
            width=settings.width,
            layers=settings.layers,
            mlp=settings.mlp,
            encoder_layers=settings.encoder_layers,
        )
        self.model: Thinker = build_model(config).train()
        spell_alike(self.model, self.processor.tokenizer)
        if start is not None:
            start_encoders_from(self.model, start)
        self.pause = pause
        self.adapter = adapter_for(self.model)
        self.heads = DenseHeads(settings.width)
        self.naming = Naming(self.processor.tokenizer)
        self.phase_index = 0
        self.step = 0
        self.elapsed = 0.0  # seconds spent in the current phase, over all restarts
        self._saved_at = time.monotonic()
        self._start_phase()
        # From here on workers draw different numbers.
        torch.manual_seed(settings.seed + self.workers.rank)

    def _tokenizer(self) -> Qwen2Tokenizer:
        """That of the run: weights mean nothing with another, which a new wording would give."""
        folder = self.out / "tokenizer"
        if folder.exists():
            return Qwen2Tokenizer.from_pretrained(folder)
        tokenizer = build_tokenizer()
        if self.workers.rank == 0:
            unfinished = self.out / "tokenizer.part"
            tokenizer.save_pretrained(unfinished)
            unfinished.replace(folder)
        return tokenizer

    @property
    def phase(self) -> Phase:
        """The current stage."""
        return self.settings.phases[self.phase_index]

    def _start_phase(self) -> None:
        modules: list[torch.nn.Module] = [self.model.model.visual, self.model.model.audio_tower]
        if self.phase.name == "joint":
            modules.append(self.model.model.language_model)
        matrices, rest = split_parameters(modules)
        self.parameters = [*matrices, *rest, *self.heads.parameters()]
        self.muon = Muon(matrices, self.phase.muon_rate)
        self.adam = torch.optim.AdamW(
            [*rest, *self.heads.parameters()],
            self.phase.adam_rate,
            betas=(0.9, 0.97),
            weight_decay=0.01,
            fused=True,
        )

    def begin_phase(self) -> None:
        """Start the current phase at its first step."""
        self.step, self.elapsed = 0, 0.0
        if self.phase.name == "joint":
            self._level_encoders()
        self._start_phase()

    @torch.no_grad()
    def _level_encoders(self) -> None:
        """Make what the encoders give as loud as embeddings; naming left its loudness open."""
        rng = np.random.default_rng([_CHECK_SEED, 1])
        batch = drill_batch(rng, self.processor, tokens=600)
        net = self.model.model
        with use_for_encoders(self.adapter):
            states = encode(self.model, batch)
        outputs = (net.visual.merger.mlp[-1], net.audio_tower.proj)
        for projection, state in zip(outputs, states, strict=True):
            assert state is not None  # drills have both
            gain = self.settings.encoder_level / state.square().mean().sqrt()
            for parameter in projection.parameters():
                parameter.mul_(gain)

    def progress(self) -> float:
        """Share of the phase's steps that is done."""
        return min(1.0, self.step / self.phase.steps)

    @property
    def level(self) -> float:
        """Difficulty of the clips at this step."""
        least = self.settings.first_level
        return min(1.0, least + (1 - least) * self.progress() / self.settings.level_share)

    def _set_rates(self) -> None:
        phase = self.phase
        left = (1 - self.progress()) / phase.decay_share
        scale = phase.final_rate + (1 - phase.final_rate) * min(1.0, left)
        scale *= min(1.0, (self.step + 1) / phase.warmup_steps)
        for optimiser, rate in ((self.muon, phase.muon_rate), (self.adam, phase.adam_rate)):
            for group in optimiser.param_groups:
                group["lr"] = rate * scale

    def loss(self, batch: TrainingBatch) -> tuple[torch.Tensor, Figures]:
        """Loss of a batch in the current phase, with figures for the log."""
        if self._is_drill(self.step):
            weight = self.settings.naming_weight
            return encoder_loss(self.model, self.heads, self.naming, batch, weight)
        rng = np.random.default_rng([self.settings.seed, 7, self.step, self.workers.rank])
        long = self._is_long(self.step)
        thinning = draw_thinning(rng, self.progress(), self.settings, long=long)
        return joint_loss(self.model, self.heads, self.naming, batch, thinning, self.settings)

    def update(self, batch: TrainingBatch) -> Figures:
        """One optimiser step; a batch with a broken gradient is skipped."""
        self._set_rates()
        half = torch.autocast(
            "cpu", torch.bfloat16, enabled=self.settings.half and not self._is_drill(self.step)
        )
        with use_for_encoders(self.adapter), half:
            loss, figures = self.loss(batch)
        with use_for_encoders(self.adapter):
            loss.backward()  # type: ignore[no-untyped-call]
        self.workers.average_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, _GRADIENT_LIMIT)
        if torch.isfinite(norm):
            self.muon.step()
            self.adam.step()
        else:
            log.warning("step %d skipped: the gradient is not finite", self.step)
        for parameter in self.parameters:
            parameter.grad = None
        return figures

    def save(self) -> None:
        """Write the state, in a way that leaves the last one whole if this is interrupted."""
        self._saved_at = time.monotonic()
        if self.workers.rank > 0:
            return
        state = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        state.update(phase=self.phase_index, step=self.step, elapsed=self.elapsed)
        unfinished = self.out / "state.pt.part"
        torch.save(state, unfinished)
        unfinished.replace(self.out / "state.pt")

    def resume(self) -> None:
        """Continue from the last saved state, if there is one."""
        path = self.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.phase_index = state["phase"]
        self._start_phase()
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        self.step, self.elapsed = state["step"], state["elapsed"]
        log.info("resumed %s at step %d", self.phase.name, self.step)

    def _is_drill(self, step: int) -> bool:
        """Whether a step trains the encoders alone; the same for all workers."""
        share = 1.0 if self.phase.name == "encoders" else self.phase.drill_share
        return int((step + 1) * share) > int(step * share)

    def _is_long(self, step: int) -> bool:
        """Whether a step is about one long clip per worker."""
        every = self.settings.long_every
        return self.level == 1.0 and not self._is_drill(step) and step % every == every // 2

    def _batches(self) -> Iterator[TrainingBatch]:
        """This worker's batches from the current step on, each from its own seed."""
        tokens = self.phase.batch_tokens // self.workers.size
        for step in range(self.step, self.phase.steps):
            seed = [self.settings.seed, self.phase_index, step, self.workers.rank]
            rng = np.random.default_rng(seed)
            wait_while_there(self.pause, self.workers, self.save)
            if self._is_drill(step):
                yield drill_batch(rng, self.processor, tokens=tokens)
                continue
            if self._is_long(step):
                yield long_batch(
                    rng,
                    self.processor,
                    tokens=self.settings.long_tokens,
                    questions=self.phase.questions,
                    weights=self.settings.weights,
                )
                continue
            yield training_batch(
                rng,
                self.processor,
                tokens=tokens,
                questions=self.phase.questions,
                level=self.level,
                weights=self.settings.weights,
            )

    def run_phase(self) -> None:
        """Train to the end of the current phase."""
        smooth: dict[str, float] = {}
        joint = self.phase.name == "joint"
        clips, count = self.settings.check_clips, self.settings.check_batches
        checks = validation_batches(self.processor, clips=clips, count=count) if joint else []
        checks = checks[self.workers.rank :: self.workers.size]
        before, started = self.elapsed, time.monotonic()
        for batch in self._batches():
            for name, value in self.update(batch).items():
                smooth[name] = 0.95 * smooth.get(name, value) + 0.05 * value
            self.step += 1
            self.elapsed = before + time.monotonic() - started
            if self.step % _LOG_EVERY == 0:
                self._note("training", smooth)
            if self.step % _CHECK_EVERY == 0 or self.step == self.phase.steps:
                self._check_drills()
                if checks:
                    self._check(checks)
            if time.monotonic() - self._saved_at > _SAVE_EVERY:
                self.save()

    def _note(self, what: str, figures: Mapping[str, float]) -> None:
        """Add a line to `log.jsonl`, and show it."""
        if self.workers.rank > 0:
            return
        rounded = {name: round(value, 4) for name, value in figures.items()}
        place = {"phase": self.phase.name, "step": self.step, "seconds": round(self.elapsed)}
        line = json.dumps({"what": what, **place, **rounded})
        with (self.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        log.info("%s", line)

    @torch.no_grad()
    def _check_drills(self) -> None:
        """Accuracy of the encoders' heads with voices and fonts that are held out."""
        if self.workers.rank > 0:
            return
        seen: dict[str, list[float]] = {}
        for index in range(self.settings.check_batches // 2):
            rng = np.random.default_rng([_CHECK_SEED, index])
            batch = drill_batch(
                rng, self.processor, tokens=600, voices=HELD_OUT_VOICES, fonts=HELD_OUT_FONTS
            )
            with use_for_encoders(self.adapter):
                figures = encoder_loss(self.model, self.heads, self.naming, batch, 1.0)[1]
            for name, value in figures.items():
                seen.setdefault(name, []).append(value)
        self._note("drills", {name: float(np.mean(values)) for name, values in seen.items()})

    def _check(self, checks: list[TrainingBatch]) -> None:
        cut = self.settings.cut_layers[-2]
        for title, layer in (("held-out", None), (f"held-out, cut at {cut}", cut)):
            table = accuracy_by_family(self.model.eval(), checks, Thinning(cut_layer=layer))
            self.model.train()
            counts = torch.tensor([table.get(family, (0, 0)) for family in FAMILIES])
            totals = self.workers.total(counts).tolist()
            table = {family: (a, n) for family, (a, n) in zip(FAMILIES, totals, strict=True) if n}
            shares = {name: right / asked for name, (right, asked) in table.items()}
            self._note(title, {"macro": macro(table), **shares})

    def run(self) -> None:
        """Train all remaining phases."""
        while True:
            self.run_phase()
            if self.phase_index + 1 == len(self.settings.phases):
                self.save()
                return
            self.phase_index += 1
            self.begin_phase()
            self.save()


def _train(workers: WorkerGroup, options: argparse.Namespace) -> None:
    """The work of one process."""
    first = workers.rank == 0
    level = logging.INFO if first else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s")
    torch.set_flush_denormal(True)
    settings = Hyperparameters()
    trainer = Trainer(settings, options.out, workers, start=options.start, pause=options.pause)
    if first:
        effective = json.dumps(dataclasses.asdict(settings), indent=1)
        (options.out / "settings.json").write_text(effective + "\n")
    trainer.resume()
    trainer.run()
    if first and options.export is not None:
        export(trainer.model, trainer.processor, options.export)


def main(arguments: list[str] | None = None) -> None:
    """Command line; what decides the result is in `hyperparameters.py`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run (resumable)")
    parser.add_argument("--export", type=Path, help="write the finished model to this folder")
    parser.add_argument("--workers", type=int, default=2, help="processes, one per core")
    parser.add_argument(
        "--start", type=Path, help="model whose encoders to start from instead of fresh ones"
    )
    parser.add_argument("--pause", type=Path, help="wait while this file exists")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    run_workers(options.workers, options.out, _train, options)


if __name__ == "__main__":
    main()
