"""Throw-away linear heads: dense supervision in training, not shipped."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.functional import cross_entropy, rms_norm

from seats_cli.tiny.labels import (
    AUDIO_CLASSES,
    AUDIO_CONTEXT_CLASSES,
    CARD_CLASS,
    VIDEO_CLASSES,
    VIDEO_CONTEXT_CLASSES,
)
from seats_cli.tiny.vocabulary import IGNORE

CLASSES: dict[str, Mapping[str, int]] = {
    "video": VIDEO_CLASSES,
    "audio": AUDIO_CLASSES,
    "video_context": VIDEO_CONTEXT_CLASSES,
    "audio_context": AUDIO_CONTEXT_CLASSES,
}
# Labels whose class 0 fills most of the clip: their accuracy is stated on the rest.
_MOSTLY_ZERO = {("video", name) for name in VIDEO_CLASSES} | {("audio", "kind")}
# Empty cells, cards and silence are many and easy; at full weight they drown the shapes.
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
    """One linear read-out per label.

    Parameters
    ----------
    width : int
        Of the hidden states that are read.
    """

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
        """Summed loss and accuracies of one group of labels.

        Parameters
        ----------
        part : str
            A key of `CLASSES`.
        hidden : float tensor, shape (..., width)
        labels : dict of int64 tensors, shape (...)

        Returns
        -------
        float tensor, shape (), and dict of float
            Accuracy by "part.name", left out where nothing is labelled.
        """
        states = rms_norm(hidden, hidden.shape[-1:])
        loss = hidden.new_zeros(())
        accuracy: dict[str, float] = {}
        for name in CLASSES[part]:
            truth = labels[name].flatten()
            known = truth != IGNORE
            if not bool(known.any()):
                continue
            scores = self.heads[f"{part}_{name}"](states.flatten(0, -2)[known])
            weights = _class_weights(part, name, scores.shape[-1])
            loss = loss + cross_entropy(scores, truth[known], weights)
            counted = weights[truth[known]] == 1.0
            if bool(counted.any()):
                right = scores.argmax(-1)[counted] == truth[known][counted]
                accuracy[f"{part}.{name}"] = right.float().mean().item()
        return loss, accuracy

    def named_sound(self, states: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """Loss of reading, at words that name a picture, the sound heard during it.

        The read-out is that of the sound tokens themselves ("segment_kind"): the word is to fetch
        what they hold, as it is.

        Parameters
        ----------
        states : float tensor, shape (names, width)
        kinds : int64 tensor, shape (names,)
        """
        if not len(kinds):
            return states.new_zeros(())
        normed = rms_norm(states, states.shape[-1:])
        return cross_entropy(self.heads["audio_context_segment_kind"](normed), kinds)
