"""Train OmniSIFT's selector for a checkpoint, on generated clips (arXiv 2602.04804).

    python -m seats_cli.training.sift --out runs/sift

writes the checkpoint with `omnisift.safetensors` beside its weights: a folder for `--model`, with
`--method omnisift`. The video's rule has nothing to learn. Scores of sound reach the loss by a
straight-through estimate: a token that stays is multiplied by 1, with the gradient of its score.
Encoders are frozen; the decoder is, too, unless `--decoder` tunes it with the selector (the
published recipe; compare other methods on that same checkpoint then). Drawn for each step are the
clips and one of three published or extrapolated pairs of shares dropped (the last is ours).

What the recipes of trained methods have in common is here, too: `MethodTrainer`, `run`.
"""

from __future__ import annotations

import argparse
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seats_cli.models.load import load_model
from seats_cli.models.optimize import sync_rope
from seats_cli.selection.method import METHODS, Modality, class_of
from seats_cli.selection.methods.omnisift import (
    SoundSelector,
    keep_video,
    left_of,
    video_groups,
)
from seats_cli.selection.topk import keep_highest
from seats_cli.selection.windows import split_grids
from seats_cli.training.build import export
from seats_cli.training.forward import Thinker, encode, packed_mask, prefix_positions, run_layers
from seats_cli.training.minibatch import TrainingBatch, training_batch
from seats_cli.world.vocabulary import IGNORE

log = logging.getLogger(__name__)

# Shares kept of video and sound: of the published 35 and 25 %, and about 10 %.
RATIOS = ((0.33, 0.60), (0.23, 0.50), (0.06, 0.30))
INNER, HEADS = 64, 4  # of a selector for small models; the 7B's has 512 and 8
_WARM_UP = 0.05


@dataclass
class SiftedPrefix:
    """What a clip's prompt is after selection, for B clips."""

    kept: Tensor  # LongTensor (B, k): places in the prefix, ascending
    states: Tensor  # (B, k, width): embeddings there, sound multiplied by its mask
    scores: Tensor  # (B, sound tokens), in 0..1; 1 where a group has nothing to choose from


def sift_prefix(
    model: Thinker, selector: SoundSelector, batch: TrainingBatch, ratios: tuple[float, float]
) -> SiftedPrefix:
    """Select in the clips of a batch as `omnisift` does, with gradients for the selector.

    Parameters
    ----------
    batch : TrainingBatch
        With picture and sound.
    ratios : (float, float)
        Shares of video and of sound that stay.
    """
    ids, config, size = batch.prefix_ids, model.config, batch.size
    with torch.no_grad():  # the encoders are frozen
        video, audio = encode(model, batch)
    assert video is not None
    assert audio is not None
    prefix = model.model.language_model.embed_tokens(ids)
    is_video, is_audio = ids == config.video_token_id, ids == config.audio_token_id
    grids, rows, columns = batch.layout.grid_thw
    per_grid = rows * columns // 4
    seen = Modality(is_video, (grids * per_grid,), grids=(per_grid,))
    # 1. Groups are the same for all clips of a batch, which share a layout.
    times = prefix_positions(model, batch)[0]
    first, group_of = video_groups(seen)
    starts = times[seen.positions[first]].contiguous()
    of_sound = torch.searchsorted(starts, times[is_audio].contiguous(), right=True) - 1
    of_sound = of_sound.clamp(min=0)
    places, states, scores = [], [], []
    for clip in range(size):
        # 2. The video, and the sound of each group by what stays of it.
        stays = keep_video(video[clip], split_grids(seen), ratios[0])
        chosen = torch.ones_like(of_sound, dtype=torch.bool)
        mask = audio.new_ones(len(of_sound))
        score = audio.new_ones(len(of_sound))
        for group in range(len(first)):
            mine = (of_sound == group).nonzero()[:, 0]
            count = left_of(len(mine), ratios[1])
            if len(mine) < 2 or count == len(mine):
                continue
            found = selector(audio[clip, mine], video[clip, stays & (group_of == group)])
            hard = keep_highest(found.detach(), count)
            chosen = chosen.index_copy(0, mine, hard)
            score = score.index_copy(0, mine, found)
            mask = mask.index_copy(0, mine, (hard.float() - found).detach() + found)
        # 3. Forward the mask is 1 or 0, backward it is the score.
        row = prefix.clone()
        row[is_video] = video[clip]
        row[is_audio] = audio[clip] * mask[:, None]
        keep = torch.ones_like(is_video)
        keep[is_video], keep[is_audio] = stays, chosen
        place = keep.nonzero()[:, 0]
        places.append(place)
        states.append(row[place])
        scores.append(score)
    return SiftedPrefix(torch.stack(places), torch.stack(states), torch.stack(scores))


def sifted_logits(model: Thinker, batch: TrainingBatch, prefix: SiftedPrefix) -> Tensor:
    """Logits of the answers' tokens, in the order of `target[target != IGNORE]`."""
    language, length = model.model.language_model, prefix.kept.shape[1]
    positions = prefix_positions(model, batch)
    asked = (batch.position + int(positions.max()) + 1).expand(3, -1, -1)
    where = torch.cat([positions[:, prefix.kept], asked], dim=2)  # survivors keep theirs
    states = torch.cat([prefix.states, language.embed_tokens(batch.question_ids)], dim=1)
    number = torch.cat([torch.zeros_like(prefix.kept), batch.question_number], dim=1)
    layers = range(len(language.layers))
    states = run_layers(language, states, where, packed_mask(number), layers, length)
    answers = states[:, length:][batch.target != IGNORE]
    logits: Tensor = model.lm_head(language.norm(answers))
    return logits


class MethodTrainer(ABC):
    """A model with the weights that a method adds to it, and how they are trained on a CPU.

    Nothing of the model learns but what a subclass hands to `learn`; its encoders never do.

    Parameters
    ----------
    model : str or None
        The checkpoint to start from, as for `load_model`.
    seed : int
        Of the added weights and of all clips.
    tokens, questions : int
        Of picture and sound in a step, and about each clip.
    level : float
        How difficult clips are, 0..1.
    """

    method: ClassVar[str]  # its name, and that of its file

    def __init__(
        self, model: str | None, *, seed: int, tokens: int, questions: int, level: float
    ) -> None:
        loaded = load_model(model, device="cpu", dtype="float32")
        self.adapter, self.architecture = loaded.adapter, loaded.architecture
        self.model: Thinker = loaded.model
        self.processor: Any = loaded.processor
        self.model.requires_grad_(False)
        torch.manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.tokens, self.questions, self.level = tokens, questions, level

    @property
    @abstractmethod
    def added(self) -> nn.Module:
        """What the method adds to the model."""

    @abstractmethod
    def loss(self, batch: TrainingBatch) -> Tensor:
        """What a step minimises, ()."""

    def learn(self, rates: Sequence[tuple[nn.Module, float]], steps: int) -> None:
        """Let modules learn, each at its highest rate: up for 5 % of all steps, then a cosine."""
        groups = []
        for module, rate in rates:
            module.requires_grad_(True)
            groups.append({"params": list(module.parameters()), "lr": rate})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _rate(step, steps)
        )

    def fits(self, batch: TrainingBatch) -> bool:
        """Whether the method has something to learn from these clips."""
        return True

    def batch(self) -> TrainingBatch:
        """Clips with questions."""
        while True:
            made = training_batch(
                self.rng,
                self.processor,
                tokens=self.tokens,
                questions=self.questions,
                level=self.level,
            )
            if self.fits(made):
                return made

    def step(self, batch: TrainingBatch) -> float:
        """One step; its loss."""
        with sync_rope(self.adapter):
            loss = self.loss(batch)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def save(self, folder: Path) -> None:
        """The checkpoint with the method's weights beside its own."""
        folder.mkdir(parents=True, exist_ok=True)
        export(self.model, self.processor, folder)
        prefix = class_of(METHODS[self.method]).weights_prefix
        tensors = {f"{prefix}{name}": value for name, value in self.added.state_dict().items()}
        beside = folder / f"{self.method}.safetensors"
        save_file(tensors, beside)
        beside.chmod(0o644)  # written for the owner only


def run(trainer: MethodTrainer, steps: int, out: Path) -> None:
    """Train, tell the loss every 25 steps, and write the checkpoint."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    losses: list[float] = []
    for step in range(1, steps + 1):
        losses.append(trainer.step(trainer.batch()))
        if step % 25 == 0:
            log.info("step %d  loss %.3f", step, sum(losses[-25:]) / 25)
    trainer.save(out)


def recipe(description: str, steps: int) -> argparse.ArgumentParser:
    """The options that all recipes have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--model", help="checkpoint to start from; the bundled one by default")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seed", type=int, default=0)
    return parser


class SiftTrainer(MethodTrainer):
    """A selector beside a model.

    Parameters
    ----------
    model, seed, tokens, questions, level
        As for `MethodTrainer`.
    steps : int
        How many there will be, for the learning rate.
    decoder : bool
        Whether the decoder learns, too.
    """

    method = "omnisift"

    def __init__(
        self,
        model: str | None = None,
        *,
        seed: int = 0,
        steps: int = 600,
        decoder: bool = False,
        tokens: int = 2000,
        questions: int = 8,
        level: float = 1.0,
    ) -> None:
        super().__init__(model, seed=seed, tokens=tokens, questions=questions, level=level)
        self.selector = SoundSelector(self.architecture.hidden_size, INNER, HEADS)
        rates: list[tuple[nn.Module, float]] = [(self.selector, 1e-3)]
        if decoder:
            rates.append((self.model.model.language_model.layers, 3e-4))
        self.learn(rates, steps)

    @property
    def added(self) -> nn.Module:
        """The selector."""
        return self.selector

    def fits(self, batch: TrainingBatch) -> bool:
        """With picture and sound."""
        return batch.pixel_values is not None and batch.mel is not None

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Cross entropy of the answers, at one of three pairs of shares."""
        ratios = RATIOS[int(self.rng.integers(len(RATIOS)))]
        logits = sifted_logits(
            self.model, batch, sift_prefix(self.model, self.selector, batch, ratios)
        )
        return cross_entropy(logits, batch.target[batch.target != IGNORE])


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + cos(pi * min(1.0, (step - warm) / max(1, steps - warm))))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = recipe("Train OmniSIFT's selector for a checkpoint.", steps=600)
    parser.add_argument("--decoder", action="store_true", help="tune the decoder, too")
    options = parser.parse_args(arguments)
    trainer = SiftTrainer(
        options.model, seed=options.seed, steps=options.steps, decoder=options.decoder
    )
    run(trainer, options.steps, options.out)


if __name__ == "__main__":
    main()
