"""Which tokens a method compared before the LLM: the shapes of its matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seats_cli.cost.selection import Product, pairs, stage1_windows
from seats_cli.cost.sizes import MediaSizes, audio_windows, grid_tokens, video_windows
from seats_cli.selection.anchors import anchors_among
from seats_cli.selection.divprune import DivPrune
from seats_cli.selection.method import method_for
from seats_cli.selection.omnizip import OmniZip
from seats_cli.selection.ratios import spare_audio
from seats_cli.selection.seats import Seats
from seats_cli.selection.visionzip import VisionZip, window_counts

if TYPE_CHECKING:
    from seats_cli.architecture import Architecture
    from seats_cli.plan import PruningPlan
    from seats_cli.selection.trace import SelectionTrace


def comparisons(
    architecture: Architecture, sizes: MediaSizes, plan: PruningPlan, trace: SelectionTrace
) -> list[Product]:
    """Every matrix product by which a method compared tokens before the LLM.

    Parameters
    ----------
    architecture : Architecture
    sizes : MediaSizes
        What the encoders were given.
    plan : PruningPlan
    trace : SelectionTrace
        Of the run.

    Returns
    -------
    list of (rows, columns, width)
        Empty for methods that draw, that read attention, or that compare a token with a single
        other one.
    """
    method = method_for(plan)
    if not trace.stages:
        return []
    if isinstance(method, Seats):
        windows = stage1_windows(
            architecture, sizes, plan, video=plan.initial_video, audio=plan.initial_audio
        )
        return pairs(windows, architecture.hidden_size)
    if isinstance(method, DivPrune):
        return pairs(_diverse(architecture, sizes, plan, trace, method), architecture.hidden_size)
    if isinstance(method, OmniZip):
        return _zipped(architecture, sizes, trace)
    if isinstance(method, VisionZip) and plan.contextual_ratio > 0.0:
        return _merged(architecture, sizes, plan, trace, method)
    return []


def _diverse(
    architecture: Architecture,
    sizes: MediaSizes,
    plan: PruningPlan,
    trace: SelectionTrace,
    method: DivPrune,
) -> list[int]:
    """DivPrune: the whole video, or both modalities in windows."""
    if method.omni:
        video, audio = plan.retention_video, plan.retention_audio
        return stage1_windows(architecture, sizes, plan, video=video, audio=audio)
    return [trace.offered[0]] if trace.stages[0].video < trace.offered[0] else []


def _zipped(architecture: Architecture, sizes: MediaSizes, trace: SelectionTrace) -> list[Product]:
    """OmniZip: sound with its anchors and with the video, every second grid within itself."""
    video, audio, _ = trace.offered
    entry, width = trace.stages[0], architecture.hidden_size
    products: list[Product] = []
    if entry.audio < audio:
        anchors = anchors_among(audio, entry.audio)
        others = audio - entry.audio
        if anchors and others:
            products.append((others, anchors, width))
            products += [(others, video, width)] if video else []
    if entry.video < video:
        spatial = [
            grid_tokens(architecture, grid) for grid in sizes.grids for _ in range(0, grid[0], 2)
        ]
        products += pairs(spatial, width)
    return products


def _merged(
    architecture: Architecture,
    sizes: MediaSizes,
    plan: PruningPlan,
    trace: SelectionTrace,
    method: VisionZip,
) -> list[Product]:
    """VisionZip with contextual tokens: in each window, keys of those that leave with targets'."""
    video, audio = plan.retention_video, plan.retention_audio
    vision, hearing = architecture.vision, architecture.audio
    if not method.omni:
        video, audio = spare_audio(video, audio, *trace.offered[:2])[0], 1.0
    products: list[Product] = []
    for ratio, windows, width in (
        (
            video,
            video_windows(architecture, sizes, plan.video_window),
            vision.hidden_size // vision.num_heads,
        ),
        (
            audio,
            audio_windows(architecture, sizes, plan.audio_window),
            hearing.hidden_size // hearing.num_heads,
        ),
    ):
        for size in windows if ratio < 1.0 else ():
            dominant, targets = window_counts(size, ratio, min(plan.contextual_ratio, ratio))
            products.append((size - dominant - targets, targets, width))
    return products
