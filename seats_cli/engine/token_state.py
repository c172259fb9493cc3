"""The tokens under way in a prefill, with everything the decoder needs for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from seats_cli.models.adapter import SideTensors
    from seats_cli.selection.device import TokenIndex


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
    sides : dict of str to SideTensors
        What else the decoder needs for them, by the adapter's names.
    thinned : bool
        Whether the decoder's own arguments are of more tokens than these.
    """

    index: Tensor
    video: Tensor
    audio: Tensor
    sides: dict[str, SideTensors] = field(default_factory=dict)
    thinned: bool = False

    def keep(self, places: TokenIndex) -> None:
        """Keep the tokens at some places, ascending, among the n alive."""
        where = places.host
        self.index, self.video, self.audio = self.index[where], self.video[where], self.audio[where]
        self.sides = {name: side.keep(places) for name, side in self.sides.items()}
        self.thinned = True

    def trailing_text(self) -> int:
        """How many of the tokens follow the last audio-visual one."""
        audiovisual = (self.video | self.audio).nonzero()[:, 0]
        return len(self.index) - (int(audiovisual[-1]) + 1 if len(audiovisual) else 0)
