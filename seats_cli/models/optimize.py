"""What is swapped on a running model: one ordered list, for pruned and unpruned runs alike.

`SWAPS` names every object that a run changes, with the reasons; `installed` enters what a run
uses, in that order, and puts all of it back. The swaps that only make a model faster are here and
compute what the stock model computes, as is the rotary embedding of checkpoints that were trained
with another; the engine brings the others (`RunSwaps.parts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.backends import cuda

from seats_cli.cost.memory import MLP_ROWS
from seats_cli.errors import ModelError
from seats_cli.models import fused_modules
from seats_cli.models.adapter import Adapter, is_prefill
from seats_cli.models.encoder_attention import segment_attention
from seats_cli.models.patching import (
    Wrap,
    exclusive,
    replace_forward,
    replace_method,
    use_attention,
)
from seats_cli.selection.device import is_nvidia

# transformers hands a whole sequence and its borders to an attention whose name contains
# "flash", and one segment at a time to every other (`is_flash_attention_requested`).
SEGMENTS = "seats_segments_as_flash"
FLASH = "flash_attention_2"
HALF = (torch.float16, torch.bfloat16)
_USUAL = ("sdpa", "sdpa")


Part = Callable[[], AbstractContextManager[Any]]  # of the engine: acts on a model inside a block


# ------------------------------------------------------------------- the list


@dataclass(frozen=True)
class Speedups:
    """Which of the swaps that need not be are used."""

    encoder_attention: str | None = None  # its name, for both encoders; None leaves them alone
    fused_modules: bool = False


STOCK = Speedups()


@dataclass(frozen=True)
class RunSwaps:
    """What one run of a model swaps.

    Raises
    ------
    ValueError
        For a part that is not in the list.
    """

    adapter: Adapter
    pruned: bool
    speedups: Speedups = STOCK
    # What the engine brings, by the names of the entries without `install`; others are left out.
    parts: Mapping[str, Part] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = self.parts.keys() - {swap.name for swap in SWAPS}
        if unknown:
            raise ValueError(f"No swap has the name {', '.join(sorted(unknown))}.")


@dataclass(frozen=True)
class Swap:
    """One entry of the list."""

    name: str
    target: str  # what is swapped, on which object
    why: str
    place: str  # why it stands where it stands
    pruned_only: bool = False  # unpruned runs do without it
    install: Callable[[RunSwaps], AbstractContextManager[Any]] | None = None  # None: a `Part`


@contextmanager
def installed(run: RunSwaps) -> Iterator[None]:
    """Swap everything that a run uses inside the block; the model is then left as it was found.

    Raises
    ------
    UsageError
        If this thread is inside such a block of the same model already; other threads wait.
    """
    with ExitStack() as stack:
        stack.enter_context(exclusive(run.adapter.model))
        for swap in SWAPS:
            part = run.parts.get(swap.name)
            if swap.pruned_only and not run.pruned:
                continue
            if swap.install is not None:
                stack.enter_context(swap.install(run))
            elif part is not None:
                stack.enter_context(part())
        yield


# ---------------------------------------------------------- encoder attention


def default_speedups(adapter: Adapter) -> Speedups:
    """Everything that is faster here, for a stock model.

    A model whose encoders do not run transformers' `sdpa` has been set up on purpose, and stays
    as it is, as does one whose vision encoder does not take packed patches.
    """
    if not adapter.packed_attentions or encoder_attention(adapter) != _USUAL:
        return STOCK
    weight = next(adapter.visual.parameters())
    return Speedups(best_for_encoders(weight.device, weight.dtype), is_nvidia(weight.device))


def best_for_encoders(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest attention for encoders: flash-attn where it is installed and can run."""
    from transformers.utils import is_flash_attn_2_available

    if device.type == "cuda" and dtype in HALF and is_flash_attn_2_available():
        return FLASH
    return SEGMENTS


def encoder_attention(adapter: Adapter) -> tuple[str, str]:
    """Names of the attention that the vision and the audio encoder run now."""
    encoders = (adapter.visual, adapter.audio_tower)
    vision, audio = (str(encoder.config._attn_implementation) for encoder in encoders)
    return vision, audio


def use_for_encoders(adapter: Adapter, name: str = SEGMENTS) -> AbstractContextManager[None]:
    """Let both encoders run the attention of that name inside the block (see `use_attention`).

    Parameters
    ----------
    name : str
        `SEGMENTS`, or a name that transformers knows.
    """
    own = segment_attention if name == SEGMENTS else None
    return use_attention((adapter.visual, adapter.audio_tower), name, own)


# -------------------------------------------------------------- fused modules


def fused_forwards(adapter: Adapter) -> Iterator[tuple[Any, Wrap]]:
    """Modules that a GPU can run in fewer kernels, each with what makes that `forward`."""
    for attention in adapter.packed_attentions:
        yield attention, partial(fused_modules.vision_attention, adapter.vision_states, attention)
    for module in adapter.visual.modules():
        if fused_modules.is_patch_convolution(module):
            yield module, partial(fused_modules.as_product, module)
        elif fused_modules.is_unaligned_mlp(module):
            yield module.gate_proj, partial(fused_modules.widened, module.gate_proj)
            yield module.up_proj, partial(fused_modules.widened, module.up_proj)
            yield module.down_proj, partial(fused_modules.of_widened, module.down_proj)
    for part in (adapter.visual, adapter.language_model):
        for module in part.modules():
            if fused_modules.is_rms_norm(module):
                yield module, partial(fused_modules.norm, module)


@contextmanager
def use_fused_modules(adapter: Adapter) -> Iterator[None]:
    """Let a model run these inside the block.

    Worth it on an NVIDIA GPU: there, the vision encoder's rotary embedding is one Triton kernel,
    the encoder's and the decoder's RMSNorms are two kernels each, and the encoder's products have
    aligned shapes. Parts on other devices run the stock code.
    """
    with ExitStack() as stack:
        for module, fused in list(fused_forwards(adapter)):
            stack.enter_context(replace_forward(module, fused))
        yield


# ----------------------------------------------------------------- memory


@contextmanager
def mlps_in_pieces(adapter: Adapter) -> Iterator[None]:
    """Let the vision encoder's MLPs take long clips piece by piece; rows do not see each other."""

    def wrap(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def in_pieces(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if hidden.ndim != 2 or len(hidden) <= MLP_ROWS:
                return forward(hidden, *args, **kwargs)
            pieces = torch.split(hidden, MLP_ROWS)
            return torch.cat([forward(piece, *args, **kwargs) for piece in pieces])

        return in_pieces

    with ExitStack() as stack:
        for mlp in adapter.vision_mlps:
            stack.enter_context(replace_forward(mlp, wrap))
        yield


# ------------------------------------------------------------- the text model


@contextmanager
def without_cudnn_sdpa(adapter: Adapter, *, prefill: bool) -> Iterator[None]:
    """Let the text model avoid cuDNN's attention; PyTorch's next best takes its place.

    The switch is one of the whole process, so it is off during calls of the text model only.

    Parameters
    ----------
    prefill : bool
        Also for prompts, and not only for the tokens of an answer.
    """

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        def without_cudnn(*args: Any, **kwargs: Any) -> Any:
            allowed = cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
            if not allowed or (is_prefill(kwargs) and not prefill):
                return forward(*args, **kwargs)
            cuda.enable_cudnn_sdp(False)
            try:
                return forward(*args, **kwargs)
            finally:
                cuda.enable_cudnn_sdp(True)

        return without_cudnn

    with replace_forward(adapter.language_model, wrap):
        yield


@contextmanager
def vectorized_mrope(adapter: Adapter) -> Iterator[None]:
    """Let a model compute its prompt's positions without a loop over tokens; results are equal."""
    with ExitStack() as stack:
        for part, name, vectorized in adapter.vectorized_methods():
            stack.enter_context(replace_method(part, name, vectorized))
        yield


SYNC_ROWS = (0, 1, 2, 0)  # positions that the sections of Sync-RoPE turn with: time, h, w, time


def sync_sections(head_dim: int) -> tuple[int, int, int, int]:
    """Sections of Sync-RoPE in pairs of channels, the fastest first: published for heads of 128.

    Time has the 18 fastest and the 10 slowest of 64 pairs, so that what is left after pruning can
    be told apart at any distance; height and width have 18 each (arXiv 2512.10324). Of other
    heads, height and width have as large a share, rounded down, and time the rest in proportion.
    """
    pairs = head_dim // 2
    side = pairs * 18 // 64
    fast = round((pairs - 2 * side) * 18 / 28)
    return fast, side, side, pairs - 2 * side - fast


@contextmanager
def sync_rope(adapter: Adapter) -> Iterator[None]:
    """Let a decoder rotate by the sections that its checkpoint was trained with, if it names some.

    `rope_sections`, in the `seats` entry of its config.json, are the pairs of channels that turn
    with time, height, width and time again.

    Raises
    ------
    ModelError
        If they do not make up a head of this decoder.
    """
    sections = adapter.own_settings().get("rope_sections")
    if sections is None:
        yield
        return
    rotary = adapter.language_model.rotary_emb
    frequencies = rotary.inv_freq
    known = isinstance(sections, (list, tuple)) and all(
        isinstance(size, int) and size >= 0 for size in sections
    )
    if not known or len(sections) != len(SYNC_ROWS) or sum(sections) != len(frequencies):
        raise ModelError(
            f"The config.json of this model has rope_sections {sections}: they must be four whole "
            f"numbers that add up to {len(frequencies)}, the pairs of channels of a head."
        )
    rows = torch.tensor(SYNC_ROWS).repeat_interleave(torch.tensor(sections))

    def wrap(forward: Callable[..., Any]) -> Callable[..., Any]:
        turning = rows.to(frequencies.device)

        def rotate(states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
            places = position_ids.expand(3, -1, -1)[turning.to(position_ids.device)]
            angles = places.movedim(0, -1).float() * rotary.inv_freq.float().to(places.device)
            angles = torch.cat((angles, angles), dim=-1)
            cos, sin = (part * rotary.attention_scaling for part in (angles.cos(), angles.sin()))
            return cos.to(states.dtype), sin.to(states.dtype)

        return rotate

    with replace_forward(rotary, wrap):
        yield


SWAPS = (
    Swap(
        "guards",
        target="`forward` and `generate` of the model, and `__deepcopy__` of its parts",
        why="Threads, copies, labels and generation without a cache would give wrong numbers.",
        place="First: what is refused has not begun, and what waits has not been timed.",
        pruned_only=True,
    ),
    Swap(
        "timing",
        target="hooks on both encoders, the text model and, for a profile, its layers",
        why="The seconds of every stage.",
        place="Around everything that the entries below add to these modules.",
    ),
    Swap(
        "lm_head",
        target="hooks on the LM head",
        why="transformers projects every prompt position to the vocabulary; generation needs the "
        "last one. Pruned and unpruned runs are treated alike, so pruning gets no credit for it.",
        place="Anywhere: no other entry touches the LM head.",
    ),
    Swap(
        "encoder_attention",
        target="`_attn_implementation` of both encoders' configs",
        why="Without flash-attn, transformers attends to every segment of an encoder in a Python "
        "loop; here all segments of one length are one call.",
        place="Anywhere: an attention looks its name up when it is called.",
        install=lambda run: (
            use_for_encoders(run.adapter, run.speedups.encoder_attention)
            if run.speedups.encoder_attention
            else nullcontext()
        ),
    ),
    Swap(
        "fused_modules",
        target="`forward` of norms, vision attentions, projections and the patch convolution",
        why="On a GPU they are many small kernels, or products of unaligned widths.",
        place="Anywhere: these modules lie inside the ones that other entries wrap.",
        install=lambda run: (
            use_fused_modules(run.adapter) if run.speedups.fused_modules else nullcontext()
        ),
    ),
    Swap(
        "mlps_in_pieces",
        target="`forward` of the vision blocks' MLPs",
        why="Of an hour of video, their inner states are the largest tensors there are.",
        place="Around the fused projections, which lie inside the MLPs.",
        install=lambda run: nullcontext() if run.speedups == STOCK else mlps_in_pieces(run.adapter),
    ),
    Swap(
        "vectorized_mrope",
        target="the method of the thinker and its core that interleaves positions",
        why="transformers' loop over all tokens takes longer than a pruned prefill.",
        place="Anywhere: no other entry touches positions before the text model.",
        install=lambda run: vectorized_mrope(run.adapter),
    ),
    Swap(
        "sync_rope",
        target="`forward` of the text model's rotary embedding",
        why="A checkpoint that was trained with Sync-RoPE says so in its config: all methods, and "
        "the unpruned run, then have the angles that its weights know.",
        place="Anywhere: the decoder works its rotary factors out once, before its first layer.",
        install=lambda run: sync_rope(run.adapter),
    ),
    Swap(
        "without_cudnn_sdpa",
        target="`forward` of the text model, around which cuDNN's SDPA is off",
        why="cuDNN plans anew, about 50 ms, for every length it has not seen. Pruned prompts and "
        "answers have such lengths all the time; for an unpruned prompt, cuDNN is the fastest.",
        place="Inside of decoding, so that steps are recorded without cuDNN, too.",
        install=lambda run: without_cudnn_sdpa(run.adapter, prefill=run.pruned),
    ),
    Swap(
        "static_regions",
        target="a hook on the vision encoder, and its `forward`",
        why="Stage 0: what has not changed since the frame before is not encoded again.",
        place="Before the encoder cache, which compares and keeps encodings of the whole clip.",
        pruned_only=True,
    ),
    Swap(
        "encoder_cache",
        target="`forward` of both encoders",
        why="Further questions about a clip find it encoded.",
        place="Around static regions. The hooks of the statistics sit on modules further in, so "
        "they rest when an output comes from the cache, which keeps what they noted.",
    ),
    Swap(
        "encoder_statistics",
        target="hooks on the encoders and on their last attention",
        why="Stage I needs the attention that every token receives there.",
        place="Behind static regions: the hook there works out what its own hooks have to expand.",
        pruned_only=True,
    ),
    Swap(
        "evidence",
        target="hooks on some layers of the text model",
        why="What the question attends to there says which moments the answer rests on.",
        place="Before the pruned prefill, which may take out of the cache what is read here.",
    ),
    Swap(
        "pruned_prefill",
        target="hooks on the model's core, the text model and its layers",
        why="Stages I to III: they carry a shrinking set of tokens through the decoder.",
        place="Behind timing: a segment of layers begins before its first layer's hooks here.",
        pruned_only=True,
    ),
    Swap(
        "one_prefill",
        target="the method of the model by which `generate` repeats a prompt for several answers",
        why="Beams and returned sequences continue one prompt: it is encoded and pruned once.",
        place="Anywhere: no other entry touches what `generate` prepares.",
        pruned_only=True,
    ),
    Swap(
        "decoding",
        target="`forward` of the text model",
        why="On a GPU, one recorded step takes less than half of the time of an eager one.",
        place="Last, so that it is put back first: the cache has layers that grow again before the "
        "hooks on it are gone.",
    ),
)
