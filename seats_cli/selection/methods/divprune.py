"""DivPrune: the most diverse tokens before the LLM (arXiv 2503.02175).

Taken from the paper: greedy max-min selection on the plain cosine distance between projected
tokens, over the whole modality. Taken from the comparison in arXiv 2605.20035: the "-om" form
selects in windows (two grids, 50 audio tokens) and treats audio like video. Chosen here: audio
that has to go is drawn at random, as in the other vision-only methods. The whole-modality form
holds a distance matrix of n x n float32 (285 MB for 8,448 tokens).
"""

from __future__ import annotations

import torch
from torch import Tensor

from seats_cli.config import WINDOWS
from seats_cli.cost.selection import Product, pairs, stage1_windows
from seats_cli.cost.token_counts import MediaSizes, tokens_to_keep
from seats_cli.families.base import Architecture
from seats_cli.selection.diversity import select_diverse, select_diverse_in_windows, spare_copies
from seats_cli.selection.method import Modality, PromptTokens, register_method
from seats_cli.selection.methods.visual_only import VisualMethod
from seats_cli.selection.trace import SelectionTrace


@register_method("divprune-om", omni=True)
@register_method("divprune", ignores=WINDOWS)
class DivPrune(VisualMethod):
    """`divprune` and, with `omni`, `divprune-om`.

    Counts round half to even. Floor: one token of the modality, or of each window with `omni`.
    """

    name = "divprune"
    entry_kind = "max-min"

    def choose(self, prompt: PromptTokens, modality: Modality, ratio: float) -> tuple[Tensor, None]:
        """Over the whole modality, or per window with `omni`."""
        features = prompt.embeddings[modality.mask]
        # Without importance (None) the distances are not weighted: that is what SEATS adds.
        if self.omni:
            chosen = select_diverse_in_windows(
                features, None, modality.windows, ratio, modality.lengths, modality.sources
            )
            return chosen, None
        # A batch of one window, as long as the modality: clips are compared with each other too.
        spare = None
        if modality.sources is not None:
            whole = torch.arange(len(features), device=features.device)[None]
            spare = spare_copies(modality.sources, whole)
        count = tokens_to_keep(len(features), ratio)
        chosen = select_diverse(features[None], None, count, spare)
        keep = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        keep[chosen[0]] = True
        return keep, None

    def products(
        self, architecture: Architecture, sizes: MediaSizes, trace: SelectionTrace
    ) -> list[Product]:
        """All pairs of the video's tokens, or of each window's with `omni`."""
        if self.omni:
            plan = self.plan
            video, audio = plan.retention_video, plan.retention_audio
            compared = stage1_windows(architecture, sizes, plan, video=video, audio=audio)
        else:
            # All tokens of the video are one window. One that stays whole is not compared, nor is
            # audio, which is drawn at random.
            compared = [trace.offered[0]] if trace.stages[0].video < trace.offered[0] else []
        return pairs(compared, architecture.hidden_size)
