"""Budgets, kept tokens and relevance of every window, against what was really selected."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seats_cli.config import ALLOCATIONS, SeatsConfig
from seats_cli.cost.token_counts import Grid
from seats_cli.schedule import PruningPlan
from seats_cli.selection.diversity import select_diverse_in_windows
from seats_cli.selection.relevance import select_by_relevance
from seats_cli.selection.trace import SelectionTrace
from seats_cli.show.capture import stage_windows


def _prompt(chunks: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks of three text tokens and of chunks of video and audio tokens, in turn."""
    kinds = [0] * 3
    for video, audio in chunks:
        kinds += [1] * video + [2] * audio
    kinds += [0] * 2
    modality = torch.tensor(kinds)
    return modality == 1, modality == 2


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5),
    ratios=st.tuples(st.floats(0.1, 1.0), st.floats(0.1, 1.0)),
    allocation=st.sampled_from(ALLOCATIONS),
    seed=st.integers(0, 99),
)
def test_stage_two_keeps_what_the_windows_say(chunks, ratios, allocation, seed):
    video, audio = _prompt(chunks)
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(len(video), generator=generator) > 0.3
    before |= ~(video | audio)
    scores = torch.rand(int(before.sum()), generator=generator)
    trace = SelectionTrace(8, video, audio)
    trace.add("diversity", 0, before.nonzero()[:, 0])
    keep = select_by_relevance(
        scores, video[before], audio[before], *ratios, temperature=0.1, allocation=allocation
    )
    trace.add("relevance", 4, before.nonzero()[:, 0][keep], scores)
    config = SeatsConfig(allocation=allocation)
    plan = PruningPlan(0.5, 0.5, (4,), (ratios[0],), (ratios[1],), config=config)
    windows = stage_windows(trace, 1, plan, None)
    stage = trace.stages[1]
    for name, mask, total in (("video", video, stage.video), ("audio", audio, stage.audio)):
        parts = [getattr(window, name) for window in windows if getattr(window, name)]
        assert sum(part.kept for part in parts) == total
        assert sum(part.offered for part in parts) == int((mask & before).sum())
        assert all(part.budget == part.kept for part in parts)
        ordinals = (mask.cumsum(0) - 1)[mask & before]
        assert [part.first for part in parts] == sorted(part.first for part in parts)
        if parts:
            assert (parts[0].first, parts[-1].last) == (int(ordinals[0]), int(ordinals[-1]))
        mean = sum(part.mean_relevance * part.offered for part in parts)
        assert mean == pytest.approx(float(scores[mask[before]].double().sum()), rel=1e-5)


@example(grids=0, size=1, audio_tokens=1, ratios=(1.0, 1.0))
@settings(max_examples=40, deadline=None)
@given(
    grids=st.integers(0, 7),
    size=st.integers(1, 6),
    audio_tokens=st.integers(0, 60),
    ratios=st.tuples(st.floats(0.05, 1.0), st.floats(0.05, 1.0)),
)
def test_stage_one_keeps_what_the_windows_say(grids, size, audio_tokens, ratios):
    if not grids and not audio_tokens:
        return
    video, audio = _prompt([(grids * size, audio_tokens)])
    plan = PruningPlan(*ratios, config=SeatsConfig(video_window=2, audio_window=25))
    keep = torch.ones(len(video), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for mask, window, ratio in ((video, 2 * size, ratios[0]), (audio, 25, ratios[1])):
        if mask.any():
            features = torch.randn(int(mask.sum()), 4, generator=generator)
            keep[mask] = select_diverse_in_windows(features, None, window, ratio)
    trace = SelectionTrace(8, video, audio)
    trace.add("diversity", 0, keep.nonzero()[:, 0])
    windows = stage_windows(trace, 0, plan, Grid(grids, 1, size, 2, 1.0) if grids else None)
    parts = [part for window in windows for part in (window.video, window.audio) if part]
    assert sum(part.offered for part in parts) == grids * size + audio_tokens
    # A plan that keeps all allots nothing.
    assert all(part.budget == (part.kept if plan.has_schedule else None) for part in parts)


def test_a_real_run_has_windows_at_every_stage_but_the_late_block(cards):
    record = cards.record
    for stage, traced in zip(record.stages, cards.answer.trace.stages, strict=True):
        if stage.kind == "late":
            assert stage.windows == ()
            continue
        assert len(stage.windows) == 6  # two seconds each
        for name, total in (("video", traced.video), ("audio", traced.audio)):
            parts = [getattr(window, name) for window in stage.windows]
            assert sum(part.kept for part in parts) == total
            assert all(part.budget == part.kept for part in parts)
            assert all((part.mean_relevance is None) == (stage.after_layer == 0) for part in parts)
    assert record.grid is not None
    assert record.times.video(0, 2 * record.grid.size - 1) == (0.0, 2.0)
    assert record.times.audio(0, 49) == (0.0, 2.0)


def test_other_methods_have_windows_without_budgets(ask):
    stages = [stage for stage in ask(method="fastv").record.stages if stage.kind != "late"]
    assert any(stage.windows for stage in stages)
    for stage in stages:
        for window in stage.windows:
            assert window.video is None or window.video.budget is None
