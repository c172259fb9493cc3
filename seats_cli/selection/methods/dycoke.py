"""DyCoke: temporal merging of video tokens before the LLM (arXiv 2411.15024).

Taken from the paper: groups of four consecutive grids; the first of a group stays whole, and in
the others the tokens most similar (cosine, same position) to it leave. Left out: its second
part, which prunes the KV cache while the answer is written, belongs to a cache policy. Chosen
here: one rate for all grids but the anchors, solved so that the total meets the budget exactly;
groups start anew with each clip; and, as anchors are indivisible (a quarter of a long clip),
audio is dropped below that share, and a smaller budget is refused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seats_cli.config import WINDOWS
from seats_cli.cost.token_counts import tokens_to_keep
from seats_cli.errors import ConfigError
from seats_cli.selection.method import Modality, PromptTokens, register_method
from seats_cli.selection.methods.budgets import VIDEO_FLOOR
from seats_cli.selection.methods.visual_only import VisualMethod
from seats_cli.selection.topk import keep_highest_in_runs, proportional_budgets
from seats_cli.selection.windows import Grids, similarity_to_earlier, split_grids

GROUP = 4


def anchor_tokens(grids: Grids, group: int) -> int:
    """Tokens of the grids that are the first of `group` consecutive ones of their clip."""
    return sum(
        size for size, number in zip(grids.sizes, grids.numbers, strict=True) if number % group == 0
    )


@torch.no_grad()
def keep_changing(features: Tensor, grids: Grids, group: int, count: int) -> Tensor:
    """Keep the first grid of each group, and of the others what changed most since.

    Parameters
    ----------
    features : Tensor, shape (n, D)
        Projected video tokens.
    group : int
        Consecutive grids in a group.
    count : int
        Tokens to keep altogether, marked in a BoolTensor (n,). The share of the grids that are
        not anchors is the same for all, up to rounding; anchors stay whole even if that exceeds
        the count.
    """
    since = [number % group for number in grids.numbers]  # 0 for an anchor
    others = [size if steps else 0 for steps, size in zip(since, grids.sizes, strict=True)]
    left = max(0, count - anchor_tokens(grids, group))
    shares = proportional_budgets(others, [float(size) for size in others], left)
    budgets = [
        share if steps else size
        for steps, size, share in zip(since, grids.sizes, shares, strict=True)
    ]
    back = grids.per_token([steps * size for steps, size in zip(since, grids.sizes, strict=True)])
    change = -similarity_to_earlier(features, back)
    return keep_highest_in_runs(change, grids.index, grids.sizes, budgets)


@register_method("dycoke", ignores=WINDOWS)
class DyCoke(VisualMethod):
    """`dycoke`. Floor: the first grid of every group of four.

    Raises
    ------
    ConfigError
        On a prompt whose anchor grids alone exceed the budget.
    """

    name = "dycoke"
    entry_kind = "change"

    def video_floor(self, prompt: PromptTokens) -> float:
        """Share of the anchor grids."""
        grids = split_grids(prompt.video)
        return max(VIDEO_FLOOR, anchor_tokens(grids, GROUP) / prompt.video.size)

    def choose(self, prompt: PromptTokens, modality: Modality, ratio: float) -> tuple[Tensor, None]:
        """Anchors, and the share of the rest that changed most."""
        grids = split_grids(modality)
        count, least = tokens_to_keep(modality.size, ratio), anchor_tokens(grids, GROUP)
        if count < least:
            raise ConfigError(
                f"This budget is out of reach for dycoke: the first of every {GROUP} grids stays "
                f"whole, which is {least / modality.size:.3g} of the video; ask for at least "
                "that or use another method."
            )
        return keep_changing(prompt.embeddings[modality.mask], grids, GROUP, count), None
