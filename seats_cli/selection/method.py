"""What a selection method sees and what it answers.

The engine owns positions, caches and the late block; a method only says which tokens stay and,
where it merges tokens, what the merged ones become.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from seats_cli.schedule import PruningPlan


@dataclass(frozen=True, eq=False)
class Modality:
    """The tokens of one modality in a prompt, in prompt order.

    Parameters
    ----------
    mask : BoolTensor, shape (S,)
        Where in the prompt they are.
    lengths : tuple of int
        Tokens of each clip or sound; empty where the modality is absent.
    windows : tuple of int
        Tokens of one selection window in each.
    grids : tuple of int
        Tokens of one temporal grid of each clip; empty for sound.
    importance : float32 Tensor, shape (n,), or None
        Attention received in the last encoder layer, where the method needs it.
    keys : float32 Tensor, shape (n, d), or None
        Keys of the last encoder layer, averaged over heads and over the positions that become
        one token, where the method needs them.
    where : LongTensor, shape (n,), or None
        The mask as positions, if they are known without waiting for the device.
    """

    mask: Tensor
    lengths: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    grids: tuple[int, ...] = ()
    importance: Tensor | None = None
    keys: Tensor | None = None
    where: Tensor | None = None

    @property
    def size(self) -> int:
        """Tokens n of the modality."""
        return sum(self.lengths)

    @property
    def positions(self) -> Tensor:
        """LongTensor (n,), ascending: where in the prompt they are."""
        return self.mask.nonzero()[:, 0] if self.where is None else self.where


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """The prompt as it enters the LLM (one sequence).

    Parameters
    ----------
    embeddings : Tensor, shape (S, D)
        Text embeddings and projected audio-visual tokens, in prompt order.
    video, audio : Modality
        What belongs to either; the rest is text.
    """

    embeddings: Tensor
    video: Modality
    audio: Modality

    def keep_all(self) -> Tensor:
        """BoolTensor (S,), all True, to be thinned out."""
        return self.video.mask.new_ones(len(self.embeddings))


@dataclass(frozen=True, eq=False)
class Entry:
    """What enters the LLM.

    Parameters
    ----------
    keep : BoolTensor, shape (S,)
        Tokens that enter; text is always kept.
    embeddings : Tensor, shape (S, D), or None
        The prompt with merged tokens in place of kept ones; None if none changed.
    """

    keep: Tensor
    embeddings: Tensor | None = None


@dataclass(frozen=True, eq=False)
class LayerTokens:
    """The tokens alive after a decoder layer; all of it is on the CPU.

    Parameters
    ----------
    index : LongTensor, shape (n,)
        Positions in the unpruned prompt, ascending.
    video_mask, audio_mask : BoolTensor, shape (n,)
        Modality of each; the rest is text.
    relevance : float32 Tensor, shape (n,)
        Attention to each, from the tokens that the method's `asking` names.
    """

    index: Tensor
    video_mask: Tensor
    audio_mask: Tensor
    relevance: Tensor


class Method(ABC):
    """A selection method bound to a plan; the defaults are those of one that acts once.

    A method may remember facts of the prompt from `before_llm` to `after_layer`: prompts come
    one at a time, and each starts with `before_llm`.

    Attributes
    ----------
    needs_importance : bool
        Whether `Modality` must hold the attention received in the encoder.
    needs_keys : bool
        Whether it must hold the encoder's keys.
    asking : str
        Whose attention `LayerTokens.relevance` is: "last", the last text token's query on the
        layer's output states (arXiv 2605.20035, 2403.06764), or "question", the mean over all
        text tokens behind the last audio-visual one, on the layer's input states: the attention
        that this layer really computed (arXiv 2605.14458).
    entry_kind, layer_kind : str
        Names of the method's stages in the trace.
    """

    needs_importance: bool = False
    needs_keys: bool = False
    asking: ClassVar[Literal["last", "question"]] = "last"
    entry_kind: ClassVar[str] = "entry"
    layer_kind: ClassVar[str] = "relevance"

    def __init__(self, plan: PruningPlan) -> None:
        self.plan = plan

    @abstractmethod
    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Choose, and perhaps merge, the tokens that enter the LLM."""

    def drops_after(self, layer: int) -> bool:
        """Whether `after_layer` is to be asked after this decoder layer (1-based)."""
        return False

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor:
        """BoolTensor (n,), on the CPU: of the tokens alive, those that stay; text always does."""
        raise NotImplementedError
