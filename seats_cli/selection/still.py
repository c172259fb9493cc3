"""Stage 0: which parts of a video have not changed since they were last encoded.

A vision encoder of Qwen-Omni never attends from one temporal grid to another, and its positions
are spatial only. A grid whose pixels repeat those of an earlier one therefore gets the same
features, and one that nearly repeats it nearly the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

# A grid is encoded whole as soon as more than this share of it has changed since one was encoded
# whole: every place also holds what its encoder saw around it, which must not grow old.
MOST = 0.25
# How much changes count that do not show in the averages of a patch's quarters.
FINE_SHARE = 0.25
_PICTURES = 6  # in a patch: three colours of two frames


@dataclass(frozen=True, eq=False)
class StillMap:
    """Where the features of every place come from.

    A unit is what becomes one LLM token: a square of patches that the encoder merges.

    Parameters
    ----------
    source : LongTensor, shape (n,)
        For each unit, in the order of the prompt, the unit whose features it gets: itself if it
        is encoded, else one at the same place in an earlier grid of the same clip.
    grids : tuple of (int, int, int)
        Temporal grids, and units in height and width, of each clip.
    """

    source: Tensor
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

    Parameters
    ----------
    std : three floats
        Standard deviations by which the processor divided red, green and blue (0..1).
    values : int
        Of a patch: colours one after the other, each with all its pixels.

    Returns
    -------
    float32 Tensor, shape (values,)
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

    Returns
    -------
    StillMap
    """
    sources: list[Tensor] = []
    offset = done = 0
    for times, height, width in grid_thw:
        rows, columns, patches = height // merge, width // merge, height * width
        cell = unit_cells(rows, columns, side).to(pixels.device)
        number, size = int(cell.max()) + 1, rows * columns
        clip = pixels[offset : offset + times * patches].view(times, size, merge**2, -1)
        places = torch.arange(size, device=pixels.device)
        reference, source = clip[0], places + done
        touched = torch.zeros_like(places, dtype=torch.bool)  # since a grid was encoded whole
        sources.append(source)
        for time in range(1, times):
            found = change(clip[time], reference, levels).amax(-1)
            worst = found.new_zeros(number).scatter_reduce(0, cell, found, "amax")
            moved = (worst > tolerance)[cell]
            touched |= moved
            whole = touched.float().mean() > MOST
            moved, touched = moved | whole, touched & ~whole
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

    Parameters
    ----------
    now, before : Tensor, shape (..., values)
        Normalised patches.
    levels : Tensor, shape (values,)

    Returns
    -------
    float32 Tensor, shape (...)
        Grey levels; 0 only for equal patches.
    """
    difference = (now.float() - before.float()) * levels
    side = isqrt(difference.shape[-1] // _PICTURES)
    quarters = difference.reshape(*difference.shape[:-1], _PICTURES, 2, side // 2, 2, side // 2)
    quarters = quarters.mean((-3, -1))
    coarse = quarters.flatten(-3).square().mean(-1).sqrt()
    return torch.maximum(coarse, difference.square().mean(-1).sqrt() * FINE_SHARE)
