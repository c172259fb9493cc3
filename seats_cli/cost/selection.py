"""FLOPs that the selection itself adds, in the convention of `seats_cli.cost.flops`."""

from __future__ import annotations

from collections.abc import Iterable

from seats_cli.architecture import Architecture
from seats_cli.cost.sizes import (
    MediaSizes,
    audio_statistics_windows,
    audio_windows,
    video_windows,
)
from seats_cli.families import QWEN3
from seats_cli.plan import PruningPlan


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


def importance_flops(windows: Iterable[int], hidden_size: int, projections: int = 2) -> int:
    """Stage I: the encoder's last queries against its keys in each statistics window.

    Parameters
    ----------
    windows : iterable of int
        Encoder positions of each window.
    hidden_size : int
        Width of the encoder. Its query and key projections run once more.
    projections : int
        Square projections that this takes: 3 where they cannot be had without the values'.

    Returns
    -------
    int
        FLOPs.
    """
    sizes = list(windows)
    return 2 * hidden_size * sum(size**2 + projections * hidden_size * size for size in sizes)


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
    compared: Iterable[int],
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
    compared : iterable of int
        Tokens of each group that is compared pair by pair before the LLM (`stage1_windows`
        for SEATS).
    scored : iterable of int
        Tokens alive before each drop inside the LLM that asked for relevance.
    queries : int
        Tokens whose attention counts as relevance.

    Returns
    -------
    int
        FLOPs.
    """
    total = diversity_flops(compared, architecture.hidden_size)
    total += sum(relevance_flops(architecture, tokens, queries) for tokens in scored)
    if importance:
        unit = architecture.vision.merge_size**2
        windows = video_windows(architecture, sizes, plan.video_window)
        total += importance_flops(
            (unit * size for size in windows),
            architecture.vision.hidden_size,
            # Qwen3's vision attention projects queries, keys and values in one matrix.
            projections=3 if architecture.family == QWEN3 else 2,
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
    video: bool,
    audio: bool,
) -> list[int]:
    """Tokens of each window that Stage I chooses from, in the modalities it touches."""
    windows = video_windows(architecture, sizes, plan.video_window) if video else []
    if audio:
        windows += audio_windows(architecture, sizes, plan.audio_window)
    return windows
