"""Hiding a modality from a depth on: how long does a model look at the clip?

Not a way to save anything: what a model loses when it may no longer see the video, or hear the
sound, after a layer says where its late block can begin (arXiv 2605.20035, analysis of layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from seats_cli.selection.method import Entry, LayerTokens, Method, PromptTokens

if TYPE_CHECKING:
    from seats_cli.schedule import PruningPlan


@dataclass(frozen=True)
class ModalityAblation:
    """What is hidden, and from where on.

    Parameters
    ----------
    after_layer : int
        The last decoder layer (from 1) that sees it.
    video, audio : bool
        Which modalities.
    """

    after_layer: int
    video: bool = True
    audio: bool = True


class Ablation(Method):
    """All tokens until a layer, none of some modality behind it.

    Parameters
    ----------
    plan : PruningPlan
        One that keeps everything.
    blindness : ModalityAblation
    """

    layer_kind = "blind"

    def __init__(self, plan: PruningPlan, blindness: ModalityAblation) -> None:
        super().__init__(plan)
        self._blindness = blindness

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Everything enters."""
        return Entry(prompt.keep_all())

    def drops_after(self, layer: int) -> bool:
        """Once."""
        return layer == self._blindness.after_layer

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor:
        """The other modality and the text."""
        hidden = tokens.index < 0
        if self._blindness.video:
            hidden = hidden | tokens.video_mask
        if self._blindness.audio:
            hidden = hidden | tokens.audio_mask
        return ~hidden
