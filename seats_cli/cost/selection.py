"""FLOPs that the selection itself adds, in the convention of `seats_cli.cost.flops`."""

from __future__ import annotations

from collections.abc import Iterable

from seats_cli.cost.token_counts import (
    MediaSizes,
    audio_statistics_windows,
    audio_windows,
    tokens_to_keep,
    video_windows,
)
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan

# Rows and columns of a matrix of similarities, and the width of the vectors compared.
Product = tuple[int, int, int]


def pairs(windows: Iterable[int], width: int) -> list[Product]:
    """The products by which all tokens of each window are compared with each other."""
    return [(size, size, width) for size in windows]


def comparison_flops(products: Iterable[Product]) -> int:
    """Similarities of tokens: all pairs of each window for Stage I.

    Parameters
    ----------
    products : iterable of (int, int, int)
        Rows, columns, and width of the vectors.

    Returns
    -------
    int
        FLOPs; what follows only compares numbers and is left out, as is all that is no matrix
        product.
    """
    return 2 * sum(rows * columns * width for rows, columns, width in products)


def importance_flops(windows: Iterable[int], hidden_size: int) -> int:
    """Stage I: the encoder's last queries against its keys in each statistics window.

    Parameters
    ----------
    windows : iterable of int
        Encoder positions of each window.
    hidden_size : int
        Width of the encoder, whose own queries and keys are used.

    Returns
    -------
    int
        FLOPs.
    """
    return comparison_flops(pairs(windows, hidden_size))


def relevance_flops(architecture: Architecture, tokens: int, queries: int = 1) -> int:
    """Stage II at one drop layer: keys of all tokens, a few queries, their scores.

    Parameters
    ----------
    architecture : Architecture
        Shapes of the LLM.
    tokens : int
        Tokens alive before the drop.
    queries : int
        Tokens that ask: the last text token for SEATS.

    Returns
    -------
    int
        FLOPs.
    """
    query_width = architecture.num_heads * architecture.head_dim
    key_width = architecture.num_kv_heads * architecture.head_dim
    projections = architecture.hidden_size * (tokens * key_width + queries * query_width)
    return 2 * (projections + queries * tokens * query_width)


def selection_flops(
    architecture: Architecture,
    sizes: MediaSizes,
    plan: PruningPlan,
    *,
    importance: bool,
    compared: Iterable[Product],
    scored: Iterable[int],
    queries: int = 1,
) -> int:
    """Everything that choosing tokens adds to one prefill.

    Parameters
    ----------
    architecture : Architecture
        Shapes of the model.
    sizes : MediaSizes
        What the encoders were given.
    plan : PruningPlan
        Its windows.
    importance : bool
        Whether the method reads the attention received in the encoders' last layers.
    compared : iterable of (int, int, int)
        Rows, columns and width of each comparison of tokens before the LLM.
    scored : iterable of int
        Tokens alive before each drop inside the LLM that asked for relevance.
    queries : int
        Tokens whose attention counts as relevance.

    Returns
    -------
    int
        FLOPs.
    """
    total = comparison_flops(compared)
    total += sum(relevance_flops(architecture, tokens, queries) for tokens in scored)
    if importance:
        unit = architecture.vision.merge_size**2
        windows = video_windows(architecture, sizes, plan.config.video_window)
        total += importance_flops(
            (unit * size for size in windows), architecture.vision.hidden_size
        )
        total += importance_flops(
            audio_statistics_windows(architecture, sizes), architecture.audio.hidden_size
        )
    return total


def stage1_windows(
    architecture: Architecture,
    sizes: MediaSizes,
    plan: PruningPlan,
    *,
    video: float,
    audio: float,
) -> list[int]:
    """Tokens of each window that Stage I has to choose from.

    Parameters
    ----------
    architecture : Architecture
    sizes : MediaSizes
    plan : PruningPlan
        Its windows.
    video, audio : float
        Share of each window that stays. Windows that stay whole are left out.
    """
    return [
        size
        for windows, share in (
            (video_windows(architecture, sizes, plan.config.video_window), video),
            (audio_windows(architecture, sizes, plan.config.audio_window), audio),
        )
        for size in windows
        if tokens_to_keep(size, share) < size
    ]
