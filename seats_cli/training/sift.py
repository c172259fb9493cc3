"""Train OmniSIFT's selector for a checkpoint, on generated clips (arXiv 2602.04804).

    python -m seats_cli.training.sift --out runs/sift

writes the checkpoint with `omnisift.safetensors` beside its weights: a folder for `--model`, with
`--method omnisift`. The video's rule has nothing to learn. Scores of sound reach the loss by a
straight-through estimate: a token that stays is multiplied by 1, with the gradient of its score.
Encoders are frozen; the decoder is, too, unless `--decoder` tunes it with the selector (the
published recipe; compare other methods on that same checkpoint then). Drawn for each step are the
clips and one of three published or extrapolated pairs of shares dropped (the last is ours).
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from seats_cli.models.load import load_model
from seats_cli.selection.method import Modality
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


class SiftTrainer:
    """A selector beside a model, and how both are trained.

    Parameters
    ----------
    model : str or None
        The checkpoint to start from, as for `load_model`.
    seed : int
        Of the selector's first weights and of all clips.
    steps : int
        How many there will be, for the learning rate: up for 5 % of them, then down as a cosine.
    decoder : bool
        Whether the decoder learns, too.
    tokens, questions : int
        Of picture and sound in a step, and about each clip.
    level : float
        How difficult clips are, 0..1.
    """

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
        loaded = load_model(model, device="cpu", dtype="float32")
        self.model: Thinker = loaded.model
        self.processor: Any = loaded.processor
        self.model.requires_grad_(False)
        torch.manual_seed(seed)
        self.selector = SoundSelector(loaded.architecture.hidden_size, INNER, HEADS)
        groups = [{"params": list(self.selector.parameters()), "lr": 1e-3}]
        self.decoder = decoder
        if decoder:
            learning = list(self.model.model.language_model.layers.parameters())
            for parameter in learning:
                parameter.requires_grad_(True)
            groups.append({"params": learning, "lr": 3e-4})
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: _rate(step, steps)
        )
        self.rng = np.random.default_rng(seed)
        self.tokens, self.questions, self.level = tokens, questions, level

    def batch(self) -> TrainingBatch:
        """Clips with picture and sound."""
        while True:
            made = training_batch(
                self.rng,
                self.processor,
                tokens=self.tokens,
                questions=self.questions,
                level=self.level,
            )
            if made.pixel_values is not None and made.mel is not None:
                return made

    def step(self, batch: TrainingBatch) -> float:
        """One step; its loss."""
        ratios = RATIOS[int(self.rng.integers(len(RATIOS)))]
        logits = sifted_logits(
            self.model, batch, sift_prefix(self.model, self.selector, batch, ratios)
        )
        loss = cross_entropy(logits, batch.target[batch.target != IGNORE])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def save(self, folder: Path) -> None:
        """The checkpoint with the selector beside its weights."""
        folder.mkdir(parents=True, exist_ok=True)
        export(self.model, self.processor, folder)
        tensors = {f"compressor.{name}": x for name, x in self.selector.state_dict().items()}
        save_file(tensors, folder / "omnisift.safetensors")


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + cos(pi * min(1.0, (step - warm) / max(1, steps - warm))))


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train OmniSIFT's selector for a checkpoint.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decoder", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    trainer = SiftTrainer(
        options.model, seed=options.seed, steps=options.steps, decoder=options.decoder
    )
    losses: list[float] = []
    for step in range(1, options.steps + 1):
        losses.append(trainer.step(trainer.batch()))
        if step % 25 == 0:
            log.info("step %d  loss %.3f", step, sum(losses[-25:]) / 25)
    trainer.save(options.out)


if __name__ == "__main__":
    main()
