"""Encoder reuse in a running model: behind an early block, only what is not alike goes on.

It is Stage 0's mechanism with another criterion, in the middle of the encoder: the units that go on
are packed like changed windows before it, with their rotary positions and the borders of their
segments, and attend to the latest keys and values of those that were left behind. Hooks on the
blocks do it; the encoder's own loop over its blocks knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from seats_cli.cost.flops import vision_block_flops, vision_pairs
from seats_cli.families.base import VisionShape
from seats_cli.models.adapter import Adapter
from seats_cli.models.encoder_attention import Gathers, use_gathered
from seats_cli.selection.alike_units import (
    CarriedFacts,
    Likeness,
    alike_map,
    pairs_compared,
    start_block,
)
from seats_cli.selection.static_regions import Packing, Segments, StillMap, pack, positions


@dataclass(frozen=True, eq=False)
class EncoderInput:
    """What one call of the vision encoder is given, as far as Stage 0 leaves it."""

    still: StillMap  # on the CPU: every unit its own source without Stage 0
    order: Tensor  # LongTensor (n,): the encoder's order of all units
    grid_thw: list[tuple[int, int, int]]
    packing: Packing | None  # None: all units, in that order

    @property
    def chosen(self) -> Tensor:
        """LongTensor (m,): units of the prompt in the order in which they are packed."""
        return self.order if self.packing is None else self.packing.chosen

    @property
    def place(self) -> Tensor:
        """LongTensor (n,): where each unit of the prompt, or what it follows, is packed."""
        return torch.argsort(self.order) if self.packing is None else self.packing.place


class CarriedUnits:
    """Carries only those units through the later blocks that are unlike what was carried before.

    A unit is what becomes one LLM token. The others get the features (those of DeepStack that come
    later, too) and the last attention's queries and keys of the unit that they follow.

    Parameters
    ----------
    likeness : Likeness
        When a unit follows another one.
    """

    def __init__(self, adapter: Adapter, likeness: Likeness) -> None:
        self._adapter = adapter
        self._likeness = likeness
        self._vision = vision = adapter.architecture().vision
        unit = vision.patch_size * vision.merge_size
        self._window = None if vision.window_size is None else vision.window_size // unit
        start = start_block(vision.depth) if likeness.start is None else likeness.start
        self._start = min(start, vision.depth - 1)
        self._given: EncoderInput | None = None
        self._arguments: dict[bool, dict[str, Any]] = {}
        self._swapped = ExitStack()
        self.packing: Packing | None = None  # of the latest call; None where all went on
        self.facts: CarriedFacts | None = None  # of the latest call

    def expect(self, given: EncoderInput | None) -> None:
        """A call of the encoder begins; None for one that is to be left alone."""
        self._given, self.packing, self.facts = given, None, None

    def hooks(self) -> Iterator[RemovableHandle]:
        """Register the hooks, one for each handle."""
        for number, block in enumerate(self._adapter.vision_blocks):
            if number >= self._start:
                enter = partial(self._enter_block, number)
                yield block.register_forward_pre_hook(enter, with_kwargs=True)
        for number, merger in self._adapter.vision_mergers:
            if number >= self._start:
                yield merger.register_forward_hook(self._leave_merger)

    def finish(self) -> None:
        """The encoder has returned, or failed: its attention is what it was."""
        self._swapped.close()
        self._arguments.clear()

    def whole(self, patches: Tensor) -> Tensor:
        """States (m, d) behind the start block, for all patches that the encoder was given."""
        rows = self._back()
        if rows is None:
            return patches
        return patches[positions(rows, self._adapter.merge_unit).to(patches.device)]

    @torch.no_grad()
    def _decide(self, hidden: Tensor) -> Packing | None:
        """Compare all units' states, and pack those that go on; None if all do."""
        given, likeness = self._given, self._likeness
        assert given is not None
        # 1. Units with the states of their patches side by side, in the order of the prompt.
        units = hidden.reshape(len(given.chosen), -1)[given.place.to(hidden.device)]
        found = alike_map(units, given.still, likeness)
        # 2. As Stage 0 does it, though of what Stage 0 has left.
        patches = self._adapter.merge_unit
        packing = pack(found, given.order, window=self._window, patches=patches)
        self.facts = self._facts(given, packing, units.shape[1])
        return packing if len(packing.chosen) < len(given.chosen) else None

    def _enter_block(
        self, number: int, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._given is None:
            return None
        if number == self._start:
            self.packing = self._decide(args[0])
        packing = self.packing
        if packing is None:
            return None
        if number == self._start:
            args = (self._packed(args[0], packing, kwargs), *args[1:])
        own = self._arguments[sees_whole_grids(self._vision, number)]
        return args, {**kwargs, **own}

    def _packed(self, hidden: Tensor, packing: Packing, kwargs: dict[str, Any]) -> Tensor:
        """The states that go on; also works out what the blocks need to know of them."""
        given, unit = self._given, self._adapter.merge_unit
        assert given is not None
        rows = positions(given.place[packing.chosen], unit).to(hidden.device)
        rotary = tuple(part[rows.to(part.device)] for part in kwargs["position_embeddings"])
        gathers = block_gathers(self._adapter, self._vision, packing, hidden.device)
        # Where Stage 0 has passed gathers, it has swapped the attention, and puts it back.
        if gathers and "gathers" not in kwargs:
            self._swapped.enter_context(use_gathered(self._adapter))
        for whole, segments in ((True, packing.full), (False, packing.windowed)):
            own: dict[str, Any] = {
                "cu_seqlens": segments.borders.to(kwargs["cu_seqlens"].device),
                "position_embeddings": rotary,
            }
            if kwargs.get("max_seqlen") is not None:
                own["max_seqlen"] = max(segments.queries)
            # Stage 0 may have passed gathers that count other positions.
            if gathers or "gathers" in kwargs:
                own["gathers"] = gathers
            self._arguments[whole] = own
        return hidden[rows]

    def _leave_merger(self, _module: Any, _args: Any, output: Tensor) -> Tensor | None:
        """Tokens of all units that the encoder was given, from those that went on."""
        rows = self._back()
        return None if rows is None else output[rows.to(output.device)]

    def _back(self) -> Tensor | None:
        """LongTensor (m,): of each unit that was given, where its states are packed now."""
        if self._given is None or self.packing is None:
            return None
        return self.packing.place[self._given.chosen]

    def _facts(self, given: EncoderInput, packing: Packing, width: int) -> CarriedFacts:
        vision, unit, asked = self._vision, self._adapter.merge_unit, self._likeness
        if given.packing is None:
            before = vision_pairs(vision, given.grid_thw)
        else:
            before = given.packing.full.pairs, given.packing.windowed.pairs
        after = packing.full.pairs, packing.windowed.pairs
        if len(packing.chosen) == len(given.chosen):
            after = before
        saved = vision_block_flops(vision, self._start, unit * len(given.chosen), *before)
        saved -= vision_block_flops(vision, self._start, unit * len(packing.chosen), *after)
        compared = sum(
            rows * columns * pairs_compared(times) for times, rows, columns in given.still.grids
        )
        return CarriedFacts(
            threshold=asked.threshold,
            share=asked.share,
            start_block=self._start,
            blocks=vision.depth,
            tokens=len(given.order),
            compared_tokens=len(given.chosen),
            carried_tokens=len(packing.chosen),
            saved_flops=saved - 2 * width * compared,
        )


def sees_whole_grids(vision: VisionShape, block: int) -> bool:
    """Whether a block (from 0) attends to whole grids, and not within windows."""
    return vision.window_size is None or block in vision.full_attention_blocks


def block_gathers(
    adapter: Adapter, vision: VisionShape, packing: Packing, device: torch.device
) -> Gathers:
    """Where the attention of each block finds its keys, if not among its queries.

    Units that were left out are still keys of the others in their segment: these take them from
    where the unit's states are, elsewhere in the packed sequence.
    """

    def batches(segments: Segments) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple((one.queries.to(device), one.keys.to(device)) for one in segments.batches)

    # Blocks that see a whole grid and blocks that see windows cut the sequence differently.
    full, windowed = batches(packing.full), batches(packing.windowed)
    gathers: dict[nn.Module, tuple[tuple[Tensor, Tensor], ...]] = {}
    for number, attention in enumerate(adapter.packed_attentions):
        found = full if sees_whole_grids(vision, number) else windowed
        if found:
            gathers[attention] = found
    return gathers
