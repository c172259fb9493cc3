"""Turning an answer into its record, with the budget and mean relevance of every window.

Windows and budgets are computed by the functions that select the tokens, from the scores in the
trace, so that the record cannot disagree with the selection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seats_cli.config import DEFAULT_RETAIN, FULL
from seats_cli.cost.token_counts import Grid, TokenTimes, tokens_to_keep
from seats_cli.results import jsonable, versions
from seats_cli.selection.relevance import allocate, window_means
from seats_cli.selection.windows import Runs, contiguous_runs, fixed_windows
from seats_cli.show.record import (
    AUDIO,
    TEXT,
    VIDEO,
    Part,
    RecordedStage,
    RunRecord,
    Window,
)

if TYPE_CHECKING:
    from seats_cli.families.base import FrameSizing
    from seats_cli.media.clip import ReadOptions
    from seats_cli.results import Answer
    from seats_cli.schedule import PruningPlan
    from seats_cli.selection.trace import SelectionTrace, Stage


def record_of(
    answer: Answer,
    read: ReadOptions,
    sizing: FrameSizing,
    *,
    label: str | None = None,
    full_answer: str | None = None,
    pixel_shape: float = 1.0,
) -> RunRecord:
    """The record of an answer.

    Parameters
    ----------
    sizing : FrameSizing
        How its clip was read.
    label : str, optional
        Name of the run; by default its method and retention.
    full_answer : str, optional
        The unpruned model's answer.
    pixel_shape : float
        Width over height of a pixel of the upright picture.
    """
    trace, plan = answer.trace, answer.plan
    modality = torch.full((trace.length,), TEXT)
    modality[trace.video_mask], modality[trace.audio_mask] = VIDEO, AUDIO
    times = TokenTimes.of_clip(answer.media, answer.architecture, answer.effective_fps)
    grid = times.grid if trace.offered[0] else None
    config = None if answer.config is None else jsonable(answer.config.to_dict())
    return RunRecord(
        label=label or _label(answer),
        question=answer.question,
        answer=answer.text,
        full_answer=full_answer,
        media=answer.media,
        effective_fps=answer.effective_fps,
        read=read,
        sizing=sizing,
        model=answer.model,
        architecture=answer.architecture,
        config=config,
        plan=None if plan is None else jsonable(plan.to_dict()),
        modality=modality.numpy(),
        stages=tuple(
            RecordedStage(
                stage.kind,
                stage.after_layer,
                stage.kept.numpy(),
                None if stage.scores is None else stage.scores.numpy(),
                stage_windows(trace, number, plan, grid),
            )
            for number, stage in enumerate(trace.stages)
        ),
        grid=grid,
        audio_tokens_per_s=times.audio_tokens_per_s,
        pixel_shape=min(max(pixel_shape, 0.1), 10.0),
        warnings=answer.warnings,
        evidence=answer.evidence,
        versions=versions(),
    )


def stage_windows(
    trace: SelectionTrace, number: int, plan: PruningPlan | None, grid: Grid | None
) -> tuple[Window, ...]:
    """The windows of a stage, and what it kept of each.

    Parameters
    ----------
    number : int
        Stage, counted from 0.
    plan : PruningPlan or None
        Of the run.
    grid : Grid or None
        Grid of the video tokens.

    Returns
    -------
    tuple of Window
        With budgets for SEATS; other methods get the same temporal windows without budgets, and
        variants of SEATS none where they allot others than the plan's. Empty for the late block,
        which removes everything.
    """
    stage = trace.stages[number]
    if stage.kind == "late":
        return ()
    before = trace.stages[number - 1].kept if number else torch.arange(trace.length)
    video_mask, audio_mask = trace.video_mask[before], trace.audio_mask[before]
    if plan is None or not plan.has_schedule:
        chosen = _Chosen(contiguous_runs(video_mask), contiguous_runs(audio_mask))
    elif stage.scores is None:
        chosen = _before_llm(video_mask, audio_mask, plan, grid)
    else:
        chosen = _inside_llm(stage, video_mask, audio_mask, plan)
    stays = torch.isin(before, stage.kept)
    modalities = (
        (chosen.video, chosen.video_budgets, trace.video_mask),
        (chosen.audio, chosen.audio_budgets, trace.audio_mask),
    )
    allotted = all(
        budgets is None or _kept(runs, stays).tolist() == list(budgets[: len(runs.sizes)])
        for runs, budgets, _ in modalities
    )
    parts = [
        _parts(runs, budgets if allotted else None, stage.scores, stays, mask.cumsum(0)[before] - 1)
        for runs, budgets, mask in modalities
    ]
    return tuple(Window(video, audio) for video, audio in zip_longest(*parts))


@dataclasses.dataclass(frozen=True, eq=False)
class _Chosen:
    """Windows of a stage and their budgets; window w is run w of both modalities."""

    video: Runs
    audio: Runs
    video_budgets: Sequence[int] | None = None
    audio_budgets: Sequence[int] | None = None


def _before_llm(video: Tensor, audio: Tensor, plan: PruningPlan, grid: Grid | None) -> _Chosen:
    """Stage I: windows of a fixed number of tokens, separately for each modality."""
    runs = (
        _fixed_runs(video, plan.config.video_window * (grid.size if grid else 1)),
        _fixed_runs(audio, plan.config.audio_window),
    )
    budgets = (
        [tokens_to_keep(size, ratio) for size in modality.sizes]
        for modality, ratio in zip(runs, (plan.initial_video, plan.initial_audio), strict=True)
    )
    return _Chosen(*runs, *budgets)


def _fixed_runs(mask: Tensor, window: int) -> Runs:
    positions = mask.nonzero().squeeze(1)
    starts_of = fixed_windows(len(positions), window)
    sizes = [size for _, size in sorted((s, size) for size, at in starts_of.items() for s in at)]
    index = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))
    return Runs(positions, index, sizes)


def _inside_llm(stage: Stage, video: Tensor, audio: Tensor, plan: PruningPlan) -> _Chosen:
    """Stage II: the temporal windows and budgets that the selection itself computes."""
    assert stage.scores is not None
    at = plan.drop_layers.index(stage.after_layer)
    allocated = allocate(
        stage.scores,
        video,
        audio,
        plan.keep_video[at],
        plan.keep_audio[at],
        temperature=plan.temperature,
        allocation=plan.config.allocation,
    )
    return _Chosen(
        allocated.video,
        allocated.audio,
        [video_budget for video_budget, _ in allocated.budgets],
        [audio_budget for _, audio_budget in allocated.budgets],
    )


def _kept(runs: Runs, stays: Tensor) -> Tensor:
    """How many tokens of each run stay."""
    kept = torch.zeros(len(runs.sizes), dtype=torch.long)
    return kept.index_add_(0, runs.index, stays[runs.positions].long())


def _parts(
    runs: Runs,
    budgets: Sequence[int] | None,
    scores: Tensor | None,
    stays: Tensor,
    ordinal: Tensor,
) -> list[Part]:
    """The parts of one modality, one for each run of its tokens.

    `scores`, `stays` and `ordinal`, each of shape (alive,), say of a token its relevance, whether
    it is kept, and how many of its modality precede it in the unpruned prompt.
    """
    if not runs.total:
        return []
    count = len(runs.sizes)
    kept = _kept(runs, stays)
    means = None if scores is None else window_means(scores, runs, count).tolist()
    ends = torch.tensor(runs.sizes).cumsum(0)
    first, last = (
        ordinal[runs.positions[at]].tolist() for at in (ends - torch.tensor(runs.sizes), ends - 1)
    )
    return [
        Part(
            offered=runs.sizes[w],
            kept=int(kept[w]),
            budget=None if budgets is None else budgets[w],
            mean_relevance=None if means is None else means[w],
            first=first[w],
            last=last[w],
        )
        for w in range(count)
    ]


def _label(answer: Answer) -> str:
    config = answer.config
    if config is None:
        return FULL
    share = config.retain
    if share is None and config.retain_video is None and config.retain_audio is None:
        share = DEFAULT_RETAIN
    return config.method if share is None else f"{config.method} {100 * share:g}%"
