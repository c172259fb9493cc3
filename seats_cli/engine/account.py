"""What a run cost: the pure cost models applied to what was really executed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from seats_cli.cost.encoders import audio_flops, vision_flops
from seats_cli.cost.flops import prefill_flops
from seats_cli.cost.memory import cached_tokens, kv_bytes
from seats_cli.cost.paper import paper_prefill_macs
from seats_cli.results import Cost

if TYPE_CHECKING:
    from seats_cli.architecture import Architecture
    from seats_cli.selection.trace import SelectionTrace


def account(
    architecture: Architecture,
    trace: SelectionTrace,
    inputs: dict[str, Any],
    *,
    kv: str | None,
    kv_dtype_bytes: int,
    peak_host_bytes: int,
    device: torch.device,
) -> Cost:
    """FLOPs and bytes of one answered question.

    Parameters
    ----------
    architecture : Architecture
    trace : SelectionTrace
        Of the run; without stages for an unpruned one.
    inputs : dict
        Model inputs, for the encoders' sizes.
    kv : str or None
        Cache policy; None for an unpruned run.
    kv_dtype_bytes : int
        Bytes per cached value.
    peak_host_bytes : int
        Largest resident size of the process.
    device : torch.device
        Where the model ran.
    """
    alive = [sum(counts) for counts in trace.alive_per_layer()]
    full = [trace.length] * trace.num_layers
    final = trace.stages[-1].kept.numel() if trace.stages else trace.length
    return Cost(
        prefill_flops=prefill_flops(architecture, alive),
        full_prefill_flops=prefill_flops(architecture, full),
        paper_prefill_macs=paper_prefill_macs(architecture, alive, final),
        paper_full_prefill_macs=paper_prefill_macs(architecture, full),
        encoder_flops=_encoder_flops(architecture, inputs),
        kv_bytes=kv_bytes(architecture, cached_tokens(alive, kv or "layerwise"), kv_dtype_bytes),
        full_kv_bytes=kv_bytes(architecture, full, kv_dtype_bytes),
        peak_host_bytes=peak_host_bytes,
        peak_gpu_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def _encoder_flops(architecture: Architecture, inputs: dict[str, Any]) -> int:
    flops = 0
    if "video_grid_thw" in inputs:
        flops += vision_flops(architecture.vision, inputs["video_grid_thw"].tolist())
    if "feature_attention_mask" in inputs:
        flops += audio_flops(architecture, inputs["feature_attention_mask"].sum(-1).tolist())
    return flops
