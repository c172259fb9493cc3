"""How what Stage 0 encodes is packed: an order, attention segments, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seats_cli.selection.still import StillMap, unit_cells


@dataclass(frozen=True, eq=False)
class Batch:
    """Segments with equally many queries and equally many keys.

    Parameters
    ----------
    queries : LongTensor, shape (segments, q)
        Packed positions that ask.
    keys : LongTensor, shape (segments, k)
        Packed positions that are attended to, those of earlier grids among them.
    """

    queries: Tensor
    keys: Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """The attention segments (grids or windows) of which at least one unit is encoded.

    Parameters
    ----------
    queries : tuple of int
        Encoded positions of each.
    batches : tuple of Batch
        What they attend to; empty if every segment is encoded whole, so that nothing is needed
        from outside of it.
    """

    queries: tuple[int, ...]
    batches: tuple[Batch, ...]

    @property
    def borders(self) -> Tensor:
        """int32 Tensor, shape (segments + 1,): where they begin in the packed sequence."""
        counts = torch.tensor((0, *self.queries))
        return counts.cumsum(0).to(torch.int32)

    @property
    def pairs(self) -> int:
        """Query-key pairs of one attention."""
        if not self.batches:
            return sum(count**2 for count in self.queries)
        return sum(batch.queries.numel() * batch.keys.shape[1] for batch in self.batches)


@dataclass(frozen=True, eq=False)
class Packing:
    """What of a video is encoded, on the CPU.

    Parameters
    ----------
    chosen : LongTensor, shape (m,)
        Units that are encoded, numbered as in the prompt, in the encoder's own order.
    place : LongTensor, shape (n,)
        For each unit of the prompt, which of those it gets its features from.
    order : LongTensor, shape (n,)
        The encoder's order of all units.
    full, windowed : Segments
        Of the blocks that see a whole grid, and of the others.
    """

    chosen: Tensor
    place: Tensor
    order: Tensor
    full: Segments
    windowed: Segments


def pack(still: StillMap, order: Tensor, *, window: int | None, patches: int) -> Packing:
    """Work out what the encoder is to be given.

    Parameters
    ----------
    still : StillMap
    order : LongTensor, shape (n,)
        Units of the prompt in the encoder's order, in which a segment's units are neighbours.
    window : int or None
        Units on a side of an attention window; None where all blocks see a whole grid.
    patches : int
        Encoder positions in a unit.

    Returns
    -------
    Packing
    """
    source, order = still.source.cpu(), order.cpu()
    count = len(source)
    encoded = (source == torch.arange(count))[order]
    chosen = order[encoded]
    position = torch.empty(count, dtype=torch.long)
    position[chosen] = torch.arange(len(chosen))
    place = position[source]
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
    sizes = torch.bincount(segment)
    counts = torch.bincount(segment[encoded], minlength=len(sizes))
    queries = tuple((patches * counts[counts > 0]).tolist())
    if bool((counts.remainder(sizes) == 0).all()):
        return Segments(queries, ())
    key_starts = sizes.cumsum(0) - sizes
    query_starts = counts.cumsum(0) - counts
    batches = []
    for asking, size in sorted(set(zip(counts.tolist(), sizes.tolist(), strict=True))):
        if not asking:
            continue
        alike = ((counts == asking) & (sizes == size)).nonzero()
        own = query_starts[alike] + torch.arange(asking)
        seen = place[key_starts[alike] + torch.arange(size)]
        batches.append(Batch(positions(own, patches), positions(seen, patches)))
    return Segments(queries, tuple(batches))
