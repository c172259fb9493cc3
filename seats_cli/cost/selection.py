"""FLOPs that the selection itself adds, in the convention of `seats_cli.cost.flops`."""

from __future__ import annotations

from collections.abc import Collection, Iterable

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
    """Matrix products of rows, columns and width; what follows only compares numbers."""
    return 2 * sum(rows * columns * width for rows, columns, width in products)


def relevance_flops(architecture: Architecture, tokens: int, queries: int = 1) -> int:
    """Stage II at one drop layer: keys of all tokens, a few queries, their scores.

    Parameters
    ----------
    tokens : int
        Tokens alive before the drop.
    queries : int
        Tokens that ask: the last text token for SEATS.
    """
    query_width = architecture.num_heads * architecture.head_dim
    key_width = architecture.num_kv_heads * architecture.head_dim
    projections = architecture.hidden_size * (tokens * key_width + queries * query_width)
    return 2 * (projections + queries * tokens * query_width)


def query_flops(architecture: Architecture, tokens: int) -> int:
    """One token's query and key in a layer, and its scores against keys that are there already."""
    width = architecture.num_heads * architecture.head_dim
    key = architecture.num_kv_heads * architecture.head_dim
    return 2 * architecture.hidden_size * (width + key) + 2 * width * tokens


def selection_flops(
    architecture: Architecture,
    sizes: MediaSizes,
    plan: PruningPlan,
    *,
    importance: Collection[str],
    compared: Iterable[Product],
    scored: Iterable[int],
    queries: int = 1,
) -> int:
    """Everything that choosing tokens adds to one prefill.

    Parameters
    ----------
    sizes : MediaSizes
        What the encoders were given.
    plan : PruningPlan
        Its windows.
    importance : collection of str
        Of "video" and "audio" those for which the attention received in the encoder's last layer is
        worked out.
    compared : iterable of (int, int, int)
        Rows, columns and width of each comparison of tokens before the LLM.
    scored : iterable of int
        Tokens alive before each drop inside the LLM that needed relevance.
    queries : int
        Tokens whose attention counts as relevance.
    """
    products = list(compared)
    # An encoder's last queries against its keys in each statistics window.
    if "video" in importance:
        vision, unit = architecture.vision, architecture.vision.merge_size**2
        windows = video_windows(architecture, sizes, plan.config.video_window)
        products += pairs((unit * size for size in windows), vision.hidden_size)
    if "audio" in importance:
        windows = audio_statistics_windows(architecture, sizes)
        products += pairs(windows, architecture.audio.hidden_size)
    relevance = sum(relevance_flops(architecture, tokens, queries) for tokens in scored)
    return comparison_flops(products) + relevance


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
