"""Train OmniSIFT's selector for a checkpoint, on generated clips (arXiv 2602.04804).

    python -m seats_cli.training.sift --out runs/sift

writes the checkpoint with `omnisift.safetensors` beside its weights: a folder for `--model`, with
`--method omnisift`. The video's rule has nothing to learn. Scores of sound reach the loss by a
straight-through estimate: a token that stays is multiplied by 1, with the gradient of its score.

As published: what is scored and how the scores get their gradient, the cross entropy of the answers
alone, frozen encoders, a decoder that learns with the selector (`--decoder`; compare other methods
on that same checkpoint then), and the shares of 35 and 25 %. Ours: the third pair of shares, one of
the three drawn for each batch; AdamW at 1e-3 for the selector and 3e-4 for the decoder, weight
decay 0.01, cosine to 0 (the paper: 1e-5, 0.47 cycles of it, 107 K captioned videos); 128 pairs of a
clip and a question in a step (16 clips; the paper: 128 captions); `--selector-steps` in which the
selector learns alone, so that the decoder does not follow a random one; and of the decoder the
layers only, since embeddings that are the head at the same time would move for the few words of
these answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor, nn

from seats_cli.errors import UsageError
from seats_cli.selection.method import Modality
from seats_cli.selection.methods.omnisift import (
    SoundSelector,
    keep_sound,
    keep_video,
    sound_groups,
)
from seats_cli.selection.windows import split_grids
from seats_cli.training.forward import Thinker, encode, packed_mask, prefix_positions, run_layers
from seats_cli.training.held_out import Answers, packed_answers
from seats_cli.training.method_trainer import (
    SHARES,
    MethodSettings,
    MethodTrainer,
    recipe,
    run_recipe,
)
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.training.objective import WorkerGroup
from seats_cli.world.vocabulary import IGNORE

# Shares kept of video and sound: of the published 35 and 25 %, and about 10 %.
RATIOS = ((0.33, 0.60), (0.23, 0.50), (0.06, 0.30))
INNER, HEADS = 64, 4  # of a selector for small models; the 7B's has 512 and 8


@dataclass(frozen=True)
class SiftSettings(MethodSettings):
    """A run of this recipe."""

    pairs: int = 128
    questions: int = 8
    decoder: bool = False  # whether it learns, too
    selector_steps: int = 0  # of all steps, those at first in which the decoder does not
    ratios: tuple[tuple[float, float], ...] = RATIOS  # shares kept, one pair for each batch

    def check(self) -> None:
        """Refuse what cannot be run.

        Raises
        ------
        UsageError
        """
        super().check()
        if not 0 <= self.selector_steps < self.steps:
            raise UsageError(
                f"`selector_steps` is {self.selector_steps}, of {self.steps} `steps`: it is from 0 "
                "to below them."
            )
        if self.selector_steps and not self.decoder:
            raise UsageError(
                "`selector_steps` needs `decoder`: without, all steps are of that kind."
            )
        if not self.ratios or not all(0.0 < share <= 1.0 for pair in self.ratios for share in pair):
            raise UsageError("`ratios` are shares above 0 and up to 1 of video and sound.")


@dataclass
class SiftedPrefix:
    """What a clip's prompt is after selection, for B clips."""

    kept: Tensor  # LongTensor (B, k): places in the prefix, ascending
    states: Tensor  # (B, k, width): embeddings there, sound multiplied by its mask
    scores: Tensor  # (B, sound tokens), in 0..1; 1 where a group has nothing to choose from


# Scores (n,) in 0..1 of sound (n, D) beside the kept video (m, D) of its group.
Scoring = Callable[[Tensor, Tensor], Tensor]


def sift_prefix(
    model: Thinker, scoring: Scoring, batch: TrainingBatch, ratios: tuple[float, float]
) -> SiftedPrefix:
    """Select in the clips of a batch as `omnisift` does, with gradients for the selector.

    Parameters
    ----------
    scoring : callable
        The selector, or what stands in its place.
    batch : TrainingBatch
        With picture and sound.
    ratios : (float, float)
        Shares of video and of sound that stay.
    """
    ids, config = batch.prefix_ids, model.config
    with torch.no_grad():  # the encoders are frozen
        video, audio = encode(model, batch)
    assert video is not None
    assert audio is not None
    prefix = model.model.language_model.embed_tokens(ids)
    is_video, is_audio = ids == config.video_token_id, ids == config.audio_token_id
    grids, rows, columns = batch.layout.grid_thw
    per_grid = rows * columns // 4
    seen = Modality(is_video, (grids * per_grid,), grids=(per_grid,))
    # Groups are the same for all clips of a batch, which share a layout.
    heard = Modality(is_audio, (audio.shape[1],))
    of_sound, of_video = sound_groups(seen, heard, prefix_positions(model, batch)[0])
    places, states, scores = [], [], []
    for clip in range(batch.size):
        # 1. The video, and the sound of each group by what stays of it.
        stays = keep_video(video[clip], split_grids(seen), ratios[0])
        chosen, score = keep_sound(
            audio[clip], video[clip, stays], of_sound, of_video[stays], ratios[1], scoring
        )
        # 2. Forward the mask is 1 or 0, backward it is the score.
        mask = (chosen.float() - score).detach() + score
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


def at_random(audio: Tensor, video: Tensor) -> Tensor:
    """In the selector's place: any sound, the same whenever the clip is the same."""
    generator = torch.Generator().manual_seed(int(1e3 * float(audio.abs().sum())))
    return torch.rand(len(audio), generator=generator)


def by_attention(audio: Tensor, video: Tensor) -> Tensor:
    """In the selector's place: the attention that the video's embeddings pay to the sound's."""
    products: Tensor = video @ audio.T / sqrt(audio.shape[1])
    return products.softmax(dim=-1).mean(dim=0)


class SiftTrainer(MethodTrainer):
    """A selector beside a model.

    Parameters
    ----------
    settings : SiftSettings, optional
    workers : WorkerGroup, optional
        As for `MethodTrainer`.
    """

    method = "omnisift"
    settings: SiftSettings

    def __init__(
        self, settings: SiftSettings | None = None, workers: WorkerGroup | None = None
    ) -> None:
        own = settings or SiftSettings()
        super().__init__(own, workers)
        width, given = self.architecture.hidden_size, self.stored()
        if given is None:
            torch.manual_seed(own.seed)
            self.selector = SoundSelector(width, INNER, HEADS)
        else:
            self.selector = SoundSelector.of(given, width)
        rates: list[tuple[nn.Module, float, int]] = [(self.selector, 1e-3, 0)]
        if own.decoder:
            rates.append((self.model.model.language_model.layers, 3e-4, own.selector_steps))
        alone = own.selector_steps
        self.learn(rates, (alone, own.steps - alone) if alone else (own.steps,))

    @property
    def added(self) -> nn.Module:
        """The selector."""
        return self.selector

    def facts(self) -> dict[str, str]:
        """The heads, which no shape tells."""
        return {"heads": str(self.selector.cross_attn.num_heads)}

    def fits(self, batch: TrainingBatch) -> bool:
        """With picture and sound."""
        return batch.pixel_values is not None and batch.mel is not None

    def answers(self, batch: TrainingBatch, number: int) -> Answers:
        """At one of the pairs of shares."""
        ratios = self.settings.ratios
        drawn = ratios[int(self.generator(SHARES, number).integers(len(ratios)))]
        return self._sifted(batch, drawn, self.selector)

    def _sifted(
        self, batch: TrainingBatch, ratios: tuple[float, float], scoring: Scoring
    ) -> Answers:
        prefix = sift_prefix(self.model, scoring, batch, ratios)
        return packed_answers(batch, sifted_logits(self.model, batch, prefix))

    def _blind(self, audio: Tensor, video: Tensor) -> Tensor:
        """The selector without what it sees."""
        scores: Tensor = self.selector(audio, torch.zeros_like(video))
        return scores

    @property
    def conditions(self) -> tuple[str, ...]:
        """Unpruned, and each pair of shares by the selector and by what it has to be better than.

        Those are the same selector without a picture, any sound, and plain attention.
        """
        pairs = [f"{100 * video:g}/{100 * audio:g}" for video, audio in self.settings.ratios]
        return ("start", *(f"{pair} {by}" for pair in pairs for by in self._scorings()))

    def _scorings(self) -> dict[str, Scoring]:
        return {
            "selector": self.selector,
            "blind": self._blind,
            "random": at_random,
            "attention": by_attention,
        }

    def under(self, condition: str, batch: TrainingBatch) -> Answers:
        """The answers at one of the pairs of shares, or unpruned."""
        pair, _, by = condition.partition(" ")
        ratios = (1.0, 1.0)
        if pair != "start":
            video, audio = (float(part) / 100 for part in pair.split("/"))
            ratios = (video, audio)
        with self.running():
            return self._sifted(batch, ratios, self._scorings()[by or "selector"])


def _ratios(text: str) -> tuple[tuple[float, float], ...]:
    """`33/60,23/50` as shares."""
    pairs = [part.split("/") for part in text.split(",")]
    return tuple((float(video) / 100, float(audio) / 100) for video, audio in pairs)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    usual = SiftSettings()
    parser = recipe("Train OmniSIFT's selector for a checkpoint.", usual)
    parser.add_argument("--decoder", action="store_true", help="tune the decoder, too")
    parser.add_argument(
        "--selector-steps", type=int, default=0, help="the selector alone, before the decoder"
    )
    parser.add_argument(
        "--ratios",
        type=_ratios,
        default=RATIOS,
        metavar="VIDEO/SOUND,...",
        help="per cent kept, a pair drawn for each batch (33/60,23/50,6/30)",
    )
    options = parser.parse_args(arguments)
    settings = SiftSettings(
        model=options.model,
        seed=options.seed,
        steps=options.steps,
        pairs=options.pairs,
        checks=options.checks,
        decoder=options.decoder,
        selector_steps=options.selector_steps,
        ratios=options.ratios,
    )
    run_recipe(parser, options, SiftTrainer, settings)


if __name__ == "__main__":
    main()
