"""Train EchoingPixels for a checkpoint, on generated clips (arXiv 2512.10324).

    python -m seats_cli.training.echo --out runs/echo

writes a checkpoint for `--model` and `--method echoingpixels`: the decoder, tuned, with the refiner
and the score head in `echoingpixels.safetensors` beside it. Its config.json names the sections of
Sync-RoPE, which every run of that checkpoint then has, whatever its method.

The decoder is fed with states that it has not seen before, and turns by other angles: the first
steps prune nothing, until it answers again. Encoders are frozen, all else learns: what leaves the
refiner replaces the embeddings of text, too, so that these move with it.

As published: refiner, head, pool and Sync-RoPE; a refiner that sees the question and not the answer
(answers are left out of its keys, and their states are put back), so that a clip is a row for each
of its questions; scores that reach the loss by a straight-through estimate, by the softmax over all
candidates; the cross entropy of the answers alone. Ours: `--warm-up`, the steps without pruning; a
share of 5, 10, 20 or 30 % drawn for each batch (published: `--retain 0.2`); two refiner layers
(published: 4 beside 28 or 36 decoder layers); AdamW at 3e-4, 1e-3 for the head, weight decay 0.01,
cosine to 0 (the authors: 2e-5); 16 pairs of a clip and a question in a step; `--plain`.

Ablations: `--layers 0`, `--copy last`, `--stock-rope`, `--tau` and `--gumbel`. A refiner that is
`--causal` or `--blind-to-question` works in another way, which the engine does not know: its
weights get a name that no method reads, and its result is the accuracy in training.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seats_cli.errors import UsageError
from seats_cli.models.optimize import sync_sections
from seats_cli.selection.methods.echoingpixels import Sieve, layer_of, pool_budget
from seats_cli.selection.topk import keep_highest
from seats_cli.training.forward import Thinker, encode, packed_mask, prefix_positions, run_layers
from seats_cli.training.held_out import Answers
from seats_cli.training.method_trainer import (
    KINDS,
    NOISE,
    SHARES,
    MethodSettings,
    MethodTrainer,
    recipe,
    run_recipe,
)
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.training.objective import WorkerGroup
from seats_cli.world.vocabulary import IGNORE

RETAINED = (0.05, 0.1, 0.2, 0.3)  # shares of the tokens, one of them for each batch
LAYERS = 2  # of the refiner, if there is none yet


@dataclass(frozen=True)
class EchoSettings(MethodSettings):
    """A run of this recipe."""

    steps: int = 1500
    warm_up: int = 400  # steps without pruning, at first
    retain: float | None = None  # share that stays in every step after them; None draws it
    layers: int | None = None  # of a new refiner, `LAYERS` of them; None takes what there is
    copy: str = "first"  # decoder layers that a new refiner starts as: the first, or the last one
    sync: bool = True  # whether the checkpoint is to have Sync-RoPE
    # Share of the batches in which the decoder is given the embeddings as they are, and all of
    # them: methods without a refiner run on it, too, and the published recipe has none of these.
    plain: float = 0.0
    tau: float = 1.0  # temperature of the scores' softmax
    gumbel: bool = False  # noise on the scores
    blind: bool = False  # whether the refiner does without the question
    causal: bool = False  # whether it sees of the prompt what came before

    def check(self) -> None:
        """Refuse what cannot be run.

        Raises
        ------
        UsageError
        """
        super().check()
        if not 0 <= self.warm_up < self.steps:
            raise UsageError(
                f"`warm_up` is {self.warm_up}, of {self.steps} `steps`: without steps that prune, "
                "the score head stays as it was drawn."
            )
        if self.retain is not None and not 0.0 < self.retain <= 1.0:
            raise UsageError(f"`retain` is {self.retain}: it is a share above 0 and up to 1.")
        if not 0.0 <= self.plain < 1.0:
            raise UsageError(f"`plain` is {self.plain}: it is a share from 0 to below 1.")
        if not self.tau > 0.0:
            raise UsageError(f"`tau` is {self.tau}: it has to be above 0.")


@dataclass(frozen=True)
class QuestionRows:
    """R pairs of a clip and one question about it: the text behind the clips' common prefix."""

    clip: Tensor  # LongTensor (R,): clip of the batch
    ids: Tensor  # LongTensor (R, Q), as the next two: question and answer, padded on the right
    position: Tensor  # counted from the end of the prefix
    target: Tensor  # next token, `IGNORE` outside of the answers
    asked: Tensor  # bool (R, Q): the question with the chat template, without answer and padding

    @classmethod
    def of(cls, batch: TrainingBatch) -> QuestionRows:
        """One for every question of a batch."""
        rows = [
            (clip, (numbers == number).nonzero()[:, 0])
            for clip, numbers in enumerate(batch.question_number)
            for number in range(1, int(numbers.max()) + 1)
        ]
        longest = max(len(places) for _, places in rows)

        def laid_out(values: Tensor, padding: int) -> Tensor:
            lines = torch.full((len(rows), longest), padding)
            for line, (clip, places) in zip(lines, rows, strict=True):
                line[: len(places)] = values[clip, places]
            return lines

        target = laid_out(batch.target, IGNORE)
        # The token behind one that is answered for is the answer itself.
        answer = torch.zeros_like(target, dtype=torch.bool)
        answer[:, 1:] = target[:, :-1] != IGNORE
        return cls(
            torch.tensor([clip for clip, _ in rows]),
            laid_out(batch.question_ids, 0),
            laid_out(batch.position, 0),
            target,
            (laid_out(batch.question_number, 0) > 0) & ~answer,
        )


@dataclass(frozen=True)
class Prompts:
    """R rows of S tokens, the P of the prefix in front."""

    states: Tensor  # (R, S, width): what enters the decoder if nothing is dropped
    positions: Tensor  # LongTensor (3, R, S)
    pool: Tensor  # LongTensor (N,): places of picture and sound, the same in all rows
    prefix: int  # P


def refined_prompts(
    model: Thinker,
    sieve: Sieve | None,
    batch: TrainingBatch,
    rows: QuestionRows,
    *,
    blind: bool = False,
    causal: bool = False,
) -> Prompts:
    """Prompts with answers, refined as `echoingpixels` does it; as they are without a sieve.

    With `blind`, the question is treated as answers are; with `causal`, every token sees those
    before it alone. To be called inside of `sync_rope`, as everything that runs the decoder.
    """
    ids, config, language = batch.prefix_ids, model.config, model.model.language_model
    with torch.no_grad():  # the encoders are frozen, and see each clip once
        video, audio = encode(model, batch)
    prefix = language.embed_tokens(ids).expand(batch.size, -1, -1).clone()
    if video is not None:
        prefix[:, ids == config.video_token_id] = video
    if audio is not None:
        prefix[:, ids == config.audio_token_id] = audio
    pool = ((ids == config.video_token_id) | (ids == config.audio_token_id)).nonzero()[:, 0]
    before = prefix_positions(model, batch)
    behind = rows.position + int(before.max()) + 1
    count = len(rows.clip)
    positions = torch.cat([before[:, None].expand(-1, count, -1), behind.expand(3, -1, -1)], dim=2)
    states = torch.cat([prefix[rows.clip], language.embed_tokens(rows.ids)], dim=1)
    if sieve is not None:
        asked = torch.zeros_like(rows.asked) if blind else rows.asked
        seen = torch.cat([torch.ones(count, len(ids), dtype=torch.bool), asked], dim=1)
        visible = (
            seen[:, None] & packed_mask(torch.zeros_like(seen).long())[:, 0] if causal else seen
        )
        refined = sieve(states, language.rotary_emb(states, positions), visible)
        states = torch.where(seen[..., None], refined, states)
    return Prompts(states, positions, pool, len(ids))


def kept_tokens(
    sieve: Sieve, prompts: Prompts, share: float, *, tau: float = 1.0, noise: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose of each row's pool, with gradients for the scores.

    Parameters
    ----------
    share : float
        Of the pool that stays.
    tau : float
        Temperature of the softmax.
    noise : Tensor, shape (R, N), optional
        Added to the scores.

    Returns
    -------
    keep : BoolTensor, shape (R, S)
        The tokens that stay; text always does.
    mask : Tensor, shape (R, S)
        1 for them and 0 for the others; backward it is the softmax of the scores.
    """
    size = len(prompts.pool)
    scores = sieve.scores(prompts.states[:, prompts.pool])
    if noise is not None:
        scores = scores + noise
    budget = pool_budget(share * size, size)
    chosen = torch.stack([keep_highest(row, budget) for row in scores.detach()])
    soft = (scores / tau).softmax(dim=-1)
    keep = torch.ones(prompts.states.shape[:2], dtype=torch.bool)
    keep[:, prompts.pool] = chosen
    mask = torch.ones(keep.shape)
    mask[:, prompts.pool] = chosen.float() - soft.detach() + soft
    return keep, mask


def answer_logits(
    model: Thinker, prompts: Prompts, rows: QuestionRows, keep: Tensor, mask: Tensor | None
) -> Tensor:
    """Logits of the answers' tokens, in the order of `target[target != IGNORE]`.

    Parameters
    ----------
    keep : BoolTensor, shape (R, S)
        What enters the decoder, of every row as much.
    mask : Tensor, shape (R, S), or None
        What its states are multiplied by.
    """
    language = model.model.language_model
    count = len(rows.clip)
    places = keep.nonzero()[:, 1].view(count, -1)
    states = prompts.states if mask is None else prompts.states * mask[..., None]
    states = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
    positions = prompts.positions.gather(2, places.expand(3, -1, -1))  # survivors keep theirs
    number = (places >= prompts.prefix).long()
    length = int(number[0].argmax())
    layers = range(len(language.layers))
    states = run_layers(language, states, positions, packed_mask(number), layers, length)
    answers = states[:, length:][rows.target != IGNORE]
    logits: Tensor = model.lm_head(language.norm(answers))
    return logits


class EchoTrainer(MethodTrainer):
    """Refiner and score head beside a model whose decoder learns with them.

    Parameters
    ----------
    settings : EchoSettings, optional
    workers : WorkerGroup, optional
        As for `MethodTrainer`.
    """

    method = "echoingpixels"
    settings: EchoSettings

    def __init__(
        self, settings: EchoSettings | None = None, workers: WorkerGroup | None = None
    ) -> None:
        own = settings or EchoSettings()
        super().__init__(own, workers)
        self._stock, given = self.adapter.own_settings(), self.stored()
        self._goes_on, synced = given is not None, "rope_sections" in self._stock
        if synced and not own.sync:
            raise UsageError("This model has Sync-RoPE already: leave `stock_rope` out.")
        if own.sync and not synced:
            if self._goes_on:
                raise UsageError("The refiner of this model knows no Sync-RoPE: give `stock_rope`.")
            self._set_sections(list(sync_sections(self.architecture.head_dim)))
        if given is None:
            self.sieve = self._copied(LAYERS if own.layers is None else own.layers)
        else:
            self.sieve = Sieve.of(given, self.architecture.hidden_size)
            if own.layers not in (None, len(self.sieve.refiner)):
                raise UsageError(
                    f"`layers` is {own.layers}, and this model has a refiner of "
                    f"{len(self.sieve.refiner)} already, which is trained further."
                )
        rates: list[tuple[nn.Module, float, int]] = [
            (self.model.model.language_model, 3e-4, 0),
            (self.sieve.layers, 3e-4, 0),
            (self.sieve.ln, 1e-3, 0),
            (self.sieve.score_head, 1e-3, 0),
        ]
        if self.model.lm_head.weight is not self.model.get_input_embeddings().weight:
            rates.append((self.model.lm_head, 3e-4, 0))
        self.learn(rates, (own.steps,))

    def _set_sections(self, sections: list[int]) -> None:
        self.model.config.seats = {**self._stock, "rope_sections": sections}

    def _copied(self, count: int) -> Sieve:
        """A refiner that starts as decoder layers do."""
        width, decoder = self.architecture.hidden_size, self.model.model.language_model.layers
        if not 0 <= count <= len(decoder):
            raise UsageError(
                f"`layers` is {count}: the refiner is copied from the decoder, which has "
                f"{len(decoder)}."
            )
        copies = []
        last = self.settings.copy == "last"
        for layer in [decoder[-1]] * count if last else decoder[:count]:
            weights = layer.state_dict()
            copies.append(layer_of(weights, "", width))
            copies[-1].load_state_dict(weights)
        torch.manual_seed(self.settings.seed)  # the head's, however many layers there are
        return Sieve(width, tuple(copies))

    @property
    def added(self) -> nn.Module:
        """Refiner and score head."""
        return self.sieve

    def file_name(self) -> str:
        """Of the added weights: none that a method reads, where none refines like that."""
        own = self.settings
        return self.method + "-blind" * own.blind + "-causal" * own.causal

    def answers(self, batch: TrainingBatch, number: int) -> Answers:
        """After the warm-up, at a share that is drawn or given; some of them plain."""
        own, share = self.settings, self.settings.retain
        if share is None:
            share = RETAINED[int(self.generator(SHARES, number).integers(len(RETAINED)))]
        plain = self.generator(KINDS, number).random() < own.plain
        warm = self.steps_done < own.warm_up
        noise = self.generator(NOISE, number) if own.gumbel else None
        return self._asked(batch, None if plain or warm else share, plain=plain, noise=noise)

    def _asked(
        self,
        batch: TrainingBatch,
        share: float | None,
        *,
        plain: bool = False,
        noise: Any = None,
    ) -> Answers:
        """The answers with a share of the tokens, all of them without one."""
        own, rows = self.settings, QuestionRows.of(batch)
        sieve = None if plain else self.sieve
        prompts = refined_prompts(
            self.model, sieve, batch, rows, blind=own.blind, causal=own.causal
        )
        if share is None:
            keep, mask = torch.ones(prompts.states.shape[:2], dtype=torch.bool), None
        else:
            drawn = None
            if noise is not None:
                drawn = torch.from_numpy(noise.gumbel(size=(len(rows.clip), len(prompts.pool))))
                drawn = drawn.float()
            keep, mask = kept_tokens(self.sieve, prompts, share, tau=own.tau, noise=drawn)
        logits = answer_logits(self.model, prompts, rows, keep, mask)
        answered = rows.target != IGNORE
        return Answers(logits, rows.target[answered], answered.nonzero()[:, 0])

    @property
    def conditions(self) -> tuple[str, ...]:
        """Everything refined, each share, and what methods without a refiner start from."""
        shares = RETAINED if self.settings.retain is None else (self.settings.retain,)
        return ("refined", *(f"{100 * share:g} %" for share in shares), "plain")

    def milestones(self) -> dict[int, tuple[str, str]]:
        """The end of the warm-up."""
        return {self.settings.warm_up: ("after the warm-up", "refined")}

    def under(self, condition: str, batch: TrainingBatch) -> Answers:
        """The answers with everything, refined or plain, or with a share."""
        if condition == "start":
            with self._as_it_was(), self.running():
                return self._asked(batch, None, plain=not self._goes_on)
        with self.running():
            if condition in ("refined", "plain"):
                return self._asked(batch, None, plain=condition == "plain")
            return self._asked(batch, float(condition.removesuffix(" %")) / 100)

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """With the angles that the model had."""
        seats = self.model.config.seats
        self.model.config.seats = self._stock
        try:
            yield
        finally:
            self.model.config.seats = seats

    def warnings(self) -> list[str]:
        """Those of every recipe, and that other methods have nothing to go by."""
        said = super().warnings()
        if not self.settings.plain:
            said.append(
                "The decoder knows refined embeddings only: `full` and other methods on this model "
                "are no comparison (`plain` gives it the others, too)."
            )
        return said


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    usual = EchoSettings()
    parser = recipe("Train EchoingPixels for a checkpoint.", usual)
    add = parser.add_argument
    add("--warm-up", type=int, default=usual.warm_up, help="steps without pruning, at first")
    add("--retain", type=float, help="fixed share that stays; drawn by default")
    add("--layers", type=int, help=f"of a new refiner ({LAYERS})")
    add("--copy", choices=("first", "last"), default="first", help="decoder layers it starts as")
    add("--stock-rope", action="store_true", help="without Sync-RoPE")
    add("--plain", type=float, default=0.0, help="share of batches without refiner")
    add("--tau", type=float, default=1.0, help="temperature of the scores' softmax")
    add("--gumbel", action="store_true", help="noise on the scores")
    add("--blind-to-question", action="store_true", help="a refiner without the question")
    add("--causal", action="store_true", help="a refiner that sees what came before")
    options = parser.parse_args(arguments)
    settings = EchoSettings(
        model=options.model,
        seed=options.seed,
        steps=options.steps,
        pairs=options.pairs,
        checks=options.checks,
        warm_up=options.warm_up,
        retain=options.retain,
        layers=options.layers,
        copy=options.copy,
        sync=not options.stock_rope,
        plain=options.plain,
        tau=options.tau,
        gumbel=options.gumbel,
        blind=options.blind_to_question,
        causal=options.causal,
    )
    run_recipe(parser, options, EchoTrainer, settings)


if __name__ == "__main__":
    main()
