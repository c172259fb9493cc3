"""What a selection method sees and decides, and the registry of methods.

A method is one file in this package with a class of this shape and one line in `METHODS`.
The engine owns positions, caches and the late block; a method only answers which tokens stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from seats_cli.errors import ConfigError
from seats_cli.selection.seats import Seats

if TYPE_CHECKING:
    from seats_cli.config import PruningPlan


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """The prompt as it enters the LLM (one sequence).

    Parameters
    ----------
    embeddings : Tensor, shape (S, D)
        Text embeddings and projected audio-visual tokens, in prompt order.
    video_mask, audio_mask : BoolTensor, shape (S,)
        Modality of each position; the rest is text.
    video_importance, audio_importance : float32 Tensor, shape (n_video,) / (n_audio,), or None
        Attention received in the last encoder layer, in prompt order.
    video_lengths, video_windows : tuple of int
        Tokens of each clip, and tokens of one selection window in it.
    audio_lengths : tuple of int
        Tokens of each sound track.
    """

    embeddings: Tensor
    video_mask: Tensor
    audio_mask: Tensor
    video_importance: Tensor | None
    audio_importance: Tensor | None
    video_lengths: tuple[int, ...]
    video_windows: tuple[int, ...]
    audio_lengths: tuple[int, ...]


class Method(Protocol):
    """A selection method bound to a plan."""

    needs_importance: bool

    def before_llm(self, prompt: PromptTokens) -> Tensor:
        """BoolTensor (S,): tokens that enter the LLM; text is always kept."""
        ...

    def drops_after(self, layer: int) -> bool:
        """Whether `after_layer` is to be asked after this decoder layer (1-based)."""
        ...

    def after_layer(
        self, layer: int, relevance: Tensor, video_mask: Tensor, audio_mask: Tensor
    ) -> Tensor:
        """BoolTensor (n,): of the n tokens alive, those that stay; text is always kept.

        `relevance` (float32, shape (n,)) is the attention of the last text token to each.
        """
        ...


METHODS: dict[str, Callable[[PruningPlan], Method]] = {
    "seats": Seats,
}


def method_for(plan: PruningPlan) -> Method:
    """The method that `plan` names.

    Raises
    ------
    ConfigError
        If there is no such method.
    """
    if plan.method not in METHODS:
        raise ConfigError(f"Unknown method '{plan.method}': choose from {', '.join(METHODS)}.")
    return METHODS[plan.method](plan)
