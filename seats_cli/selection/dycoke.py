"""DyCoke: temporal merging of video tokens before the LLM (arXiv 2411.15024).

Taken from the paper: groups of four consecutive grids; the first of a group stays whole, and in
the others the tokens most similar (cosine, same position) to it leave. Left out: its second
part, which prunes the KV cache while the answer is written, belongs to a cache policy. Chosen
here: one rate for all grids but the anchors, solved so that the total meets the budget exactly;
groups start anew with each clip; and, as anchors are indivisible (a quarter of a long clip),
audio gives way below that share, and a smaller budget is refused.
"""

from __future__ import annotations

from torch import Tensor

from seats_cli.errors import ConfigError
from seats_cli.selection.base import PromptTokens
from seats_cli.selection.budget import total_to_keep
from seats_cli.selection.grids import Grids, anchor_grids, keep_changing, split_grids
from seats_cli.selection.ratios import VIDEO_FLOOR
from seats_cli.selection.visual import VisualMethod

GROUP = 4


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
        return max(VIDEO_FLOOR, self._anchor_tokens(self._grids(prompt)) / prompt.n_video)

    def choose_video(self, prompt: PromptTokens, ratio: float) -> tuple[Tensor, None]:
        """Anchors, and the share of the rest that changed most."""
        grids = self._grids(prompt)
        count, least = total_to_keep(prompt.n_video, ratio), self._anchor_tokens(grids)
        if count < least:
            raise ConfigError(
                f"This budget is out of reach for dycoke: the first of every {GROUP} grids stays "
                f"whole, which is {least / prompt.n_video:.3g} of the video; ask for at least "
                "that or use another method."
            )
        features = prompt.embeddings[prompt.video_mask]
        return keep_changing(features, grids, GROUP, count), None

    @staticmethod
    def _grids(prompt: PromptTokens) -> Grids:
        device = prompt.embeddings.device
        return split_grids(prompt.video_lengths, prompt.video_grids, device)

    @staticmethod
    def _anchor_tokens(grids: Grids) -> int:
        anchors = anchor_grids(grids, GROUP)
        return sum(size for size, first in zip(grids.sizes, anchors, strict=True) if first)
