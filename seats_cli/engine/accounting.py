"""What a run cost: the pure cost models applied to what was really executed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seats_cli.cost.encoders import encoder_flops
from seats_cli.cost.flops import decode_flops, prefill_flops
from seats_cli.cost.memory import activation_bytes, cached_tokens, kv_bytes
from seats_cli.cost.paper import paper_prefill_macs
from seats_cli.cost.selection import Product, pairs, selection_flops, stage1_windows
from seats_cli.cost.token_counts import MediaSizes, audio_windows, grid_tokens, video_windows
from seats_cli.results import Cost
from seats_cli.selection.methods import method_for
from seats_cli.selection.methods.budgets import spare_audio
from seats_cli.selection.methods.divprune import DivPrune
from seats_cli.selection.methods.omnizip import OmniZip, anchors_among
from seats_cli.selection.methods.seats import Seats
from seats_cli.selection.methods.visionzip import VisionZip, window_counts

if TYPE_CHECKING:
    from seats_cli.families.base import Architecture
    from seats_cli.results import ReuseFacts
    from seats_cli.schedule import PruningPlan
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


def account(
    architecture: Architecture,
    trace: SelectionTrace,
    sizes: MediaSizes,
    *,
    plan: PruningPlan | None,
    decode_steps: int,
    bytes_per_value: int,
    peak_host_bytes: int,
    peak_gpu_bytes: int | None,
    still: ReuseFacts | None = None,
) -> Cost:
    """FLOPs and bytes of one answered question.

    Parameters
    ----------
    architecture : Architecture
    trace : SelectionTrace
        Of the run; without stages for an unpruned one.
    sizes : MediaSizes
        What the encoders were given.
    plan : PruningPlan or None
        None for an unpruned run.
    decode_steps : int
        Answer tokens that were fed back to the model.
    bytes_per_value : int
        Of cached values and activations.
    peak_host_bytes : int
        Largest resident size of the process.
    peak_gpu_bytes : int or None
        Largest allocation on the GPUs together.
    still : ReuseFacts or None
        What Stage 0 left out.
    """
    alive = [sum(counts) for counts in trace.alive_per_layer()]
    full = [trace.length] * trace.num_layers
    final = trace.stages[-1].kept.numel() if trace.stages else trace.length
    cached = cached_tokens(alive, "layerwise" if plan is None else plan.kv)
    encoders = encoder_flops(architecture, sizes)
    return Cost(
        prefill_flops=prefill_flops(architecture, alive),
        full_prefill_flops=prefill_flops(architecture, full),
        paper_prefill_macs=paper_prefill_macs(architecture, alive, final),
        paper_full_prefill_macs=paper_prefill_macs(architecture, full),
        encoder_flops=encoders - (0 if still is None else still.saved_flops),
        full_encoder_flops=encoders,
        still=still,
        kv_bytes=kv_bytes(architecture, cached, bytes_per_value),
        full_kv_bytes=kv_bytes(architecture, full, bytes_per_value),
        peak_host_bytes=peak_host_bytes,
        peak_gpu_bytes=peak_gpu_bytes,
        selection_flops=0 if plan is None else _selection_flops(architecture, sizes, plan, trace),
        decode_flops=decode_flops(architecture, cached, decode_steps),
        activation_bytes=activation_bytes(architecture, alive, bytes_per_value),
        full_activation_bytes=activation_bytes(architecture, full, bytes_per_value),
    )


def _selection_flops(
    architecture: Architecture, sizes: MediaSizes, plan: PruningPlan, trace: SelectionTrace
) -> int:
    """Every matrix product that the selection executed."""
    before = [trace.length, *(stage.kept.numel() for stage in trace.stages)]
    scored = [
        tokens
        for tokens, stage in zip(before, trace.stages, strict=False)
        if stage.scores is not None
    ]
    method = method_for(plan)
    return selection_flops(
        architecture,
        sizes,
        plan,
        importance=method.needs_importance,
        compared=comparisons(architecture, sizes, plan, trace),
        scored=scored,
        queries=_question_length(trace) if method.asking == "question" else 1,
    )


def _question_length(trace: SelectionTrace) -> int:
    """Text tokens behind the last audio-visual one."""
    seen = (trace.video_mask | trace.audio_mask).nonzero()
    return trace.length - 1 - int(seen[-1]) if len(seen) else trace.length
