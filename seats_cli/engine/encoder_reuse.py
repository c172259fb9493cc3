"""Stage 0 and encoder reuse in a running model: the vision encoder works on what is new.

Vision encoders take packed patches with the borders between their segments, so leaving patches out
needs no change of their code: a call gets the patches of all units (a unit becomes one token) that
changed, with their positions, and its output is copied to the units that did not. Stage 0 tells
them by their pixels, before the encoder; encoder reuse by their states, behind one of its early
blocks (`seats_cli.engine.carried_units`). Both pack in the same way, and may act together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from seats_cli.cost.flops import packed_vision_flops, vision_flops
from seats_cli.engine.carried_units import CarriedUnits, EncoderInput, block_gathers
from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter
from seats_cli.models.encoder_attention import use_gathered
from seats_cli.models.patching import hooked, replace_forward
from seats_cli.selection.alike_units import CarriedFacts, Likeness
from seats_cli.selection.static_regions import (
    Packing,
    ReuseFacts,
    StillMap,
    grey_levels,
    pack,
    positions,
    still_map,
)

# Side in pixels of what is encoded or left out as a whole, where the encoder has no windows: about
# as large as the windows of Qwen2.5-Omni (112).
_CELL = 128


class EncoderReuse:
    """Lets the vision encoder skip what has not changed since it was last encoded.

    The output has the shape and the order of an encoding of everything, so that whatever follows
    needs to know nothing of it. An encoder call with further arguments (precomputed positions,
    recorded states) is left alone.

    Parameters
    ----------
    tolerance : float or None
        Of Stage 0: largest change in grey levels (0..255) that counts as none; 0 skips exact
        repeats only, None nothing.
    likeness : Likeness, optional
        Of encoder reuse: when units that are encoded need not pass all blocks.
    cell : int, optional
        Tokens on a side of what is encoded or left out as a whole; by default an attention window
        of the encoder, or as much where it has none.

    Raises
    ------
    UsageError
        If the model's vision encoder does not take packed patches.
    """

    def __init__(
        self,
        adapter: Adapter,
        tolerance: float | None,
        likeness: Likeness | None = None,
        *,
        cell: int | None = None,
    ) -> None:
        if not adapter.packed_attentions:
            what = "Encoder reuse (encoder_reuse, encoder_keep)"
            if tolerance is not None:
                what = "Stage 0 (still_tolerance)"
            raise UsageError(f"{what} does not work with {adapter.family.title}.")
        self._adapter = adapter
        self._vision = vision = adapter.architecture().vision
        unit = vision.patch_size * vision.merge_size
        self._window = None if vision.window_size is None else vision.window_size // unit
        self._cell = cell or self._window or _CELL // unit
        self.tolerance = tolerance
        self.packing: Packing | None = None
        self.facts: ReuseFacts | None = None
        self.carried_facts: CarriedFacts | None = None
        self._units = None if likeness is None else CarriedUnits(adapter, likeness)
        self._calls: list[ReuseFacts] = []

    @contextmanager
    def attach(self) -> Iterator[None]:
        """Act on the model's vision encoder inside the block.

        An `EncoderCache` is attached later, and so lies around it: it compares the arguments, and
        keeps the output, of the whole clip.
        """
        visual = self._adapter.visual
        # A pre-hook, and not part of `forward`, so that it also runs where the cache has the
        # output: the facts are about every prompt.
        look = visual.register_forward_pre_hook(self._look, with_kwargs=True)
        inside = () if self._units is None else self._units.hooks()
        with hooked([look]), hooked(inside), replace_forward(visual, self._skipping):
            yield

    @property
    def call_facts(self) -> CarriedFacts | None:
        """What was carried in the latest call of the encoder; None without encoder reuse."""
        return None if self._units is None else self._units.facts

    @property
    def approximates(self) -> bool:
        """Whether tokens may get features that an encoding of everything would not give them.

        Exact repeats (a tolerance of 0 and no more) leave Stage I what it would have had, ties
        included, so that its choice is that of a run without.
        """
        return self._units is not None or bool(self.tolerance)

    def sources(self) -> Tensor | None:
        """LongTensor (n,) on the CPU: whose features each token of the latest call has.

        In the order of the prompt; None where each has its own.
        """
        packing = self._latest
        return None if packing is None else packing.chosen[packing.place]

    @property
    def _latest(self) -> Packing | None:
        """How the states are packed by now."""
        return (None if self._units is None else self._units.packing) or self.packing

    def expand(self, values: Tensor) -> Tensor:
        """Values per position of the last block, (m, ...), for all in the encoder's own order."""
        packing = self._latest
        if packing is None:
            return values
        units = packing.place[packing.order].to(values.device)
        return values[positions(units, self._adapter.merge_unit)]

    def finish(self, carried: Sequence[CarriedFacts] = ()) -> None:
        """Sum up what was found in the prompt's pictures, as `facts` and `carried_facts`.

        Parameters
        ----------
        carried : sequence of CarriedFacts
            `call_facts` of its calls, also of those whose output comes from a cache.
        """
        if self.tolerance is not None:
            self.facts = _together(self.tolerance, self._calls)
        self.carried_facts = _carried_together(carried)
        self._calls.clear()

    @torch.no_grad()
    def _look(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find out what has changed."""
        self.packing = None
        if self._units is not None:
            self._units.expect(None)
        if len(args) + len(kwargs) != 2 or not kwargs.keys() <= {"hidden_states", "grid_thw"}:
            return
        pixels, grid_thw = _pixels_and_grids(args, kwargs)
        grids = [(int(t), int(h), int(w)) for t, h, w in grid_thw.tolist()]
        raster = self._adapter.vision_raster_order(grid_thw)
        # 1. Compare the pixels of every cell with those that were last encoded there.
        if self.tolerance is not None:
            still = self._unchanged(self.tolerance, pixels, grids)
        else:
            merge = self._vision.merge_size
            units = torch.arange(len(pixels) // self._adapter.merge_unit)
            still = StillMap(units, tuple((t, h // merge, w // merge) for t, h, w in grids))
        # 2. Pack the units that changed, in the encoder's own order.
        order = torch.arange(len(still.source)) if raster is None else torch.argsort(raster).cpu()
        if self.tolerance is not None:
            unit = self._adapter.merge_unit
            packing = pack(still, order, window=self._window, patches=unit)
            if len(packing.chosen) < len(packing.place):
                self.packing = packing
            self._calls.append(self._facts(self.tolerance, still, packing, grids))
        # 3. What encoder reuse starts from, if this call is not answered by a cache.
        if self._units is not None:
            self._units.expect(EncoderInput(still, order, grids, self.packing))

    def _unchanged(
        self, tolerance: float, pixels: Tensor, grids: list[tuple[int, int, int]]
    ) -> StillMap:
        """Stage 0's criterion, on the CPU."""
        levels = grey_levels(self._adapter.pixel_std, pixels.shape[-1]).to(pixels.device)
        found = still_map(
            pixels,
            grids,
            levels,
            tolerance=tolerance,
            merge=self._vision.merge_size,
            side=self._cell,
        )
        return StillMap(found.source.cpu(), found.grids)  # the one wait for the device

    def _facts(
        self,
        tolerance: float,
        still: StillMap,
        packing: Packing,
        grids: list[tuple[int, int, int]],
    ) -> ReuseFacts:
        """Of one call of the encoder."""
        per_grid = still.per_grid()
        # What was encoded, with the pairs of all its queries and keys, against an encoding of all.
        executed = packed_vision_flops(
            self._vision,
            len(packing.chosen) * self._adapter.merge_unit,
            packing.full.pairs,
            packing.windowed.pairs,
        )
        return ReuseFacts(
            tolerance_levels=tolerance,
            grids=len(per_grid),
            whole_grids=sum(encoded == size for encoded, size in per_grid),
            still_grids=sum(encoded == 0 for encoded, _ in per_grid),
            tokens=len(packing.place),
            encoded_tokens=len(packing.chosen),
            saved_flops=vision_flops(self._vision, grids) - executed,
        )

    def _skipping(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            units = self._units
            if units is None:
                return self._changed(encode, args, kwargs)
            try:
                output = self._changed(encode, args, kwargs)
            finally:
                units.finish()
            return output

        return forward

    def _changed(self, encode: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Encode what Stage 0 says, and give it to everything."""
        packing = self.packing
        if packing is None:
            output = encode(*args, **kwargs)
        else:
            pixels, grid_thw = _pixels_and_grids(args, kwargs)
            chosen = positions(packing.chosen, self._adapter.merge_unit).to(pixels.device)
            arguments = self._adapter.packed_vision_arguments(grid_thw, packing)
            gathers = block_gathers(self._adapter, self._vision, packing, pixels.device)
            if not gathers:
                output = encode(pixels[chosen], grid_thw=grid_thw, **arguments)
            else:
                with use_gathered(self._adapter):
                    output = encode(pixels[chosen], grid_thw=grid_thw, gathers=gathers, **arguments)
        # The mergers' outputs are whole already: they are given back what was not carried to them.
        if self._units is not None and self._units.packing is not None:
            output.last_hidden_state = self._units.whole(output.last_hidden_state)
        return output if packing is None else self._expanded(output, packing)

    def _expanded(self, output: Any, packing: Packing) -> Any:
        """The output for all units, in the order of the prompt."""
        # Tokens in the order of the prompt, patches in the encoder's own order, as without Stage 0.
        place = packing.place.to(output.pooler_output.device)
        output.pooler_output = output.pooler_output[place]
        units = packing.place[packing.order].to(output.last_hidden_state.device)
        rows = positions(units, self._adapter.merge_unit)
        output.last_hidden_state = output.last_hidden_state[rows]
        if getattr(output, "deepstack_features", None) is not None:
            output.deepstack_features = [part[place] for part in output.deepstack_features]
        return output


def _pixels_and_grids(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The vision encoder's two arguments, passed by name or by position."""
    pixels = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    return pixels, kwargs["grid_thw"] if "grid_thw" in kwargs else args[-1]


def _together(tolerance: float, calls: list[ReuseFacts]) -> ReuseFacts:
    """The sum over the calls of one prompt."""
    counted = [field.name for field in fields(ReuseFacts)][1:]
    sums = {name: sum(getattr(call, name) for call in calls) for name in counted}
    return ReuseFacts(tolerance, **sums)


def _carried_together(calls: Sequence[CarriedFacts]) -> CarriedFacts | None:
    """The same for encoder reuse; None without any."""
    if not calls:
        return None
    summed = ("tokens", "compared_tokens", "carried_tokens", "saved_flops")
    sums = {name: sum(getattr(call, name) for call in calls) for name in summed}
    return replace(calls[0], **sums)
