"""The tokens under way in a prefill, with everything the decoder needs for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Alive:
    """The tokens under way in the current prefill.

    Parameters
    ----------
    index : LongTensor, shape (n,)
        Original positions alive.
    video, audio : BoolTensor, shape (n,)
        Modality of each.
    rotary : two Tensors (cos, sin), each (1, n, head_dim), or None before the first layer
    deepstack : list of Tensor, shape (n_visual, D)
        Features still to be added after the first decoder layers (Qwen3).
    visual : LongTensor, shape (n_visual,), or None
        Where `deepstack` rows belong among the n tokens.
    """

    index: Tensor
    video: Tensor
    audio: Tensor
    rotary: tuple[Tensor, Tensor] | None = None
    deepstack: list[Tensor] | None = None
    visual: Tensor | None = None
    thinned: bool = False

    def keep(self, where: Tensor) -> None:
        """Keep the tokens at `where` (LongTensor, ascending, into the n alive)."""
        if self.visual is not None and self.deepstack is not None:
            stays = torch.isin(self.visual, where)
            self.deepstack = [features[stays] for features in self.deepstack]
            self.visual = torch.searchsorted(where, self.visual[stays])
        self.index, self.video, self.audio = self.index[where], self.video[where], self.audio[where]
        if self.rotary is not None:
            cos, sin = self.rotary
            self.rotary = (cos.index_select(-2, where), sin.index_select(-2, where))
        self.thinned = True

    def trailing_text(self) -> int:
        """How many of the tokens follow the last audio-visual one."""
        audiovisual = (self.video | self.audio).nonzero()[:, 0]
        return len(self.index) - (int(audiovisual[-1]) + 1 if len(audiovisual) else 0)

    def rotary_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Rotary factors (cos, sin), each (n, head_dim); there are some once a layer has run."""
        assert self.rotary is not None
        cos, sin = self.rotary
        return cos[0].to(device), sin[0].to(device)

    def add_deepstack(self, hidden: Tensor, layer: int) -> Tensor:
        """States (1, n, D) after the 1-based layer, with its features for visual tokens."""
        if self.deepstack is None or layer > len(self.deepstack):
            return hidden
        assert self.visual is not None
        hidden = hidden.clone()
        hidden[0, self.visual] += self.deepstack[layer - 1].to(hidden.device, hidden.dtype)
        return hidden
