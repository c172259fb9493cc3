"""The tokens under way in a prefill, with everything the decoder needs for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seats_cli.selection.device import TokenIndex, on_device


@dataclass(eq=False)
class TokenState:
    """The tokens under way in the current prefill.

    What is decided about them is decided on the host, so that each drop waits for the device once
    only, to learn their relevance.

    Parameters
    ----------
    index : LongTensor, shape (n,), on the CPU
        Original positions alive.
    video, audio : BoolTensor, shape (n,), on the CPU
        Modality of each.
    rotary : two Tensors (cos, sin), each (1, n, head_dim), or None before the first layer
    deepstack : list of Tensor, shape (n_visual, D)
        Features still to be added after the first decoder layers (Qwen3).
    visual : LongTensor, shape (n_visual,), on the CPU, or None
        Where `deepstack` rows belong among the n tokens.
    """

    index: Tensor
    video: Tensor
    audio: Tensor
    rotary: tuple[Tensor, Tensor] | None = None
    deepstack: list[Tensor] | None = None
    visual: Tensor | None = None
    thinned: bool = False

    def keep(self, places: TokenIndex) -> None:
        """Keep the tokens at some places, ascending, among the n alive."""
        where = places.host
        if self.visual is not None and self.deepstack is not None:
            stays = TokenIndex(torch.isin(self.visual, where).nonzero()[:, 0])
            self.deepstack = [
                features.index_select(0, stays.on(features.device)) for features in self.deepstack
            ]
            self.visual = torch.searchsorted(where, self.visual[stays.host])
        self.index, self.video, self.audio = self.index[where], self.video[where], self.audio[where]
        if self.rotary is not None:
            cos, sin = self.rotary
            there = places.on(cos.device)
            self.rotary = (cos.index_select(-2, there), sin.index_select(-2, there))
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
        where = on_device(self.visual, hidden.device)
        hidden[0, where] += self.deepstack[layer - 1].to(hidden.device, hidden.dtype)
        return hidden
