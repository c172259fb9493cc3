"""Stage 0: which parts of a video have not changed, and how the rest is packed for the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

# A grid is encoded whole as soon as more than this share of it has changed since one was encoded
# whole: features also hold what the encoder saw around them, which must not become outdated.
MOST = 0.25
# How much changes count that do not show in the averages of a patch's quarters.
FINE_SHARE = 0.25
_PICTURES = 6  # in a patch: three colours of two frames


@dataclass(frozen=True)
class ReuseFacts:
    """What of a prompt's frames Stage 0 did not encode again, because it had not changed.

    Grids are temporal grids (two frames); tokens are those of the prompt.
    """

    tolerance_levels: float  # grey levels of 0..255
    grids: int
    whole_grids: int  # encoded as a whole
    still_grids: int  # not encoded at all
    tokens: int
    encoded_tokens: int
    saved_flops: float

    @property
    def partial_grids(self) -> int:
        """Grids that are encoded in part."""
        return self.grids - self.whole_grids - self.still_grids


@dataclass(frozen=True, eq=False)
class StillMap:
    """Where the features of every place come from.

    A unit is what becomes one LLM token: a square of patches that the encoder merges.
    """

    # LongTensor, shape (n,): for each unit, in the order of the prompt, the unit whose features it
    # gets: itself if it is encoded, else one at the same place in an earlier grid of the same clip.
    source: Tensor
    # Temporal grids, and units in height and width, of each clip.
    grids: tuple[tuple[int, int, int], ...]

    @property
    def encoded(self) -> Tensor:
        """Bool tensor, shape (n,): units that are encoded."""
        return self.source == torch.arange(len(self.source), device=self.source.device)

    def per_grid(self) -> list[tuple[int, int]]:
        """Units encoded and units there, of each temporal grid."""
        sizes = [height * width for times, height, width in self.grids for _ in range(times)]
        parts = torch.split(self.encoded, sizes)
        counts: list[int] = torch.stack([part.sum() for part in parts]).tolist() if parts else []
        return list(zip(counts, sizes, strict=True))


def grey_levels(std: tuple[float, float, float], values: int) -> Tensor:
    """Grey levels (0..255) that a step of 1 in each value of a normalised patch stands for.

    A patch holds its colours one after the other, each with all its pixels; `std` is by what
    the processor divided red, green and blue (0..1). float32, shape (values,).
    """
    return 255.0 * torch.tensor(std).repeat_interleave(values // len(std))


def still_map(
    pixels: Tensor,
    grid_thw: list[tuple[int, int, int]],
    levels: Tensor,
    *,
    tolerance: float,
    merge: int,
    side: int | None,
) -> StillMap:
    """Compare every place with what was last encoded there.

    The reference is the content that was last encoded, not the previous grid, so that a slow
    change is noticed as soon as it has added up to the tolerance.

    Parameters
    ----------
    pixels : Tensor, shape (patches, values)
        Normalised, clip after clip, grid after grid, unit after unit as the processor gives them.
    grid_thw : list of (int, int, int)
        Temporal grids, and patches in height and width, of each clip.
    levels : Tensor, shape (values,)
        Of `grey_levels`.
    tolerance : float
        Largest change, in grey levels of 0..255, that still counts as none; 0 for equal pixels.
    merge : int
        Patches on a side of a unit.
    side : int or None
        Units on a side of the cells that change as a whole; None takes whole grids.
    """
    sources: list[Tensor] = []
    offset = done = 0
    for times, height, width in grid_thw:
        # 1. The clip's first grid is encoded whole: source and reference of every unit.
        rows, columns, patches = height // merge, width // merge, height * width
        cell = unit_cells(rows, columns, side).to(pixels.device)
        number, size = int(cell.max()) + 1, rows * columns
        clip = pixels[offset : offset + times * patches].view(times, size, merge**2, -1)
        places = torch.arange(size, device=pixels.device)
        reference, source = clip[0], places + done
        touched = torch.zeros_like(places, dtype=torch.bool)  # since a grid was encoded whole
        sources.append(source)
        for time in range(1, times):
            # 2. A cell moves as a whole as soon as one of its units does: it is an attention window
            #    of the encoder, where that has windows, and is encoded together.
            found = change(clip[time], reference, levels).amax(-1)
            worst = found.new_zeros(number).scatter_reduce(0, cell, found, "amax")
            moved = (worst > tolerance)[cell]
            # 3. Too much is new: the whole grid is encoded, and counting starts again.
            touched |= moved
            whole = touched.float().mean() > MOST
            moved, touched = moved | whole, touched & ~whole
            # 4. What moved is its own source and the new reference; the rest keeps the older one.
            source = torch.where(moved, places + done + time * size, source)
            reference = torch.where(moved[:, None, None], clip[time], reference)
            sources.append(source)
        offset, done = offset + times * patches, done + times * size
    units = tuple((t, h // merge, w // merge) for t, h, w in grid_thw)
    return StillMap(torch.cat(sources), units)


def unit_cells(rows: int, columns: int, side: int | None) -> Tensor:
    """LongTensor (rows * columns,): the cell of every unit of a grid, row by row."""
    if side is None:
        return torch.zeros(rows * columns, dtype=torch.long)
    row, column = torch.arange(rows) // side, torch.arange(columns) // side
    return (row[:, None] * -(-columns // side) + column).flatten()


def change(now: Tensor, before: Tensor, levels: Tensor) -> Tensor:
    """How much patches have changed.

    The root mean square over the averages of a patch's quarters, colours and frames, or a quarter
    of that over single pixels if it is more: noise of a sensor or a codec nearly vanishes in the
    averages, whereas a thin stroke moves them, and a fine pattern that has shifted is noticed by
    its pixels.

    From normalised patches `now` and `before`, shape (..., values), to grey levels: float32,
    shape (...), 0 only for equal patches.
    """
    difference = (now.float() - before.float()) * levels
    side = isqrt(difference.shape[-1] // _PICTURES)
    quarters = difference.reshape(*difference.shape[:-1], _PICTURES, 2, side // 2, 2, side // 2)
    quarters = quarters.mean((-3, -1))
    coarse = quarters.flatten(-3).square().mean(-1).sqrt()
    return torch.maximum(coarse, difference.square().mean(-1).sqrt() * FINE_SHARE)


class PackedGrids(NamedTuple):
    """Packed positions in segments with equally many queries and equally many keys."""

    queries: Tensor  # LongTensor, shape (segments, q)
    keys: Tensor  # LongTensor, shape (segments, k): what they attend to, also in earlier grids


@dataclass(frozen=True, eq=False)
class Segments:
    """The attention segments (grids or windows) of which at least one unit is encoded."""

    queries: tuple[int, ...]  # encoded positions of each
    # What they attend to; empty if every segment is encoded whole, so that nothing is needed from
    # outside of it.
    batches: tuple[PackedGrids, ...]

    @property
    def borders(self) -> Tensor:
        """int32 Tensor, shape (segments + 1,): where they begin in the packed sequence."""
        return torch.tensor((0, *self.queries)).cumsum(0).to(torch.int32)

    @property
    def pairs(self) -> int:
        """Query-key pairs of one attention."""
        if not self.batches:
            return sum(count**2 for count in self.queries)
        return sum(batch.queries.numel() * batch.keys.shape[1] for batch in self.batches)


@dataclass(frozen=True, eq=False)
class Packing:
    """What of a video is encoded, on the CPU."""

    # LongTensor, shape (m,): units that are encoded, numbered as in the prompt, in the encoder's
    # own order.
    chosen: Tensor
    # LongTensor, shape (n,): for each unit of the prompt, which of those it gets its features from.
    place: Tensor
    order: Tensor  # LongTensor, shape (n,): the encoder's order of all units
    # Of the blocks that see a whole grid, and of the others.
    full: Segments
    windowed: Segments


def pack(still: StillMap, order: Tensor, *, window: int | None, patches: int) -> Packing:
    """Work out what the encoder is to be given.

    Parameters
    ----------
    order : LongTensor, shape (n,)
        Units of the prompt in the encoder's order, in which a segment's units are neighbours.
    window : int or None
        Units on a side of an attention window; None where all blocks see a whole grid.
    patches : int
        Encoder positions in a unit.
    """
    # 1. The units to encode, in the encoder's order, and where each of them is packed.
    source, order = still.source.cpu(), order.cpu()
    count = len(source)
    encoded = (source == torch.arange(count))[order]
    chosen = order[encoded]
    position = torch.empty(count, dtype=torch.long)
    position[chosen] = torch.arange(len(chosen))
    # 2. Every unit of the prompt takes its features from the place of its source.
    place = position[source]
    # 3. Attention over whole grids and over windows cuts the packed sequence differently.
    full, windowed = (
        _segments(_segment_of(still, side)[order], encoded, place[order], patches)
        for side in (None, window)
    )
    return Packing(chosen, place, order, full, windowed)


def positions(units: Tensor, patches: int) -> Tensor:
    """Encoder positions of units, which lie side by side."""
    return (units[..., None] * patches + torch.arange(patches, device=units.device)).flatten(-2)


def _segment_of(still: StillMap, side: int | None) -> Tensor:
    """The attention segment of each unit, numbered in the encoder's order."""
    ids, number = [], 0
    for times, rows, columns in still.grids:
        cells = unit_cells(rows, columns, side)
        inside = int(cells.max()) + 1
        ids.append((cells + inside * torch.arange(times)[:, None]).flatten() + number)
        number += inside * times
    return torch.cat(ids)


def _segments(segment: Tensor, encoded: Tensor, place: Tensor, patches: int) -> Segments:
    """From the segment, the encoding and the place of each unit in the encoder's order."""
    # 1. Units of each segment, and how many of them are encoded.
    sizes = torch.bincount(segment)
    counts = torch.bincount(segment[encoded], minlength=len(sizes))
    queries = tuple((patches * counts[counts > 0]).tolist())
    # 2. Segments are encoded whole or not at all: stock attention within them is right.
    if bool((counts.remainder(sizes) == 0).all()):
        return Segments(queries, ())
    # 3. Otherwise a query also attends to units of its segment that are encoded with an earlier
    #    grid. Segments with the same numbers of queries and keys make one batch.
    key_starts = sizes.cumsum(0) - sizes
    query_starts = counts.cumsum(0) - counts
    batches = []
    for number, size in sorted(set(zip(counts.tolist(), sizes.tolist(), strict=True))):
        if not number:
            continue
        alike = ((counts == number) & (sizes == size)).nonzero()
        own = query_starts[alike] + torch.arange(number)
        seen = place[key_starts[alike] + torch.arange(size)]
        batches.append(PackedGrids(positions(own, patches), positions(seen, patches)))
    return Segments(queries, tuple(batches))
