"""Stage II: the relevance of audio-visual tokens to the question, and the ones that stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seats_cli.config import ALLOCATIONS, GLOBAL
from seats_cli.cost.token_counts import tokens_to_keep
from seats_cli.selection.allocation import (
    WEIGHTS,
    Window,
    adaptive_budgets,
    reference_budgets,
    window_weights,
)
from seats_cli.selection.method import Heads
from seats_cli.selection.topk import keep_highest, keep_highest_in_runs
from seats_cli.selection.windows import Runs, contiguous_runs, pair_windows

HEADS_PART = 4  # one of so many heads counts where not all do
_MAX_SCORES = 1 << 27  # of several queries, held at once (float32: 512 MiB)


@torch.no_grad()
def last_query_relevance(query: Tensor, key: Tensor) -> Tensor:
    """Attention of one query over the sequence, averaged over heads.

    Parameters
    ----------
    query : Tensor, shape (H, d)
        The last text token's query, after rotary embedding; any floating dtype.
    key : Tensor, shape (Hkv, S, d)
        Keys of the whole sequence; query head h reads key head `h // (H // Hkv)`.

    Returns
    -------
    float32 Tensor, shape (S,)
        `mean over heads of softmax(q K^T / sqrt(d))`; sums to 1.

    Raises
    ------
    ValueError
        If the shapes do not fit or H is not a multiple of Hkv.
    """
    if query.ndim != 2 or key.ndim != 3 or query.shape[1] != key.shape[2]:
        raise ValueError(
            f"query must have shape (H, d) and key (Hkv, S, d), got {tuple(query.shape)} "
            f"and {tuple(key.shape)}"
        )
    heads, key_heads = query.shape[0], key.shape[0]
    if heads % key_heads:
        raise ValueError(f"{heads} query heads are not a multiple of {key_heads} key heads")
    return _scores(query.unsqueeze(0), key).softmax(-1).mean((0, 1, 2))


@torch.no_grad()
def question_relevance(query: Tensor, key: Tensor, index: Tensor) -> Tensor:
    """Causal attention of some queries over the sequence, averaged over queries and heads.

    Keys and result as for `last_query_relevance`.

    Parameters
    ----------
    query : Tensor, shape (q, H, d)
        Queries of the question's tokens, after rotary embedding.
    index : LongTensor, shape (q,)
        Position of each query in the sequence: it sees itself and what is before it.
    """
    # Some queries at a time: a conversation has thousands of them.
    queries, heads, _ = query.shape
    at_once = max(1, _MAX_SCORES // (heads * key.shape[1]))
    places = torch.arange(key.shape[1], device=key.device)
    parts = []
    for some, at in zip(torch.split(query, at_once), torch.split(index, at_once), strict=True):
        # A token of the question does not see the ones behind it, as in the layer itself.
        scores = _scores(some, key).masked_fill(places > at.unsqueeze(1), -torch.inf)
        parts.append(scores.softmax(-1).mean((0, 1, 2)) * (len(some) / queries))
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


@torch.no_grad()
def over_heads(query: Tensor, key: Tensor, index: Tensor, heads: Heads, media: Tensor) -> Tensor:
    """Causal attention of some queries over the sequence, of some heads only.

    Queries, keys and index as for `question_relevance`.

    Parameters
    ----------
    heads : str
        "mean" of all, "max" over them, or "audiovisual": the mean of the quarter of the heads
        that attend to audio-visual tokens most in this prompt.
    media : BoolTensor, shape (S,)
        Which tokens are video or audio.

    Returns
    -------
    float32 Tensor, shape (S,)
        Sums to 1 unless it is a maximum.
    """
    if heads == "mean":
        return question_relevance(query, key, index)
    count = query.shape[1]
    by_head = torch.zeros(count, key.shape[1], device=key.device)
    places = torch.arange(key.shape[1], device=key.device)
    at_once = max(1, _MAX_SCORES // (count * key.shape[1]))
    for some, at in zip(torch.split(query, at_once), torch.split(index, at_once), strict=True):
        scores = _scores(some, key).masked_fill(places > at.unsqueeze(1), -torch.inf)
        by_head += scores.softmax(-1).sum(2).flatten(0, 1) / len(query)
    if heads == "max":
        return by_head.amax(0)
    attending = keep_highest(by_head[:, media].sum(-1), max(1, count // HEADS_PART))
    return by_head[attending].mean(0)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Scaled products (Hkv, H // Hkv, q, S) of queries (q, H, d) and keys (Hkv, S, d)."""
    (queries, heads, width), (key_heads, length, _) = query.shape, key.shape
    # Query heads that share a key head become rows of one product: keys are not repeated. Not
    # scaled_dot_product_attention, which gives no weights.
    grouped = query.float().view(queries, key_heads, heads // key_heads, width) * width**-0.5
    rows = grouped.permute(1, 2, 0, 3).reshape(key_heads, -1, width)
    scores = torch.matmul(rows, key.float().transpose(1, 2))
    return scores.view(key_heads, heads // key_heads, queries, length)


@dataclass(frozen=True, eq=False)
class Allocated:
    """How many tokens of each temporal window stay."""

    # The windows' tokens, window w being run w of both.
    video: Runs
    audio: Runs
    budgets: list[Window]  # video and audio tokens that stay of each window


def window_means(scores: Tensor, runs: Runs, windows: int) -> Tensor:
    """Mean of the scores (S,) in each of at least as many windows W as there are runs.

    float64 (W,) on the host; 0 for windows without the modality.
    """
    # In float64 the order in which a device adds makes no difference to a budget.
    sums = torch.zeros(windows, dtype=torch.float64, device=scores.device)
    sums.index_add_(0, runs.index, scores[runs.positions].double())
    sizes = [*runs.sizes, *[1] * (windows - len(runs.sizes))]
    return sums.cpu() / torch.tensor(sizes, dtype=torch.float64)


@torch.no_grad()
def allocate(
    scores: Tensor,
    video_mask: Tensor,
    audio_mask: Tensor,
    keep_video: float,
    keep_audio: float,
    *,
    temperature: float,
    allocation: str = "reference",
) -> Allocated:
    """The budgets that `select_by_relevance` follows; parameters and errors are the same.

    Where nothing is to be dropped, every window keeps its tokens.
    """
    if scores.ndim != 1:
        raise ValueError(f"scores must have shape (S,), got {tuple(scores.shape)}")
    for name, mask in (("video_mask", video_mask), ("audio_mask", audio_mask)):
        if mask.shape != scores.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"{name} must be a bool tensor of shape {tuple(scores.shape)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
    for name, ratio in (("keep_video", keep_video), ("keep_audio", keep_audio)):
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"{name} must be within 0 and 1, got {ratio}")
    if not temperature > 0.0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if allocation not in ALLOCATIONS:
        raise ValueError(f"allocation must be one of {ALLOCATIONS}, got {allocation!r}")
    # 1. Windows: what an interleaved prompt holds between two changes of modality.
    video, audio = contiguous_runs(video_mask), contiguous_runs(audio_mask)
    # 2. Totals of both modalities; where they are what is there, nothing has to be ranked.
    keep = (tokens_to_keep(video.total, keep_video), tokens_to_keep(audio.total, keep_audio))
    windows = pair_windows(video, audio)
    if keep == (video.total, audio.total):
        return Allocated(video, audio, windows)
    # 3. Without pairs of runs to compare, each modality is a single window.
    if len(windows) <= 1 or not video.total or not audio.total or allocation == GLOBAL:
        video, audio = (
            Runs(runs.positions, torch.zeros_like(runs.index), [runs.total])
            for runs in (video, audio)
        )
        return Allocated(video, audio, [keep])
    # 4. Budgets from the windows' mean relevance.
    finite = _finite(scores)
    means = [window_means(finite, runs, len(windows)) for runs in (video, audio)]
    if allocation in WEIGHTS:
        of_video, of_audio = (mean.tolist() for mean in means)
        budgets = adaptive_budgets(windows, of_video, of_audio, *keep, WEIGHTS[allocation])
    else:
        of_video, of_audio = (window_weights(mean, temperature) for mean in means)
        budgets = reference_budgets(windows, of_video, of_audio, *keep)
    return Allocated(video, audio, budgets)


def _ranked_behind(scores: Tensor, first: Tensor) -> Tensor:
    """Numbers (n,) that rank as the scores do, and those of `first` above all others."""
    order = scores.argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), 0, -1, device=order.device)
    return ranks + len(order) * first


def _finite(scores: Tensor) -> Tensor:
    """Float32 scores in which NaN counts as lowest."""
    limit = torch.finfo(torch.float32).max
    return scores.float().nan_to_num(nan=-limit, posinf=limit, neginf=-limit)


@torch.no_grad()
def select_by_relevance(
    scores: Tensor,
    video_mask: Tensor,
    audio_mask: Tensor,
    keep_video: float,
    keep_audio: float,
    *,
    temperature: float,
    allocation: str = "reference",
    first: Tensor | None = None,
) -> Tensor:
    """Keep the most relevant tokens, with a budget for each temporal window.

    Windows are the contiguous runs of video tokens paired in order with those of audio
    tokens. Each gets a budget from its mean relevance and keeps the tokens with the highest
    scores in either modality. With a single window, or without one of the modalities, each
    modality simply keeps its highest scores.

    Parameters
    ----------
    scores : Tensor, shape (S,)
        Relevance of every token of the sequence; NaN counts as lowest.
    video_mask, audio_mask : BoolTensor, shape (S,)
        Modality of each token; the rest is text and always kept.
    keep_video, keep_audio : float
        Fraction of each modality's tokens to keep, in [0, 1]; at least one token stays.
    temperature : float
        Temperature of the softmax over windows ("reference" only).
    allocation : str
        "reference" reproduces the published implementation. The others keep exactly
        `max(1, round(keep * n))` tokens of each modality and do not depend on the scale of the
        scores: those of `seats_cli.selection.allocation`, and "global", which has no windows.
    first : BoolTensor, shape (S,), optional
        Tokens that come before all others of their window, whatever their score. Budgets are the
        same.

    Returns
    -------
    BoolTensor, shape (S,)
        True for tokens that stay, on the device of `scores`.

    Raises
    ------
    ValueError
        If a shape or dtype does not fit or a number is out of range.
    """
    allocated = allocate(
        scores,
        video_mask,
        audio_mask,
        keep_video,
        keep_audio,
        temperature=temperature,
        allocation=allocation,
    )
    # Text stays; all windows of both modalities are ranked together, in one sort.
    kept = ~(video_mask | audio_mask)
    video, audio, windows = allocated.video, allocated.audio, allocated.budgets
    positions = torch.cat([video.positions, audio.positions])
    ranking = _finite(scores)[positions]
    if first is not None:
        ranking = _ranked_behind(ranking, first[positions])
    kept[positions] = keep_highest_in_runs(
        ranking,
        torch.cat([video.index, audio.index + len(video.sizes)]),
        [*video.sizes, *audio.sizes],
        [
            *(window[0] for window in windows[: len(video.sizes)]),
            *(window[1] for window in windows[: len(audio.sizes)]),
        ],
    )
    return kept
