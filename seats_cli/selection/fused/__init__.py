"""Stage I in few launches on a GPU: Triton kernels where they run (`seats_cli.gpu`).

They choose the same tokens from the same distances, and compute attention in the precision of
the plain version.
"""

from __future__ import annotations

from torch import Tensor

from seats_cli import gpu

_LARGEST_WINDOW = 8192  # a program holds a number for every token of a window
_WIDEST_HEAD = 256


def greedy_max_min(distance: Tensor, keep: int) -> Tensor | None:
    """The greedy choice of all windows; None where the plain version has to do it.

    Parameters and result as for `seats_cli.selection.fused.launch.greedy_max_min`.
    """
    if not gpu.usable(distance.device) or distance.shape[-1] > _LARGEST_WINDOW:
        return None

    def launched() -> Tensor:
        from seats_cli.selection.fused.launch import greedy_max_min

        return greedy_max_min(distance, keep)

    return gpu.attempt(launched, distance.device)


def received_in_windows(query: Tensor, key: Tensor, starts: Tensor, size: int) -> Tensor | None:
    """Attention received in equal windows; None where the plain version has to do it.

    Parameters and result as for `seats_cli.selection.fused.launch.received_in_windows`.
    """
    fits = query.shape[-1] <= _WIDEST_HEAD and query.dtype == key.dtype
    if not gpu.usable(query.device) or not fits:
        return None

    def launched() -> Tensor:
        from seats_cli.selection.fused.launch import received_in_windows

        return received_in_windows(query, key, starts, size)

    return gpu.attempt(launched, query.device)
