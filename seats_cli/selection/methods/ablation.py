"""Attention knockout: how deep does a model use the clip?

This saves nothing. The accuracy that a model loses when video or audio tokens are removed after a
layer tells where its late block can begin (arXiv 2605.20035, analysis of layers).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import Entry, LayerTokens, Method, PromptTokens


@dataclass(frozen=True)
class ModalityAblation:
    """Which tokens are removed, and after which layer."""

    after_layer: int  # the last decoder layer (from 1) that sees them
    # Which modalities.
    video: bool = True
    audio: bool = True


class Ablation(Method):
    """Every token up to a layer, none of some modality behind it; not known by a name.

    Its plan is one that keeps everything.
    """

    shares = "states"

    layer_kind = "blind"

    def __init__(self, plan: PruningPlan, ablation: ModalityAblation) -> None:
        super().__init__(plan)
        self._ablation = ablation

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Everything enters."""
        return Entry(prompt.keep_all())

    def drops_after(self, layer: int) -> bool:
        """Once."""
        return layer == self._ablation.after_layer

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor:
        """The other modality and the text."""
        hidden = tokens.index < 0
        if self._ablation.video:
            hidden = hidden | tokens.video_mask
        if self._ablation.audio:
            hidden = hidden | tokens.audio_mask
        return ~hidden
