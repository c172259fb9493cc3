"""Train EchoingPixels for a checkpoint, on generated clips (arXiv 2512.10324).

    python -m seats_cli.training.echo --out runs/echo

writes a checkpoint for `--model` and `--method echoingpixels`: the decoder, tuned, with the refiner
and the score head in `echoingpixels.safetensors` beside it. Its config.json names the sections of
Sync-RoPE, which every run of that checkpoint then has, whatever its method.

The decoder is fed with states that it has not seen before, and turns by other angles: the first
steps prune nothing, until it answers again. After them each step keeps 5, 10, 20 or 30 % of the
tokens (`--retain 0.2` is the published, fixed share). The refiner sees the question, so that a
clip is a row for each of its two questions. It must not see the answer: answers are left out of its
keys, and their states are put back. Scores reach the loss by a straight-through estimate, by the
softmax over all candidates. Encoders are frozen, all else learns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seats_cli.errors import ModelError
from seats_cli.families.checkpoint_folder import find_folder
from seats_cli.families.registry import BUNDLED
from seats_cli.models.method_weights import stored_for, weights_for
from seats_cli.models.optimize import sync_sections
from seats_cli.selection.methods.echoingpixels import Sieve, layer_of, pool_budget
from seats_cli.selection.topk import keep_highest
from seats_cli.training.forward import Thinker, encode, packed_mask, prefix_positions, run_layers
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.training.sift import MethodTrainer, recipe, run
from seats_cli.world.vocabulary import IGNORE

SHARES = (0.05, 0.1, 0.2, 0.3)  # of the tokens, one of them in each step
QUESTIONS = 2  # about each clip


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
    model: Thinker, sieve: Sieve | None, batch: TrainingBatch, rows: QuestionRows
) -> Prompts:
    """Prompts with answers, refined as `echoingpixels` does it; as they are without a sieve.

    To be called inside of `sync_rope`, as everything that runs the decoder.
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
        seen = torch.cat([torch.ones(count, len(ids), dtype=torch.bool), rows.asked], dim=1)
        refined = sieve(states, language.rotary_emb(states, positions), seen)
        states = torch.where(seen[..., None], refined, states)
    return Prompts(states, positions, pool, len(ids))


def kept_tokens(sieve: Sieve, prompts: Prompts, share: float) -> tuple[Tensor, Tensor]:
    """Choose of each row's pool, with gradients for the scores.

    Returns
    -------
    keep : BoolTensor, shape (R, S)
        The tokens that stay; text always does.
    mask : Tensor, shape (R, S)
        1 for them and 0 for the others; backward it is the softmax of the scores.
    """
    size = len(prompts.pool)
    scores = sieve.scores(prompts.states[:, prompts.pool])
    budget = pool_budget(share * size, size)
    chosen = torch.stack([keep_highest(row, budget) for row in scores.detach()])
    soft = scores.softmax(dim=-1)
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

    A checkpoint that has them already is trained further.

    Parameters
    ----------
    model, seed, tokens, questions, level
        As for `MethodTrainer`.
    steps : int
        How many there will be, for the learning rate.
    warm_up : int
        Steps without pruning, at first.
    retain : float or None
        Share of the tokens that stay in every step after them; None draws one of `SHARES`.
    layers : int
        Of the refiner: copies of the decoder's first ones.
    sync : bool
        Whether the checkpoint is to have Sync-RoPE; without, it keeps the rope that it has.
    plain : float
        Share of the steps in which the decoder is given the embeddings as they are, and all of
        them: methods without a refiner run on it, too, and the published recipe has none of these.
    """

    method = "echoingpixels"

    def __init__(
        self,
        model: str | None = None,
        *,
        seed: int = 0,
        steps: int = 3000,
        warm_up: int = 400,
        retain: float | None = None,
        layers: int = 2,
        sync: bool = True,
        plain: float = 0.0,
        tokens: int = 2000,
        questions: int = QUESTIONS,
        level: float = 1.0,
    ) -> None:
        super().__init__(model, seed=seed, tokens=tokens, questions=questions, level=level)
        self.warm_up, self.plain = warm_up, plain
        self.shares = SHARES if retain is None else (retain,)
        self.steps_done = 0
        own = self.adapter.own_settings()
        if sync and "rope_sections" not in own:
            sections = list(sync_sections(self.architecture.head_dim))
            self.model.config.seats = {**own, "rope_sections": sections}
        if stored_for(find_folder(model or BUNDLED).path, self.method):
            given = weights_for(self.adapter, self.method)
            given = {name: value.clone() for name, value in given.items()}
            self.sieve = Sieve.of(given, self.architecture.hidden_size)
        else:
            self.sieve = self._copied(layers)
        rates: list[tuple[nn.Module, float]] = [
            (self.model.model.language_model, 3e-4),
            (self.sieve.layers, 3e-4),
            (self.sieve.ln, 1e-3),
            (self.sieve.score_head, 1e-3),
        ]
        if self.model.lm_head.weight is not self.model.get_input_embeddings().weight:
            rates.append((self.model.lm_head, 3e-4))
        self.learn(rates, steps)

    def _copied(self, count: int) -> Sieve:
        """A refiner that starts as the first decoder layers do."""
        width, decoder = self.architecture.hidden_size, self.model.model.language_model.layers
        if not 0 <= count <= len(decoder):
            raise ModelError(
                f"The refiner is copied from the decoder, which has {len(decoder)} layers and not "
                f"{count}: use fewer `layers`."
            )
        copies = []
        for layer in decoder[:count]:
            weights = layer.state_dict()
            copies.append(layer_of(weights, "", width))
            copies[-1].load_state_dict(weights)
        return Sieve(width, tuple(copies))

    @property
    def added(self) -> nn.Module:
        """Refiner and score head."""
        return self.sieve

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Cross entropy of the answers."""
        warm = self.steps_done < self.warm_up
        self.steps_done += 1
        share = self.shares[int(self.rng.integers(len(self.shares)))]
        plain = self.rng.random() < self.plain
        rows = QuestionRows.of(batch)
        prompts = refined_prompts(self.model, None if plain else self.sieve, batch, rows)
        if warm or plain:
            keep, mask = torch.ones(prompts.states.shape[:2], dtype=torch.bool), None
        else:
            keep, mask = kept_tokens(self.sieve, prompts, share)
        logits = answer_logits(self.model, prompts, rows, keep, mask)
        return cross_entropy(logits, rows.target[rows.target != IGNORE])


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = recipe("Train EchoingPixels for a checkpoint.", steps=3000)
    parser.add_argument("--warm-up", type=int, default=400, help="steps without pruning, at first")
    parser.add_argument("--retain", type=float, help="fixed share that stays; drawn by default")
    parser.add_argument("--layers", type=int, default=2, help="of the refiner")
    parser.add_argument("--stock-rope", action="store_true", help="without Sync-RoPE")
    parser.add_argument("--plain", type=float, default=0.0, help="share of steps without refiner")
    options = parser.parse_args(arguments)
    if options.retain is not None and not 0.0 < options.retain <= 1.0:
        parser.error("--retain is a share above 0 and up to 1")
    if not 0.0 <= options.plain < 1.0:
        parser.error("--plain is a share from 0 to below 1")
    trainer = EchoTrainer(
        options.model,
        seed=options.seed,
        steps=options.steps,
        warm_up=options.warm_up,
        retain=options.retain,
        layers=options.layers,
        sync=not options.stock_rope,
        plain=options.plain,
    )
    run(trainer, options.steps, options.out)


if __name__ == "__main__":
    main()
