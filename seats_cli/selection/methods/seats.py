"""SEATS: diversity before the LLM, query-guided pruning inside it (arXiv 2605.20035)."""

from __future__ import annotations

from torch import Tensor

from seats_cli.cost.context import seats_entering
from seats_cli.cost.selection import Product, pairs, stage1_windows
from seats_cli.cost.token_counts import MediaSizes
from seats_cli.families.base import Architecture
from seats_cli.schedule import PruningPlan
from seats_cli.selection.diversity import select_diverse_in_windows
from seats_cli.selection.method import (
    Entry,
    LayerTokens,
    Method,
    Modality,
    PromptTokens,
    Shares,
    register_method,
)
from seats_cli.selection.relevance import select_by_relevance
from seats_cli.selection.trace import SelectionTrace


@register_method("seats")
class Seats(Method):
    """Stages I and II; Stage III (the late block) needs no choice and belongs to the engine."""

    shares: Shares = "entry"
    draws = False
    scheduled = True

    entry_kind = "diversity"

    def __init__(self, plan: PruningPlan) -> None:
        super().__init__(plan)
        self.needs_importance = min(plan.initial_video, plan.initial_audio) < 1.0
        ratios = zip(plan.keep_video, plan.keep_audio, strict=True)
        self._ratios = dict(zip(plan.drop_layers, ratios, strict=True))

    def entering(self, architecture: Architecture, sizes: MediaSizes) -> tuple[int, int]:
        """What Stage I keeps of every window."""
        return seats_entering(self.plan)(architecture, sizes)

    def before_llm(self, prompt: PromptTokens) -> Entry:
        """Stage I: attention-weighted max-min diversity in each window of each clip."""
        keep = prompt.keep_all()
        for modality, ratio in (
            (prompt.video, self.plan.initial_video),
            (prompt.audio, self.plan.initial_audio),
        ):
            if modality.lengths and ratio < 1.0:
                positions = modality.positions
                features = prompt.embeddings.index_select(0, positions)
                keep[positions] = self._choose(prompt, modality, features, ratio)
        return Entry(keep)

    def _choose(
        self, prompt: PromptTokens, modality: Modality, features: Tensor, ratio: float
    ) -> Tensor:
        """BoolTensor (n,): the tokens of one modality, with features (n, D), that enter."""
        return select_diverse_in_windows(
            features,
            modality.importance,
            modality.windows,
            ratio,
            modality.lengths,
            modality.sources,
        )

    def drops_after(self, layer: int) -> bool:
        """Whether `layer` is one of the plan's drop layers."""
        return layer in self._ratios

    def after_layer(self, layer: int, tokens: LayerTokens) -> Tensor | Entry:
        """Stage II: budgets per temporal window, then the most relevant tokens of each."""
        return select_by_relevance(
            tokens.relevance,
            tokens.video_mask,
            tokens.audio_mask,
            *self._ratios[layer],
            temperature=self.plan.temperature,
            allocation=self.plan.config.allocation,
        )

    def stage_label(self, after_layer: int) -> str:
        """The stages of SEATS have numbers."""
        return super().stage_label(after_layer) if after_layer else "after Stage I, before the LLM"

    def products(
        self, architecture: Architecture, sizes: MediaSizes, trace: SelectionTrace
    ) -> list[Product]:
        """All pairs of tokens in each window from which Stage I has to choose."""
        plan = self.plan
        windows = stage1_windows(
            architecture, sizes, plan, video=plan.initial_video, audio=plan.initial_audio
        )
        return pairs(windows, architecture.hidden_size)
