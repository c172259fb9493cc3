"""A layer of the KV cache with room for the tokens to come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from seats_cli.engine.decoding.room import Room


class PreallocatedLayer(CacheLayerMixin):  # type: ignore[misc]
    """Takes over what a dynamic layer holds, until `give_back`.

    Parameters
    ----------
    dynamic : DynamicLayer
        Filled; it is empty while this layer stands in for it, so that nothing is held twice.
    room : Room
        Of the length of that layer.
    """

    is_sliding = False

    def __init__(self, dynamic: DynamicLayer, room: Room) -> None:
        super().__init__()
        self._dynamic = dynamic
        self._room = room
        self.keys, self.values = (
            _roomy(dynamic.keys, room.capacity),
            _roomy(dynamic.values, room.capacity),
        )
        self.device = self.keys.device
        self.is_initialized = True
        dynamic.keys = dynamic.values = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token, shape (1, kv_heads, 1, head_dim), at the room's position.

        Returns
        -------
        keys, values : Tensor, shape (1, kv_heads, capacity, head_dim)
            The room's mask tells which of them are tokens.
        """
        self.keys.index_copy_(2, self._room.position, key_states)
        self.values.index_copy_(2, self._room.position, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Tokens held; one that is being written counts once its step is done."""
        return self._room.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that `update` returns."""
        return self._room.capacity, 0

    def get_max_length(self) -> int:
        """Tokens that there is room for."""
        return self._room.capacity

    def give_back(self) -> DynamicLayer:
        """The dynamic layer with all tokens held by now, as views."""
        dynamic, held = self._dynamic, self._room.length
        dynamic.keys, dynamic.values = self.keys[:, :, :held], self.values[:, :, :held]
        return dynamic


def _roomy(states: Tensor, capacity: int) -> Tensor:
    """States (1, heads, n, d) with zeros behind them: what is masked must be a number, too."""
    shape = (*states.shape[:2], capacity, states.shape[3])
    roomy = torch.zeros(shape, dtype=states.dtype, device=states.device)
    roomy[:, :, : states.shape[2]] = states
    return roomy
