"""The steps of one answer on tensors that keep their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from seats_cli.engine.arguments import cache_of
from seats_cli.engine.decoding.attention import use_one_query
from seats_cli.engine.decoding.form import TENSORS
from seats_cli.engine.decoding.layer import PreallocatedLayer
from seats_cli.engine.decoding.room import Room, Steps

if TYPE_CHECKING:
    from seats_cli.engine.decoding.form import Form
    from seats_cli.models.adapter import Adapter


class StaticRun:
    """Moves a cache to layers with room and does steps on them, until `give_back`.

    A step may be repeated until `advance` is called: it writes the same to the same place.

    Parameters
    ----------
    adapter : Adapter
    forward : callable
        The text model's own.
    kwargs : dict
        Of a call of the form `form`: the first that will be done here.
    form : tuple
        From `one_token_form`.
    tokens : int
        How many steps there will be at most.
    """

    def __init__(
        self,
        adapter: Adapter,
        forward: Callable[..., Any],
        kwargs: dict[str, Any],
        form: Form,
        tokens: int,
    ) -> None:
        self.form = form
        self.cache = cache_of(kwargs)
        self._adapter = adapter
        self._forward = forward
        self._tokens = tokens
        self._steps = Steps(kwargs["inputs_embeds"].device)
        self._inputs = {
            name: kwargs[name].clone(memory_format=torch.contiguous_format) for name in TENSORS
        }
        self._kwargs = {**kwargs, **self._inputs}
        self._rooms: list[Room] = []  # of each layer; layers of one length share it
        lengths: dict[int, Room] = {}
        try:
            for number, layer in enumerate(self.cache.layers):
                length = layer.get_seq_length()
                if length not in lengths:
                    lengths[length] = Room(length, tokens, self._steps)
                self.cache.layers[number] = PreallocatedLayer(layer, lengths[length])
                self._rooms.append(lengths[length])
        except BaseException:
            self.give_back()
            raise
        self._distinct = tuple(lengths.values())

    @property
    def left(self) -> int:
        """Steps that there is room for."""
        return self._tokens - self._steps.done

    def prepare(self, kwargs: dict[str, Any]) -> None:
        """Put a token's arguments where the step finds them."""
        for name, tensor in self._inputs.items():
            tensor.copy_(kwargs[name])
        self._steps.prepare()

    def step(self) -> Any:
        """The text model's output for the token that was prepared, without waiting for it."""
        for room in self._distinct:
            room.point()
        with use_one_query(self._adapter), self._own_masks():
            # a mask of four dimensions is one that transformers takes as it is
            return self._forward(**{**self._kwargs, "attention_mask": self._rooms[0].mask})

    def advance(self) -> None:
        """Count the token that was written."""
        self._steps.done += 1

    def give_back(self) -> None:
        """Leave the cache with layers that grow, and every token written so far in them."""
        for number, layer in enumerate(self.cache.layers):
            if isinstance(layer, PreallocatedLayer):
                self.cache.layers[number] = layer.give_back()

    @contextmanager
    def _own_masks(self) -> Iterator[None]:
        """Give each layer the mask of its length, whatever hooks before say."""

        def hook_for(room: Room) -> Any:
            def hook(
                _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
            ) -> tuple[tuple[Any, ...], dict[str, Any]]:
                return args, {**kwargs, "attention_mask": room.mask}

            return hook

        # registered last, thus called last
        handles = [
            layer.register_forward_pre_hook(hook_for(room), with_kwargs=True)
            for layer, room in zip(self._adapter.layers, self._rooms, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
