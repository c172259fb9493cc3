"""Adapter for Qwen2.5-Omni (3B and 7B, and the bundled model).

transformers cuts the positions of picture and sound into chunks in a loop over tokens: tenths of a
second for a minute of video, more than the pruned prefill takes on a GPU. `chunk_borders` gives the
same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from seats_cli.families.qwen2_5_omni import FAMILY
from seats_cli.models.qwen_omni import QwenOmni


class Qwen25Omni(QwenOmni):
    """Windowed vision encoder, stride-2 audio pooling, dense decoder, 25 audio tokens/s."""

    family = FAMILY
    name = "Qwen2_5Omni"
    token_suffix = "index"
    slow_positions = "get_chunked_index"
    pixel_std = (0.26862954, 0.26130258, 0.27577711)
    usual_fps = 2.0

    def interleaved(self, processor: Any, instants: Tensor, sound: int) -> Tensor:
        """In chunks of two seconds, the picture's part of a chunk before the sound's."""
        # Settings of the processor since transformers 5.18; before, constants of its call.
        rate = getattr(processor, "position_id_per_seconds", 25)
        size = int(rate * getattr(processor, "seconds_per_chunk", 2.0))
        both = instants * rate, torch.arange(sound)
        chunks = [chunk_borders(times, size) or [] for times in both]
        pairs = zip_longest(*chunks, fillvalue=(0, 0))
        lengths = [end - begin for pair in pairs for begin, end in pair]
        picture = torch.tensor([True, False]).repeat(len(lengths) // 2)
        return picture.repeat_interleave(torch.tensor(lengths))

    def vision_raster_order(self, grid_thw: Tensor) -> Tensor | None:
        """The encoder works in the order of its attention windows: undo that permutation."""
        vision = self.config.vision_config
        window_index, _ = get_vision_window_index(
            grid_thw, vision.spatial_merge_size, vision.window_size, vision.patch_size
        )
        return torch.argsort(window_index)

    def quick_positions(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """The chunks of two seconds in which picture and sound alternate."""
        return quick_chunks(stock)


Chunks = list[tuple[int, int]]


def chunk_borders(values: Tensor, size: int, start: int | Tensor = 0) -> Chunks | None:
    """Cut positions where they reach the next multiple of a size, as Qwen2.5-Omni does.

    At most one border between two tokens: where positions jump over several multiples, the tokens
    that follow are chunks of their own until the multiples have caught up.

    Parameters
    ----------
    values : Tensor, shape (n,), on the CPU
    size : int
        Positions per chunk, at least 1.
    start : int
        Position at which the first chunk starts.

    Returns
    -------
    list of (int, int)
        Where each chunk begins and ends; None if the values do not ascend.
    """
    if bool((values[1:] < values[:-1]).any()):
        return None
    offsets, borders = (values - start).contiguous(), [0]
    least = 0
    while True:
        limit = torch.tensor(len(borders) * size, dtype=offsets.dtype)
        border = max(least, int(torch.searchsorted(offsets, limit)))
        if border >= len(values):
            break
        borders.append(border)
        least = border + 1
    return list(zip(borders, [*borders[1:], len(values)], strict=True))


def quick_chunks(stock: Callable[..., Chunks]) -> Callable[..., Chunks]:
    """Qwen2.5-Omni's `get_chunked_index` by `chunk_borders`."""

    def get_chunked_index(
        token_indices: Tensor, tokens_per_chunk: int, remove_index: int | Tensor
    ) -> Chunks:
        found = None
        if len(token_indices) and tokens_per_chunk >= 1:
            found = chunk_borders(token_indices, tokens_per_chunk, remove_index)
        return stock(token_indices, tokens_per_chunk, remove_index) if found is None else found

    return get_chunked_index
