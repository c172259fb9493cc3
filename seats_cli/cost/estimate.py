"""What a question about a file will take, worked out from metadata: no weights, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seats_cli.config import SEATS, SeatsConfig, is_scheduled
from seats_cli.cost.context import ContextUse, Need, context_use, entering_of
from seats_cli.cost.flops import encoder_flops, prefill_flops
from seats_cli.cost.memory import (
    MemoryPlan,
    activation_bytes,
    cached_tokens,
    kv_bytes,
    plan_memory,
)
from seats_cli.cost.paper import paper_prefill_macs
from seats_cli.cost.selection import pairs, selection_flops, stage1_windows
from seats_cli.cost.token_counts import (
    Counts,
    MediaSizes,
    audio_windows,
    average_retention,
    estimated_tokens,
    predicted_counts,
    token_counts,
    video_windows,
)
from seats_cli.errors import ModelError, UsageError
from seats_cli.families.base import SAMPLE_RATE, FrameSizing
from seats_cli.families.checkpoint_folder import find_folder, folder_config, hub_id_of
from seats_cli.families.registry import (
    checkpoints,
    describe_config,
    named_config,
    named_shapes,
    tied_embeddings,
)
from seats_cli.schedule import PruningPlan

if TYPE_CHECKING:
    from seats_cli.families.base import Architecture
    from seats_cli.media.clip import MediaFacts, ReadOptions
    from seats_cli.media.inspection import ClipOutline


@dataclass(frozen=True)
class PlannedModel:
    """A model as far as its config tells."""

    name: str  # as the user named it
    architecture: Architecture
    sizing: FrameSizing  # how large frames may be for it
    tied_embeddings: bool = False  # whether the LM head is the embedding


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """Everything `seats plan` shows; counts as in `Cost` and `SelectionTrace`."""

    media: MediaFacts
    effective_fps: float | None
    model: PlannedModel
    config: SeatsConfig | None
    plan: PruningPlan | None
    offered: Counts  # video, audio and text tokens of the prompt
    video_windows: tuple[int, ...]  # tokens of each window of Stage I
    audio_windows: tuple[int, ...]
    alive: tuple[Counts, ...]  # tokens in each decoder layer
    average_retention: float | None
    encoder_flops: int
    selection_flops: int
    prefill_flops: int
    full_prefill_flops: int
    paper_prefill_macs: int
    paper_full_prefill_macs: int
    kv_bytes: int
    full_kv_bytes: int
    activation_bytes: int
    full_activation_bytes: int
    bytes_per_value: int  # of the KV cache and the activations
    memory: MemoryPlan  # with and without pruning; to 10 % where no budget was chosen
    context: ContextUse
    warnings: tuple[str, ...]

    @property
    def prompt_tokens(self) -> int:
        """Length of the unpruned prompt."""
        return sum(self.offered)


def find_model(name: str, revision: str | None = None) -> PlannedModel:
    """Read a model's shapes: a named architecture, "bundled", a folder, or a cached hub model.

    Raises
    ------
    ModelError
        If nothing of that name is here, or it is of no supported family.
    """
    values = _config_values(name, revision)
    architecture, own = describe_config(values, name)
    sizing = FrameSizing.for_model(architecture.vision, own)
    return PlannedModel(name, architecture, sizing, tied_embeddings(values))


def _config_values(name: str, revision: str | None) -> dict[str, Any]:
    if name.lower() in named_shapes() and not Path(name).is_dir():
        return named_config(name)
    known = checkpoints().get(hub_id_of(name))
    try:
        return folder_config(find_folder(name, revision))
    except ModelError as error:
        if Path(name).exists():
            raise
        if known is None:
            shapes = ", ".join(named_shapes())
            raise ModelError(f"{error} (named architectures are {shapes})") from None
        return named_config(known.shape)  # published, and so the same as the file


def plan_run(
    outline: ClipOutline,
    model: PlannedModel,
    config: SeatsConfig | None,
    *,
    text_tokens: int = 40,
    system: str | None = None,
    max_new_tokens: int = 128,
    bytes_per_value: int = 2,
) -> PlannedRun:
    """Count what a question about a clip will take.

    Parameters
    ----------
    config : SeatsConfig or None
        None for an unpruned run.
    text_tokens : int
        Tokens of the question and the chat template around it.
    system : str or None
        System turn; its tokens, estimated from its length, come on top.
    max_new_tokens : int
        Longest answer, which has to fit the context too.
    bytes_per_value : int
        2 for float16 and bfloat16, 4 for float32.

    Raises
    ------
    UsageError
        If the method is neither SEATS nor a variant of it: others have no schedule to predict.
    """
    if config is not None and not is_scheduled(config.method):
        raise UsageError(
            f"seats plan predicts the method seats, not {config.method}; "
            "seats profile and seats compare run any method."
        )
    shape, facts = model.architecture, outline.facts
    text_tokens += 0 if system is None else estimated_tokens(system)
    samples = round(facts.audio_used_s * SAMPLE_RATE)
    size = facts.frames_used, facts.height or 0, facts.width or 0
    sizes = MediaSizes.of_clip(shape, *size, samples)
    video, audio = token_counts(shape, sizes)
    offered = (video, audio, text_tokens)
    plan = None if config is None else PruningPlan.resolve(config, shape)
    asked = config or SeatsConfig()
    context = context_use(shape, sizes, text_tokens, max_new_tokens, outline.fps, entering_of(plan))
    alive, final = predicted_counts(plan, shape, sizes, text_tokens)
    lengths = [sum(counts) for counts in alive]
    full = [sum(offered)] * shape.num_layers
    cached = cached_tokens(lengths, asked.kv if plan else "layerwise")
    return PlannedRun(
        media=facts,
        effective_fps=outline.fps,
        model=model,
        config=config,
        plan=plan,
        offered=offered,
        video_windows=tuple(video_windows(shape, sizes, asked.video_window)),
        audio_windows=tuple(audio_windows(shape, sizes, asked.audio_window)),
        alive=tuple(alive),
        average_retention=average_retention(alive, offered),
        encoder_flops=encoder_flops(shape, sizes),
        selection_flops=0 if plan is None else _selection(shape, sizes, plan, lengths),
        prefill_flops=prefill_flops(shape, lengths),
        full_prefill_flops=prefill_flops(shape, full),
        paper_prefill_macs=paper_prefill_macs(shape, lengths, sum(final)),
        paper_full_prefill_macs=paper_prefill_macs(shape, full),
        kv_bytes=kv_bytes(shape, cached, bytes_per_value),
        full_kv_bytes=kv_bytes(shape, full, bytes_per_value),
        activation_bytes=activation_bytes(shape, lengths, bytes_per_value),
        full_activation_bytes=activation_bytes(shape, full, bytes_per_value),
        bytes_per_value=bytes_per_value,
        memory=_memory(model, sizes, plan, text_tokens),
        context=context,
        warnings=(*outline.warnings, *context.warnings(), *_about_options(asked)),
    )


def plan_file(
    path: str,
    read: ReadOptions,
    model: PlannedModel,
    config: SeatsConfig | None,
    *,
    text_tokens: int = 40,
    system: str | None = None,
    max_new_tokens: int = 128,
    bytes_per_value: int = 2,
) -> PlannedRun:
    """Plan a question about a file, read in the size that `seats ask` would read it in.

    Parameters are those of `plan_run`.
    """
    from seats_cli.cost.fit import ClipRequest, fit
    from seats_cli.media.inspection import outline_clip

    plan = PruningPlan.resolve(config or SeatsConfig.preset("25%"), model.architecture)
    text = text_tokens + (0 if system is None else estimated_tokens(system))
    need = Need(text, max_new_tokens, (entering_of(plan),))
    wanted = ClipRequest(outline_clip(path, read, sizing=model.sizing), read, model.sizing)
    fitted = fit([wanted], model.architecture, need)
    outline = fitted.clips[0].outline
    return plan_run(
        replace(outline, warnings=(*fitted.warnings, *outline.warnings)),
        model,
        config,
        text_tokens=text_tokens,
        system=system,
        max_new_tokens=max_new_tokens,
        bytes_per_value=bytes_per_value,
    )


def _about_options(config: SeatsConfig) -> Iterator[str]:
    """What of a method and its options has no part in the prediction."""
    yield from config.idle_warnings()
    if config.method != SEATS:
        yield (
            f"The FLOPs of selection are predicted as those of {SEATS}: what {config.method} and "
            "its options add or save is known when it runs."
        )


_TIGHT = 0.10  # share for which memory is worked out where nothing is pruned


def _memory(
    model: PlannedModel, sizes: MediaSizes, plan: PruningPlan | None, text_tokens: int
) -> MemoryPlan:
    shape = model.architecture
    if plan is None:
        plan = PruningPlan.resolve(SeatsConfig(retain=_TIGHT), shape)
    alive, _ = predicted_counts(plan, shape, sizes, text_tokens)
    offered = (*token_counts(shape, sizes), text_tokens)
    return plan_memory(
        shape,
        sizes,
        [sum(counts) for counts in alive],
        sum(offered),
        kv=plan.config.kv,
        retain=average_retention(alive, offered) or 1.0,
        tied_embeddings=model.tied_embeddings,
    )


def _selection(
    architecture: Architecture, sizes: MediaSizes, plan: PruningPlan, lengths: list[int]
) -> int:
    if not plan.prunes:
        return 0
    scored = [lengths[layer - 1] for layer in plan.drop_layers]
    windows = stage1_windows(
        architecture, sizes, plan, video=plan.initial_video, audio=plan.initial_audio
    )
    return selection_flops(
        architecture,
        sizes,
        plan,
        importance=("video", "audio") if min(plan.initial_video, plan.initial_audio) < 1.0 else (),
        compared=pairs(windows, architecture.hidden_size),
        scored=scored,
    )
