"""Windows and temporal grids: runs of tokens within clips and across modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from seats_cli.selection.device import on_device
from seats_cli.selection.method import Modality


def fixed_windows(
    total: int, window: int | Sequence[int], lengths: Sequence[int] | None = None
) -> dict[int, list[int]]:
    """Cut a token list into windows that never span two clips, grouped by size.

    Parameters
    ----------
    total : int
        Tokens in the list.
    window : int or sequence of int
        Tokens in a full window: one number for all clips, or one for each clip.
    lengths : sequence of int, optional
        Tokens of each clip, in order; by default one clip holds all.

    Returns
    -------
    dict of int to list of int
        Window size to the start offsets of the windows of that size. The last window of a
        clip may be shorter than the others.

    Raises
    ------
    ValueError
        If the lengths do not add up to `total`, or a window is shorter than one token.
    """
    # Grouped by size, so that what is done per window becomes one batched operation per size.
    lengths = [total] if lengths is None else list(lengths)
    sizes = [window] * len(lengths) if isinstance(window, int) else list(window)
    if len(sizes) != len(lengths):
        raise ValueError(f"window has {len(sizes)} sizes for {len(lengths)} clips")
    if min(sizes, default=1) < 1:
        raise ValueError(f"window must be at least 1 token, got {min(sizes)}")
    if sum(lengths) != total or min(lengths, default=0) < 0:
        raise ValueError(f"lengths {lengths} must be non-negative and add up to {total} tokens")
    starts_of: dict[int, list[int]] = {}
    offset = 0
    for length, size in zip(lengths, sizes, strict=True):
        full = length // size
        if full:
            starts_of.setdefault(size, []).extend(range(offset, offset + full * size, size))
        if length % size:
            starts_of.setdefault(length % size, []).append(offset + full * size)
        offset += length
    return starts_of


def window_tokens(starts: Sequence[int], size: int, device: torch.device) -> Tensor:
    """LongTensor (W, size): the tokens of windows of equal size, from their start offsets."""
    return on_device(starts, device).unsqueeze(1) + torch.arange(size, device=device)


@dataclass(frozen=True, eq=False)
class Runs:
    """The maximal contiguous runs of one modality."""

    # LongTensor, shape (n,): sequence positions of the modality's tokens, ascending.
    positions: Tensor
    index: Tensor  # LongTensor, shape (n,): run that each token belongs to, ascending from 0
    sizes: list[int]  # tokens in each run

    @property
    def total(self) -> int:
        """Tokens of the modality."""
        return int(self.positions.numel())


def contiguous_runs(mask: Tensor) -> Runs:
    """Find the runs of True in a modality's mask (S,).

    They stay on the device of `mask`; only the run sizes come to the host.
    """
    positions = mask.nonzero().squeeze(1)
    if positions.numel() == 0:
        return Runs(positions, positions, [])
    # A step larger than 1 between neighbours begins a run: the steps' running count numbers them.
    index = torch.zeros_like(positions)
    torch.cumsum(positions.diff() != 1, 0, out=index[1:])
    sizes: list[int] = torch.bincount(index).tolist()
    return Runs(positions, index, sizes)


def pair_windows(video: Runs, audio: Runs) -> list[tuple[int, int]]:
    """Temporal windows: video runs paired in order with audio runs (arXiv 2605.20035, Stage II).

    Video and audio tokens of each window, which consists of run w of both; 0 where the window
    lacks the modality.
    """
    return list(zip_longest(video.sizes, audio.sizes, fillvalue=0))


@dataclass(frozen=True, eq=False)
class Grids:
    """The grids of all clips, in sequence order."""

    sizes: list[int]  # tokens of each grid
    numbers: list[int]  # number of each grid within its clip, from 0
    index: Tensor  # LongTensor, shape (n,): grid that each token belongs to, ascending from 0

    def per_token(self, values: Sequence[int]) -> Tensor:
        """One value for each grid, (G,), as one for each of its tokens, (n,)."""
        return torch.tensor(list(values), device=self.index.device)[self.index]


def split_grids(video: Modality) -> Grids:
    """Cut the clips of a prompt into their temporal grids."""
    sizes: list[int] = []
    numbers: list[int] = []
    for length, grid in zip(video.lengths, video.grids, strict=True):
        count = length // grid
        sizes += [grid] * count
        numbers += range(count)
    index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
    return Grids(sizes, numbers, index.to(video.mask.device))


def similarity_to_earlier(features: Tensor, back: Tensor) -> Tensor:
    """Cosine similarity of each token to the one `back` tokens before it; 0 is the token itself.

    Features of shape (n, D) and a LongTensor (n,) give float32, shape (n,): 0 where a feature
    has no length.
    """
    features = features.float()
    earlier = features[torch.arange(len(features), device=features.device) - back]
    return cosine_similarity(features, earlier, dim=-1).nan_to_num(nan=0.0)
