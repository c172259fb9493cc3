"""FLOPs that the selection itself adds, in the convention of `seats_cli.cost.flops`."""

from __future__ import annotations

from collections.abc import Iterable

from seats_cli.architecture import Architecture


def diversity_flops(windows: Iterable[int], hidden_size: int) -> int:
    """Stage I: cosine similarities of all pairs in each window.

    Parameters
    ----------
    windows : iterable of int
        Tokens of each window.
    hidden_size : int
        Width of the embeddings.

    Returns
    -------
    int
        FLOPs; the greedy steps only compare numbers and are left out.
    """
    return 2 * hidden_size * sum(size**2 for size in windows)


def importance_flops(windows: Iterable[int], hidden_size: int) -> int:
    """Stage I: the encoder's last queries against its keys in each statistics window.

    Parameters
    ----------
    windows : iterable of int
        Encoder positions of each window.
    hidden_size : int
        Width of the encoder. Its query and key projections run once more.

    Returns
    -------
    int
        FLOPs.
    """
    sizes = list(windows)
    return 2 * hidden_size * sum(size**2 + 2 * hidden_size * size for size in sizes)


def relevance_flops(architecture: Architecture, tokens: int) -> int:
    """Stage II at one drop layer: keys of all tokens, one query, one row of scores.

    Parameters
    ----------
    architecture : Architecture
        Shapes of the LLM.
    tokens : int
        Tokens alive before the drop.

    Returns
    -------
    int
        FLOPs.
    """
    query_width = architecture.num_heads * architecture.head_dim
    key_width = architecture.num_kv_heads * architecture.head_dim
    projections = architecture.hidden_size * (tokens * key_width + query_width)
    return 2 * (projections + tokens * query_width)
