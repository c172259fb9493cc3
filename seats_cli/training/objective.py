"""What a training step minimises, and how its parameters are updated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, rms_norm

from seats_cli.training.dense import CARD_CLASS, CLASSES, NAMES
from seats_cli.training.forward import Hops, Thinker, Thinning, encode, packed_forward
from seats_cli.training.hyperparameters import Hyperparameters
from seats_cli.training.minibatch import TrainingBatch
from seats_cli.world.vocabulary import IGNORE


def split_parameters(
    modules: Iterable[nn.Module],
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(hidden matrices for Muon, the rest for AdamW); embeddings count as the rest."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            if "audio_bos_eos_token" in name:  # a leftover of the architecture, never used
                continue
            hidden = parameter.ndim == 2 and "embed_tokens" not in name
            (matrices if hidden else rest).append(parameter)
    return matrices, rest


_QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the iteration, as published with Muon
_ITERATIONS = 5


def orthogonalised(updates: torch.Tensor) -> torch.Tensor:
    """Matrices (k, rows, columns) with their singular values brought near 1, in float32."""
    tall = updates.shape[1] > updates.shape[2]
    matrices = updates.transpose(1, 2) if tall else updates
    norms = matrices.flatten(1).norm(dim=1)
    matrices = matrices / (norms[:, None, None] + 1e-7)
    first, third, fifth = _QUINTIC
    for _ in range(_ITERATIONS):
        square = matrices @ matrices.mT
        matrices = first * matrices + (third * square + fifth * square @ square) @ matrices
    result: torch.Tensor = matrices.transpose(1, 2) if tall else matrices
    return result


class Muon(torch.optim.Optimizer):
    """Muon in float32, with matrices of one shape updated together.

    torch's own casts to bfloat16, which a CPU without such units multiplies 25 times as slowly: a
    step of the optimiser then took longer than the forward and backward pass.

    Parameters
    ----------
    params : iterable of nn.Parameter
        Matrices.
    lr : float
        Learning rate; weights decay by `lr * weight_decay` per step.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        *,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                updates = orthogonalised(
                    torch.stack([self._direction(p, group["momentum"]) for p in parameters])
                )
                rate = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-rate)

    def _direction(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        """Gradient with Nesterov momentum."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)


@dataclass(frozen=True)
class WorkerGroup:
    """This process's place among the workers."""

    rank: int = 0
    size: int = 1

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every gradient by the mean over the workers (a missing one counts as 0)."""
        if self.size == 1:
            return
        gradients = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        pieces = torch.split(flat / self.size, [gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def agree(self, value: float) -> float:
        """The first worker's value, so that all wait at the same step."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return shared.item()

    def total(self, counts: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over the workers."""
        if self.size > 1:
            dist.all_reduce(counts)
        return counts


# Labels whose class 0 fills most of the clip: their accuracy is stated on the rest.
_MOSTLY_ZERO = {("video", name) for name in CLASSES["video"]}
_MOSTLY_ZERO |= {("audio", "kind"), ("audio", "word"), ("video_context", "place")}
_MOSTLY_ZERO.add(("audio_context", "screen_print"))
# Empty cells, cards and silence are many and easy; at full weight they drown the rest.
_DULL_WEIGHT = 0.15


def _class_weights(part: str, name: str, classes: int) -> torch.Tensor:
    """Weights (classes,) of a label's classes in its loss."""
    weights = torch.ones(classes)
    if (part, name) in _MOSTLY_ZERO:
        weights[0] = _DULL_WEIGHT
    if (part, name) == ("video", "shape"):
        weights[CARD_CLASS] = _DULL_WEIGHT
    return weights


class DenseHeads(nn.Module):
    """One linear read-out per label, of hidden states of `width`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                f"{part}_{name}": nn.Linear(width, classes)
                for part, names in CLASSES.items()
                for name, classes in names.items()
            }
        )

    def forward(
        self, part: str, hidden: torch.Tensor, labels: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Summed loss () and accuracies of one part of `CLASSES`.

        `hidden` is (..., width), each of the int64 labels (...). The accuracies are named
        "part.name" and left out where nothing is labelled.
        """
        states = rms_norm(hidden, hidden.shape[-1:])
        loss = hidden.new_zeros(())
        accuracy: dict[str, float] = {}
        for name in CLASSES[part]:
            truth = labels[name].flatten()
            known = truth != IGNORE
            if not bool(known.any()):
                continue
            scores = self.heads[f"{part}_{name}"](states.flatten(0, -2)[known]).float()
            weights = _class_weights(part, name, scores.shape[-1])
            loss = loss + cross_entropy(scores, truth[known], weights)
            counted = weights[truth[known]] == 1.0
            if bool(counted.any()):
                right = scores.argmax(-1)[counted] == truth[known][counted]
                accuracy[f"{part}.{name}"] = right.float().mean().item()
        return loss, accuracy


# Where a token is is one of few names and soon right, but so faint that nobody could fetch it.
_NAMING_WEIGHTS = {"place": 3.0}


class Naming:
    """Teaches states to say, through the LM's own head, what their token shows.

    Without it the layers of the decoder bury a word under states that are seven times as large, and
    700 steps do not bring a single word to the answers. With it, what an answer consists of lies in
    a token's state as the head reads it, so that attention only has to fetch it.

    Parameters
    ----------
    tokenizer : tokenizer
        Of the run; every name is one token in it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokens = {
            part: {
                name: torch.tensor([_alone_and_behind_a_blank(tokenizer, word) for word in words])
                for name, words in names.items()
            }
            for part, names in NAMES.items()
        }

    def loss(
        self,
        model: Thinker,
        part: str,
        hidden: torch.Tensor,
        labels: Mapping[str, torch.Tensor],
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Summed loss () and accuracies of one part of `NAMES`, with states as in `DenseHeads`.

        Each kind of name is a choice of its own: a red square has a colour and a shape.
        """
        loss = hidden.new_zeros(())
        accuracy: dict[str, float] = {}
        for name, tokens in self._tokens[part].items():
            truth = labels[name].flatten() - 1
            known = (truth >= 0) & (truth < len(tokens))
            if not bool(known.any()):
                continue
            states = model.model.language_model.norm(hidden.flatten(0, -2)[known])
            scores = (states @ model.lm_head.weight[tokens].mean(dim=1).T).float()
            weight = _NAMING_WEIGHTS.get(name, 1.0)
            loss = loss + weight * cross_entropy(scores, truth[known])
            right = scores.argmax(-1) == truth[known]
            accuracy[f"named.{part}.{name}"] = right.float().mean().item()
        return loss, accuracy


def _alone_and_behind_a_blank(tokenizer: Any, word: str) -> list[int]:
    """The token of a word at the beginning of an answer, and within a list."""
    (first,) = tokenizer.encode(word)
    later = tokenizer.encode(f" {word}")
    return [first, later[-1]]  # a digit is the same token behind that of a blank


Figures = dict[str, float]  # for the log, by name


def draw_thinning(
    rng: np.random.Generator, progress: float, settings: Hyperparameters, *, long: bool = False
) -> Thinning:
    """Drops of one step; `long` for a clip that is too long to see as a whole.

    Most steps leave out tokens that no answer is read from: that makes them cheap, and the model
    used to gaps. `settings.whole_share` of the steps see all. Late layers that do not see the clip,
    and drops that take evidence as well, come in with `progress`, the share of the phase done.
    """
    strength = min(1.0, progress / settings.thin_from)
    cut = None
    if rng.random() < settings.cut_share * strength:
        cut = int(rng.choice(settings.cut_layers))
    if not long and rng.random() < settings.whole_share:
        return Thinning(cut_layer=cut)
    least = settings.long_drop if long else 0.4
    return Thinning(
        video_drop=float(rng.uniform(least, settings.max_video_drop)),
        audio_drop=float(rng.uniform(0, settings.max_audio_drop)) * strength,
        keep_evidence=rng.random() > settings.careless_share * strength,
        cut_layer=cut,
    )


def encoder_loss(
    model: Thinker, heads: DenseHeads, naming: Naming, batch: TrainingBatch, naming_weight: float
) -> tuple[torch.Tensor, Figures]:
    """Loss of the encoders' own heads, and of the names of what they see and hear."""
    video, audio = encode(model, batch)
    states = {"video": video, "audio": audio}
    loss, figures = _head_losses(heads, states, batch.labels)
    for part, hidden in states.items():
        if hidden is not None:
            names, name_figures = naming.loss(model, part, hidden, batch.labels[part])
            loss = loss + naming_weight * names
            figures.update(name_figures)
    return loss, {"loss": loss.item(), **figures}


def joint_loss(
    model: Thinker,
    heads: DenseHeads,
    naming: Naming,
    batch: TrainingBatch,
    thinning: Thinning,
    settings: Hyperparameters,
) -> tuple[torch.Tensor, Figures]:
    """Answers, encoder heads, context heads, names and the taught attention, weighted."""
    output = packed_forward(model, batch, thinning=thinning)
    answers = cross_entropy(output.logits.float(), batch.target[batch.target != IGNORE])
    states = {"video": output.video, "audio": output.audio}
    encoders, figures = _head_losses(heads, states, batch.labels)
    middle = dict.fromkeys(("video_context", "audio_context"), output.middle)
    context, context_figures = _head_losses(heads, middle, output.labels)
    names = torch.zeros(())
    for part, hidden in states.items():
        if hidden is not None:
            names = names + naming.loss(model, part, hidden, batch.labels[part])[0]
    for part in NAMES:
        named, name_figures = naming.loss(model, part, output.middle, output.labels[part])
        names = names + named
        figures.update(name_figures)
    loss = (
        answers
        + settings.encoder_head_weight * encoders
        + settings.context_head_weight * context
        + settings.naming_weight * names
    )
    if output.hops is not None:
        hops, hop_figures = _hop_losses(model, naming, output.hops, settings)
        loss = loss + hops
        figures.update(hop_figures)
    return loss, {"answer": answers.item(), **figures, **context_figures}


def _hop_losses(
    model: Thinker, naming: Naming, hops: Hops, settings: Hyperparameters
) -> tuple[torch.Tensor, Figures]:
    """The taught attention, what it fetched, and the answer on its way to the question's end."""
    figures: Figures = {"lookup": hops.lookup.item()}
    total = settings.lookup_weight * hops.lookup
    for part in NAMES:
        loss, found = naming.loss(model, part, hops.fetched, hops.found[part])
        total = total + settings.fetched_weight * loss
        figures.update({name.replace("named", "fetched"): value for name, value in found.items()})
    for name, states, answers in (
        ("told", hops.told, hops.told_answers),
        ("relayed", hops.relayed, hops.relayed_answers),
    ):
        known = answers != IGNORE
        if bool(known.any()):
            logits = model.lm_head(model.model.language_model.norm(states[known])).float()
            total = total + settings.told_weight * cross_entropy(logits, answers[known])
            right = logits.argmax(-1) == answers[known]
            figures[name] = right.float().mean().item()
    return total, figures


def _head_losses(
    heads: DenseHeads,
    states: Mapping[str, torch.Tensor | None],
    labels: Mapping[str, Mapping[str, torch.Tensor]],
) -> tuple[torch.Tensor, Figures]:
    total = torch.zeros(())
    figures: Figures = {}
    for part, hidden in states.items():
        if hidden is not None:
            loss, accuracy = heads(part, hidden, labels[part])
            total = total + loss
            figures.update(accuracy)
    return total, figures
