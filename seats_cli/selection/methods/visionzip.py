"""VisionZip: attended tokens before the LLM, the rest merged (arXiv 2412.04467).

Taken from the paper: dominant tokens by the attention received in the encoder; the remaining
ones are averaged into evenly spaced targets by the similarity of their keys. Taken from the
comparison in arXiv 2605.20035: windows (two grids, 50 audio tokens) for long clips, no
contextual tokens by default, counts rounded per window, and the "-om" form that treats audio in
the same way. That code rounds the dominant count down, so a window may fall short of its budget
by less than one token. Chosen here: the contextual ratio is capped by the target, and a clip's
last, shorter window follows the same rule as the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from seats_cli.config import check_share
from seats_cli.cost.selection import Product
from seats_cli.cost.token_counts import MediaSizes, audio_windows, video_windows
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.method import Modality, Option, PromptTokens, register_method
from seats_cli.selection.methods.budgets import floor_count, spare_audio
from seats_cli.selection.methods.visual_only import VisualMethod
from seats_cli.selection.trace import SelectionTrace
from seats_cli.selection.windows import fixed_windows, window_tokens


def window_counts(size: int, ratio: float, contextual: float) -> tuple[int, int]:
    """Dominant and contextual tokens of a window of `size` tokens.

    `ratio` of them stay, `contextual` within that as merged tokens. Dominant ones are rounded
    down and contextual ones half to even, each to at least one where its fraction is above 0;
    together at most `size`.
    """
    dominant = floor_count(size, ratio - contextual)
    merged = max(round(contextual * size), 1) if contextual > 0.0 else 0
    return dominant, min(merged, size - dominant)


def merge_rest(features: Tensor, keys: Tensor, rest: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Average tokens into evenly spaced targets among them.

    Parameters
    ----------
    features : Tensor, shape (B, N, D)
        Embeddings of B windows.
    keys : Tensor, shape (B, N, d)
        Encoder keys.
    rest : LongTensor, shape (B, M)
        Tokens of each window that are not dominant, ascending.
    count : int
        Targets among them, 1 to M.

    Returns
    -------
    targets : LongTensor, shape (B, count)
        Indices into the window.
    merged : float32 Tensor, shape (B, count, D)
        Target plus the mean of the tokens whose key is most similar to the target's.
    """
    # 1. Targets at even distances among the tokens that are left; the others are their members.
    step = max(1, rest.shape[1] // count)
    at = torch.arange(count, device=rest.device) * step
    others = torch.ones(rest.shape[1], dtype=torch.bool, device=rest.device)
    others[at] = False

    def rows(values: Tensor, index: Tensor) -> Tensor:
        return values.float().gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))

    targets, leaving = rest[:, at], rest[:, others]
    merged, members = rows(features, targets), rows(features, leaving)
    if not members.shape[1]:
        return targets, merged
    # 2. Each member goes to the target with the most similar key.
    similarity = normalize(rows(keys, leaving), dim=-1) @ normalize(
        rows(keys, targets), dim=-1
    ).transpose(1, 2)
    nearest = similarity.argmax(-1)
    # 3. A target's embedding grows by the mean of its members' (by nothing if it has none).
    total = torch.zeros_like(merged)
    total.scatter_add_(1, nearest.unsqueeze(-1).expand_as(members), members)
    number = torch.zeros(nearest.shape[0], count, device=merged.device)
    number.scatter_add_(1, nearest, torch.ones_like(nearest, dtype=number.dtype))
    return targets, merged + total / number.clamp(min=1.0).unsqueeze(-1)


@torch.no_grad()
def zip_tokens(
    features: Tensor,
    importance: Tensor,
    keys: Tensor | None,
    window: int | Sequence[int],
    ratio: float,
    contextual: float = 0.0,
    lengths: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Keep the attended tokens of each window and merge the others into a few.

    Parameters
    ----------
    features : Tensor, shape (n, D)
        Projected embeddings of one modality, in sequence order.
    importance : Tensor, shape (n,)
        Attention received in the encoder.
    keys : Tensor, shape (n, d), or None
        Encoder keys, needed with `contextual` only.
    ratio : float
        Fraction of each window that stays.
    contextual : float
        The part of it that is merged from tokens that do not stay.
    window, lengths
        Of `fixed_windows`.

    Returns
    -------
    keep : BoolTensor, shape (n,)
    merged : float32 Tensor, shape (n, D), or None
        Embeddings with the merged tokens in place of their targets; None without any.

    Raises
    ------
    ValueError
        If keys are missing where tokens are to be merged.
    """
    if contextual > 0.0 and keys is None:
        raise ValueError("merging contextual tokens needs the encoder's keys")
    total, device = features.shape[0], features.device
    keep = torch.zeros(total, dtype=torch.bool, device=device)
    merged = features.float().clone() if contextual > 0.0 else None
    for size, starts in fixed_windows(total, window, lengths).items():
        dominant, count = window_counts(size, ratio, contextual)
        tokens = window_tokens(starts, size, device)
        order = importance[tokens].argsort(dim=1, descending=True, stable=True)
        keep[tokens.gather(1, order[:, :dominant])] = True
        if merged is None or keys is None or not count:
            continue
        rest = order[:, dominant:].sort(1).values
        targets, values = merge_rest(features[tokens], keys[tokens], rest, count)
        at = tokens.gather(1, targets)
        keep[at] = True
        merged[at] = values
    return keep, merged


@register_method("visionzip-om", omni=True)
@register_method("visionzip", ignores=("audio_window",))
class VisionZip(VisualMethod):
    """`visionzip` and, with `omni`, `visionzip-om`. Floor: one token of each window.

    Attributes
    ----------
    contextual_ratio : float
        Fraction of the tokens that is kept as averages of tokens that leave, within the target.
    """

    contextual_ratio = Option(0.0, check_share)

    name = "visionzip"
    entry_kind = "attended"
    needs_importance = True

    def __init__(self, plan: PruningPlan, omni: bool = False) -> None:
        super().__init__(plan, omni)
        self.needs_keys = self.contextual_ratio > 0.0

    def choose(
        self, prompt: PromptTokens, modality: Modality, ratio: float
    ) -> tuple[Tensor, Tensor | None]:
        """Attended tokens of each window, and merged ones where `contextual_ratio` is set."""
        assert modality.importance is not None
        return zip_tokens(
            prompt.embeddings[modality.mask],
            modality.importance,
            modality.keys,
            modality.windows,
            ratio,
            min(self.contextual_ratio, ratio),
            modality.lengths,
        )

    def products(
        self, architecture: Architecture, sizes: MediaSizes, trace: SelectionTrace
    ) -> list[Product]:
        """In each window, keys of the tokens that leave with those of the contextual ones."""
        if not self.contextual_ratio:
            return []
        plan, vision, sound = self.plan, architecture.vision, architecture.audio
        video, audio = plan.retention_video, plan.retention_audio
        if not self.omni:
            video, audio = spare_audio(video, audio, *trace.offered[:2])[0], 1.0
        products: list[Product] = []
        for ratio, windows, encoder in (
            (video, video_windows(architecture, sizes, plan.config.video_window), vision),
            (audio, audio_windows(architecture, sizes, plan.config.audio_window), sound),
        ):
            width = encoder.hidden_size // encoder.num_heads
            for size in windows if ratio < 1.0 else ():
                dominant, targets = window_counts(size, ratio, min(self.contextual_ratio, ratio))
                products.append((size - dominant - targets, targets, width))
        return products
