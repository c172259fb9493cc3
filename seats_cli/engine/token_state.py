"""The tokens alive in a prefill, with everything the decoder needs for each.

Nothing here is about a model: what a family needs beside hidden states (rotary factors, DeepStack
features) arrives as `SideTensors`, which know how to keep a subset of their rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from seats_cli.models.adapter import SideTensors
from seats_cli.selection.device import TokenIndex


@dataclass(eq=False)
class TokenState:
    """The tokens alive in the current prefill.

    Indices and masks stay on the host, where all decisions are made: each drop then waits for the
    device only once, to learn the tokens' relevance.
    """

    # LongTensor, shape (n,), on the CPU: their positions in the unpruned prompt, ascending.
    index: Tensor
    # BoolTensor, shape (n,), on the CPU: modality of each.
    video: Tensor
    audio: Tensor
    # What else the decoder needs for each, by the adapter's names.
    sides: dict[str, SideTensors] = field(default_factory=dict)
    # Whether the arguments that the decoder passes to its layers still count dropped tokens.
    thinned: bool = False

    @property
    def text(self) -> Tensor:
        """BoolTensor (n,), on the CPU: the tokens of neither modality."""
        return ~(self.video | self.audio)

    def keep(self, places: TokenIndex) -> None:
        """Drop all but the tokens at these places (ascending, among the n alive)."""
        # Places count the tokens alive now, not positions of the prompt: side tensors have a row
        # for each of them and nothing else.
        where = places.host
        self.index, self.video, self.audio = self.index[where], self.video[where], self.audio[where]
        self.sides = {name: side.keep(places) for name, side in self.sides.items()}
        self.thinned = True

    def trailing_text(self) -> int:
        """How many tokens follow the last audio-visual one: the question, with chat template."""
        audiovisual = (self.video | self.audio).nonzero()[:, 0]
        return len(self.index) - (int(audiovisual[-1]) + 1 if len(audiovisual) else 0)
