"""SEATS: diversity before the LLM, query-guided pruning inside it (arXiv 2605.20035)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seats_cli.selection.budget import select_by_relevance
from seats_cli.selection.diversity import select_diverse_in_windows

if TYPE_CHECKING:
    from seats_cli.config import PruningPlan
    from seats_cli.selection.method import PromptTokens


class Seats:
    """Stages I and II; Stage III (the late block) needs no choice and belongs to the engine.

    Parameters
    ----------
    plan : PruningPlan
        Retention after Stage I, keep ratio per drop layer, windows, temperature, allocation.
    """

    needs_importance = True

    def __init__(self, plan: PruningPlan) -> None:
        self.plan = plan
        self._ratios = {
            layer: (video, audio)
            for layer, video, audio in zip(
                plan.drop_layers, plan.keep_video, plan.keep_audio, strict=True
            )
        }

    def before_llm(self, prompt: PromptTokens) -> Tensor:
        """Stage I: attention-weighted max-min diversity in each window of each clip."""
        keep = torch.ones_like(prompt.video_mask)
        for mask, importance, ratio, lengths, windows in (
            (
                prompt.video_mask,
                prompt.video_importance,
                self.plan.initial_video,
                prompt.video_lengths,
                prompt.video_windows,
            ),
            (
                prompt.audio_mask,
                prompt.audio_importance,
                self.plan.initial_audio,
                prompt.audio_lengths,
                (self.plan.audio_window,) * len(prompt.audio_lengths),
            ),
        ):
            if ratio >= 1.0 or not lengths:
                continue
            keep[mask] = self._diverse(prompt.embeddings[mask], importance, ratio, lengths, windows)
        return keep

    @staticmethod
    def _diverse(
        features: Tensor,
        importance: Tensor | None,
        ratio: float,
        lengths: tuple[int, ...],
        windows: tuple[int, ...],
    ) -> Tensor:
        """Select clip by clip, so that no window spans two clips."""
        kept, start = [], 0
        for length, window in zip(lengths, windows, strict=True):
            part = slice(start, start + length)
            weights = None if importance is None else importance[part]
            kept.append(select_diverse_in_windows(features[part], weights, window, ratio))
            start += length
        return torch.cat(kept)

    def drops_after(self, layer: int) -> bool:
        """Whether `layer` is one of the plan's drop layers."""
        return layer in self._ratios

    def after_layer(
        self, layer: int, relevance: Tensor, video_mask: Tensor, audio_mask: Tensor
    ) -> Tensor:
        """Stage II: budgets per temporal window, then the most relevant tokens of each."""
        keep_video, keep_audio = self._ratios[layer]
        return select_by_relevance(
            relevance,
            video_mask,
            audio_mask,
            keep_video,
            keep_audio,
            temperature=self.plan.temperature,
            allocation=self.plan.allocation,
        )
