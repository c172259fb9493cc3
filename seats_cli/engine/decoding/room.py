"""Where the next token is written and what it sees, as tensors that never move.

A captured graph repeats what it saw: numbers that change from token to token must lie on the
device, in the same place each time.
"""

from __future__ import annotations

import torch

from seats_cli.engine.decoding.attention import CHUNK


class Steps:
    """How many steps are done, on the host and, for the step under way, on the device."""

    def __init__(self, device: torch.device) -> None:
        self.done = 0
        self.now = torch.zeros(1, dtype=torch.long, device=device)

    def prepare(self) -> None:
        """Tell the device which step comes next; the same again if a step is repeated."""
        self.now.fill_(self.done)


class Room:
    """The cache layers of one length: position of the next token, and which tokens it sees.

    Parameters
    ----------
    filled : int
        Tokens that the layers hold now.
    tokens : int
        How many can still come.
    steps : Steps
        Shared by all layers of a model.
    """

    def __init__(self, filled: int, tokens: int, steps: Steps) -> None:
        self._filled = filled
        self._steps = steps
        self.capacity = -(-(filled + tokens) // CHUNK) * CHUNK
        self._places = torch.arange(self.capacity, device=steps.now.device)
        self.position = torch.zeros_like(steps.now)  # LongTensor (1,)
        # float32 (1, 1, 1, capacity), added to the scores: 0 where a token lies, else -inf
        self.mask = torch.zeros(1, 1, 1, self.capacity, device=steps.now.device)

    @property
    def length(self) -> int:
        """Tokens that the layers hold."""
        return self._filled + self._steps.done

    def point(self) -> None:
        """Set position and mask for the step under way, on the device alone."""
        torch.add(self._steps.now, self._filled, out=self.position)
        self.mask.zero_().masked_fill_(self._places > self.position, float("-inf"))
