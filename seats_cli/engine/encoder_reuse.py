"""Stage 0 in a running model: the vision encoder is given only what has changed.

Vision encoders take packed patches with the borders between their segments, so leaving patches out
needs no change of their code: a call gets the patches of all units (a unit becomes one token) that
changed, with their positions, and its output is copied to the units that did not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from seats_cli.cost.flops import packed_vision_flops, vision_flops
from seats_cli.errors import UsageError
from seats_cli.models.adapter import Adapter
from seats_cli.models.encoder_attention import use_gathered
from seats_cli.models.patching import hooked, replace_forward
from seats_cli.results import ReuseFacts
from seats_cli.selection.static_regions import (
    Packing,
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
    tolerance : float
        Largest change in grey levels (0..255) that counts as none; 0 skips exact repeats only.
    cell : int, optional
        Tokens on a side of what is encoded or left out as a whole; by default an attention window
        of the encoder, or as much where it has none.

    Raises
    ------
    UsageError
        If the model's vision encoder does not take packed patches.
    """

    def __init__(self, adapter: Adapter, tolerance: float, *, cell: int | None = None) -> None:
        if not adapter.packed_attentions:
            raise UsageError(
                f"Stage 0 (still_tolerance) does not work with {adapter.family.title}."
            )
        self._adapter = adapter
        self._vision = vision = adapter.architecture().vision
        unit = vision.patch_size * vision.merge_size
        self._window = None if vision.window_size is None else vision.window_size // unit
        self._cell = cell or self._window or _CELL // unit
        self.tolerance = tolerance
        self.packing: Packing | None = None
        self.facts: ReuseFacts | None = None
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
        with hooked([look]), replace_forward(visual, self._skipping):
            yield

    def expand(self, values: Tensor) -> Tensor:
        """Values per encoded position, (m, ...), for all positions in the encoder's own order."""
        packing = self.packing
        if packing is None:
            return values
        units = packing.place[packing.order].to(values.device)
        return values[positions(units, self._adapter.merge_unit)]

    def finish(self) -> None:
        """Sum up what was found in the prompt's pictures, as `facts`."""
        self.facts = _together(self.tolerance, self._calls)
        self._calls.clear()

    @torch.no_grad()
    def _look(self, _module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find out what has changed."""
        self.packing = None
        if len(args) + len(kwargs) != 2 or not kwargs.keys() <= {"hidden_states", "grid_thw"}:
            return
        # 1. Compare the pixels of every cell with those that were last encoded there.
        pixels, grid_thw = _pixels_and_grids(args, kwargs)
        grids = [(int(t), int(h), int(w)) for t, h, w in grid_thw.tolist()]
        vision = self._vision
        levels = grey_levels(self._adapter.pixel_std, pixels.shape[-1]).to(pixels.device)
        found = still_map(
            pixels,
            grids,
            levels,
            tolerance=self.tolerance,
            merge=vision.merge_size,
            side=self._cell,
        )
        still = StillMap(found.source.cpu(), found.grids)  # the one wait for the device
        # 2. Pack the units that changed, in the encoder's own order.
        raster = self._adapter.vision_raster_order(grid_thw)
        order = torch.arange(len(still.source)) if raster is None else torch.argsort(raster)
        packing = pack(still, order, window=self._window, patches=self._adapter.merge_unit)
        if len(packing.chosen) < len(packing.place):
            self.packing = packing
        self._calls.append(self._facts(still, packing, grids))

    def _facts(
        self, still: StillMap, packing: Packing, grids: list[tuple[int, int, int]]
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
            tolerance_levels=self.tolerance,
            grids=len(per_grid),
            whole_grids=sum(encoded == size for encoded, size in per_grid),
            still_grids=sum(encoded == 0 for encoded, _ in per_grid),
            tokens=len(packing.place),
            encoded_tokens=len(packing.chosen),
            saved_flops=vision_flops(self._vision, grids) - executed,
        )

    def _skipping(self, encode: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            packing = self.packing
            if packing is None:
                return encode(*args, **kwargs)
            pixels, grid_thw = _pixels_and_grids(args, kwargs)
            chosen = positions(packing.chosen, self._adapter.merge_unit).to(pixels.device)
            gathers = self._gathers(packing, pixels.device)
            arguments = self._adapter.packed_vision_arguments(grid_thw, packing)
            if not gathers:
                output = encode(pixels[chosen], grid_thw=grid_thw, **arguments)
            else:
                # Units that were left out are still keys of the others in their segment: these
                # take them from where the unit was last encoded, elsewhere in the packed sequence.
                with use_gathered(self._adapter):
                    output = encode(pixels[chosen], grid_thw=grid_thw, gathers=gathers, **arguments)
            return self._expanded(output, packing)

        return forward

    def _gathers(self, packing: Packing, device: torch.device) -> dict[nn.Module, Any]:
        """Where the attention of each block finds its keys, if not among its queries."""
        full, windowed = (
            tuple((batch.queries.to(device), batch.keys.to(device)) for batch in segments.batches)
            for segments in (packing.full, packing.windowed)
        )
        # Blocks that see a whole grid and blocks that see windows cut the sequence differently.
        sees_all = self._vision.full_attention_blocks
        gathers = {}
        for number, attention in enumerate(self._adapter.packed_attentions):
            whole = self._vision.window_size is None or number in sees_all
            batches = full if whole else windowed
            if batches:
                gathers[attention] = batches
        return gathers

    def _expanded(self, output: Any, packing: Packing) -> Any:
        """The output for all units, in the order of the prompt."""
        # Tokens in the order of the prompt, patches in the encoder's own order, as without Stage 0.
        place = packing.place.to(output.pooler_output.device)
        output.pooler_output = output.pooler_output[place]
        output.last_hidden_state = self.expand(output.last_hidden_state)
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
