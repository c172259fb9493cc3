"""What a training step minimises, and which optimiser trains which parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from seats_cli.training.dense import DenseHeads
from seats_cli.training.forward import Thinker, Thinning, encode, packed_forward
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


Figures = dict[str, float]  # for the log, by name

_THINNED_SHARE = 0.65  # of the steps, at full strength
_CUT_SHARE = 0.65  # of the thinned steps also hide the clip from the late layers
_CUT_ONLY_SHARE = 0.3  # of the thinned steps drop nothing before the LLM


def draw_thinning(rng: np.random.Generator, progress: float, settings: Hyperparameters) -> Thinning:
    """Drops of one step: rare and mild at first, usual from `thin_from` on.

    `progress` is the share of the joint phase that is done.
    """
    strength = min(1.0, progress / settings.thin_from) ** 2
    if rng.random() > _THINNED_SHARE * strength:
        return Thinning()
    cut = int(rng.choice(settings.cut_layers)) if rng.random() < _CUT_SHARE else None
    if rng.random() < _CUT_ONLY_SHARE:
        return Thinning(cut_layer=cut)
    return Thinning(
        video_drop=float(rng.uniform(0, settings.max_video_drop)) * strength,
        audio_drop=float(rng.uniform(0, settings.max_audio_drop)) * strength,
        cut_layer=cut,
    )


def encoder_loss(
    model: Thinker, heads: DenseHeads, batch: TrainingBatch
) -> tuple[torch.Tensor, Figures]:
    """Loss of the encoders' own heads."""
    video, audio = encode(model, batch)
    loss, figures = _head_losses(heads, {"video": video, "audio": audio}, batch.labels)
    return loss, {"loss": loss.item(), **figures}


def joint_loss(
    model: Thinker,
    heads: DenseHeads,
    batch: TrainingBatch,
    thinning: Thinning,
    settings: Hyperparameters,
) -> tuple[torch.Tensor, Figures]:
    """Answers, encoder heads, context heads and the taught lookup, weighted."""
    output = packed_forward(model, batch, thinning=thinning, middle_layer=settings.middle_layer)
    answers = cross_entropy(output.logits, batch.target[batch.target != IGNORE])
    states = {"video": output.video, "audio": output.audio}
    encoders, figures = _head_losses(heads, states, batch.labels)
    middle = dict.fromkeys(output.labels, output.middle)
    context, context_figures = _head_losses(heads, middle, output.labels)
    kinds = batch.lookup_kind[batch.lookup != IGNORE]
    kinds = kinds.repeat(len(output.named) // max(1, len(kinds)))
    named = heads.named_sound(output.named, kinds)
    loss = (
        answers
        + settings.encoder_head_weight * encoders
        + settings.context_head_weight * context
        + settings.lookup_weight * (output.lookup + named)
    )
    parts = {"answer": answers.item(), "lookup": output.lookup.item(), "named": named.item()}
    return loss, {**parts, **figures, **context_figures}


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
