"""Decoding behind a pruned prefill: where generated tokens stand in the unpruned sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from seats_cli.engine.arguments import three_rows
from seats_cli.engine.kv import cached_tokens


@dataclass(eq=False)
class _Continuation:
    """What decoding on a pruned cache must know: its length then, and the next position."""

    cached: int
    next_position: Tensor


class Continuations:
    """The pruned caches under way; each is forgotten with its cache."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Any, _Continuation] = WeakKeyDictionary()

    def note(self, cache: Any, next_position: Tensor) -> None:
        """Remember a cache as a prefill left it, and the position of the token to come."""
        self._known[cache] = _Continuation(cached_tokens(cache), next_position)

    def arguments(
        self, cache: Any, kwargs: dict[str, Any], positions_given: bool
    ) -> dict[str, Any]:
        """The decoder's arguments: true positions, and no mask of the unpruned length.

        Parameters
        ----------
        cache : transformers Cache
            Not empty.
        kwargs : dict
            What transformers passes.
        positions_given : bool
            Whether its positions come from the caller (`generate` counts the whole sequence).
        """
        known = self._known.get(cache)
        embeddings: Tensor = kwargs["inputs_embeds"]
        positions = kwargs.get("position_ids")
        if known is not None and not positions_given:
            # transformers would count from the cache, which is shorter than the sequence
            first = known.next_position + cached_tokens(cache) - known.cached
            steps = torch.arange(embeddings.shape[1], device=embeddings.device)
            positions = (first.to(embeddings.device) + steps).expand(3, len(embeddings), -1)
        elif positions is not None:
            positions = three_rows(positions, embeddings)
        return {**kwargs, "position_ids": positions, "attention_mask": None}
