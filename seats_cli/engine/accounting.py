"""What a run cost: the pure cost models applied to what was really executed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from seats_cli.cost.flops import (
    audio_flops,
    decode_flops,
    encoder_flops,
    head_flops,
    layer_flops,
    prefill_flops,
)
from seats_cli.cost.memory import activation_bytes, cached_tokens, kv_bytes
from seats_cli.cost.paper import paper_prefill_macs
from seats_cli.cost.selection import comparison_flops, selection_flops
from seats_cli.cost.token_counts import MediaSizes
from seats_cli.results import Cost

if TYPE_CHECKING:
    from seats_cli.families.base import Architecture
    from seats_cli.selection.alike_units import CarriedFacts
    from seats_cli.selection.method import Method
    from seats_cli.selection.static_regions import ReuseFacts
    from seats_cli.selection.trace import SelectionTrace


_BOTH = frozenset({"video", "audio"})


@dataclass(frozen=True)
class OwnWork:
    """What a question about a clip has executed itself, where an earlier one may have left some."""

    encoded: frozenset[str]  # "video" and "audio", if its encoder has run
    # The method that ran, which keeps everything in an unpruned run; None without any hooks.
    method: Method | None
    chosen: bool = True  # whether tokens were chosen before the LLM
    # The decoder's first layers that only a part of the prompt has passed, and the tokens whose
    # states were there already.
    layers: int = 0
    tokens: int = 0


def account(
    architecture: Architecture,
    trace: SelectionTrace,
    sizes: MediaSizes,
    *,
    method: Method | None,
    decode_steps: int,
    bytes_per_value: int,
    peak_host_bytes: int,
    peak_gpu_bytes: int | None,
    still: ReuseFacts | None = None,
    carried: CarriedFacts | None = None,
    evidence_flops: int = 0,
    own: OwnWork | None = None,
) -> Cost:
    """FLOPs and bytes of one answered question.

    Parameters
    ----------
    trace : SelectionTrace
        Of the run; without stages for an unpruned one.
    sizes : MediaSizes
        What the encoders were given.
    method : Method or None
        The one that ran, with its plan; None for an unpruned run.
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
    carried : CarriedFacts or None
        What encoder reuse carried.
    evidence_flops : int
        What reading the evidence took.
    own : OwnWork or None
        In a session, what was executed of all this; None for everything.
    """
    # What the trace says of each layer, not what the plan intended: rounding is in it.
    alive = [sum(counts) for counts in trace.alive_per_layer()]
    widest = [trace.length, *alive[1:]] if method is not None and method.refines else alive
    full = [trace.length] * trace.num_layers
    final = trace.stages[-1].kept.numel() if trace.stages else trace.length
    cached = cached_tokens(alive, "layerwise" if method is None else method.plan.config.kv)
    encoders = encoder_flops(architecture, sizes)
    sound = sum(audio_flops(architecture, frames) for frames in sizes.mel_frames)
    picture = encoders - sound - sum(one.saved_flops for one in (still, carried) if one)
    selected = 0
    if method is not None:
        both = _BOTH if method.needs_importance else ()
        selected = _selection_flops(architecture, sizes, method, trace, both)
    executed = picture + sound + selected + prefill_flops(architecture, alive)
    if own is not None:
        executed = picture * ("video" in own.encoded) + sound * ("audio" in own.encoded)
        executed += head_flops(architecture, 1) + sum(
            layer_flops(architecture, count - own.tokens * (number < own.layers), count)
            for number, count in enumerate(alive)
        )
        if own.method is not None:
            # Whoever keeps encodings notes for all methods what is received in the encoders.
            executed += _selection_flops(
                architecture, sizes, own.method, trace, own.encoded, chosen=own.chosen
            )
    return Cost(
        prefill_flops=prefill_flops(architecture, alive),
        full_prefill_flops=prefill_flops(architecture, full),
        paper_prefill_macs=paper_prefill_macs(architecture, alive, final),
        paper_full_prefill_macs=paper_prefill_macs(architecture, full),
        encoder_flops=picture + sound,
        full_encoder_flops=encoders,
        still=still,
        carried=carried,
        kv_bytes=kv_bytes(architecture, cached, bytes_per_value),
        full_kv_bytes=kv_bytes(architecture, full, bytes_per_value),
        peak_host_bytes=peak_host_bytes,
        peak_gpu_bytes=peak_gpu_bytes,
        selection_flops=selected,
        decode_flops=decode_flops(architecture, cached, decode_steps),
        activation_bytes=activation_bytes(architecture, widest, bytes_per_value),
        full_activation_bytes=activation_bytes(architecture, full, bytes_per_value),
        evidence_flops=evidence_flops,
        executed_flops=executed,
    )


def _selection_flops(
    architecture: Architecture,
    sizes: MediaSizes,
    method: Method,
    trace: SelectionTrace,
    importance: Collection[str],
    *,
    chosen: bool = True,
) -> int:
    """Every matrix product of a selection: with or without the choice before the LLM (`chosen`).

    `importance` are the modalities whose encoder was asked for the attention received.
    """
    # Relevance was worked out where a stage has scores, over the tokens alive before it.
    before = [trace.length, *(stage.kept.numel() for stage in trace.stages)]
    scored = [
        tokens
        for tokens, stage in zip(before, trace.stages, strict=False)
        if stage.scores is not None
    ]
    told = sum(stage.flops for stage in trace.stages)
    compared = method.products(architecture, sizes, trace) if trace.stages else ()
    if trace.stages and not chosen:
        entry = replace(trace, stages=trace.stages[:1])
        told -= entry.stages[0].flops
        told -= comparison_flops(method.products(architecture, sizes, entry))
    return told + selection_flops(
        architecture,
        sizes,
        method.plan,
        importance=importance,
        compared=compared,
        scored=scored,
        queries=(trace.question or 1) if method.query_tokens == "question" else 1,
    )
