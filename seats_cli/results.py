"""What was answered, measured and compared: plain objects that every report draws from.

At the end, the two functions that make any of them ready for JSON.
"""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from seats_cli import __version__
from seats_cli.config import FULL
from seats_cli.cost.token_counts import Evidence as Evidence
from seats_cli.families.generation import USUAL, Sampling

if TYPE_CHECKING:
    from seats_cli.config import SeatsConfig
    from seats_cli.cost.context import ContextUse
    from seats_cli.families.base import Architecture
    from seats_cli.media.clip import MediaFacts
    from seats_cli.schedule import PruningPlan
    from seats_cli.selection.alike_units import CarriedFacts
    from seats_cli.selection.methods.ablation import ModalityAblation
    from seats_cli.selection.static_regions import ReuseFacts
    from seats_cli.selection.trace import SelectionTrace


@dataclass(frozen=True)
class Spread:
    """Seconds of one stage over all repetitions."""

    median_s: float
    p10_s: float
    p90_s: float


def spread(seconds: Sequence[float]) -> Spread:
    """Median, 10th and 90th percentile of at least one duration."""
    return Spread(*np.percentile(seconds, (50, 10, 90)).tolist())


@dataclass(frozen=True)
class Timing:
    """Seconds of each stage: by CUDA events on a GPU, otherwise with the device synchronised.

    `prefill_s` is the LLM's prefill without the encoders; `select_s` (Stage I and II, with
    the encoder statistics) is part of the stages it runs in and reported separately as well.
    `first_token_s` counts from the start of preprocessing (media already read) to the first
    answer token. `decode_s` is for the tokens after the first, and `decoding` says how the model
    ran for them: "captured graph" or "dynamic cache", with the reason where a graph was not
    possible; empty where nothing was generated.
    """

    load_s: float
    read_s: float
    preprocess_s: float
    vision_s: float
    audio_s: float
    select_s: float
    prefill_s: float
    first_token_s: float
    decode_s: float
    decode_tokens: int
    total_s: float
    decoding: str = ""

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Answer tokens per second after the first, None for one-token answers."""
        return self.decode_tokens / self.decode_s if self.decode_tokens and self.decode_s else None


@dataclass(frozen=True)
class Cost:
    """FLOPs and bytes of a run: the LLM's prefill as executed, and what it takes unpruned.

    `*_flops` count 2 FLOPs per multiply-add with the LM head on the last position only;
    `paper_*_macs` follow the paper's convention (1 per multiply-add, LM head on every
    position). `selection_flops` is what choosing tokens adds to the prefill. Bytes are the KV
    cache right after the prefill, an estimate of the activations, and the process's or the
    device's peak. `encoder_flops` is what was executed, `full_encoder_flops` what encoding every
    patch of every frame takes; they differ only with Stage 0 and encoder reuse. `evidence_flops`
    is what reading the evidence adds where Stage II has no scores to read it from.

    This is what the question takes by itself. `executed_flops` is what was executed of encoders,
    selection and prefill: less where an earlier question about the clip has left some of it
    (`ClipSession`), where the first one also works out what others with other methods need.
    """

    prefill_flops: float
    full_prefill_flops: float
    paper_prefill_macs: float
    paper_full_prefill_macs: float
    encoder_flops: float
    kv_bytes: int
    full_kv_bytes: int
    peak_host_bytes: int
    peak_gpu_bytes: int | None
    selection_flops: float = 0.0
    decode_flops: float = 0.0
    activation_bytes: int = 0
    full_activation_bytes: int = 0
    full_encoder_flops: float = 0.0
    still: ReuseFacts | None = None  # None without Stage 0
    carried: CarriedFacts | None = None  # None without encoder reuse
    evidence_flops: float = 0.0
    executed_flops: float = 0.0

    @property
    def prefill_and_selection_flops(self) -> float:
        """What tables call FLOPs: the LLM's prefill and the choice of the tokens in it."""
        return self.prefill_flops + self.selection_flops


@dataclass(frozen=True)
class ModelFacts:
    """The model that answered."""

    id: str
    revision: str | None
    family: str
    parameters: int
    device: str
    dtype: str
    attention: str
    demonstration: bool
    encoder_attention: str = ""  # as transformers names it; "" if not recorded
    quick_parts: bool = False  # fused norms, rotary embeddings and encoder products on a GPU
    quantization: str = ""  # how its weights are or were quantized; "" if not at all
    adapter: str = ""  # the LoRA adapter on it, as the user named it; "" without one


@dataclass(frozen=True)
class ChoiceScore:
    """One option of a multiple-choice question: its likelihood among the options (0..1)."""

    text: str
    probability: float


@dataclass(frozen=True)
class Turn:
    """An earlier question about the clip and what was answered, without the reasoning before it."""

    question: str  # "" where nothing was asked, as of captioners
    answer: str


@dataclass(frozen=True, eq=False)
class Answer:
    """A question answered about one clip, with everything that a report shows."""

    question: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str  # "stop" or "length"
    media: MediaFacts
    effective_fps: float | None
    model: ModelFacts
    architecture: Architecture
    config: SeatsConfig | None  # None when the model ran unpruned
    plan: PruningPlan | None
    trace: SelectionTrace
    timing: Timing
    cost: Cost
    seed: int
    choices: tuple[ChoiceScore, ...] = ()
    context: ContextUse | None = None  # None for answers that no model gave
    warnings: tuple[str, ...] = ()
    system: str | None = None  # system turn of the prompt; None for the chat template's own
    thinking: str = ""  # what the model reasoned before it answered
    sampling: Sampling = USUAL  # as used; `max_new_tokens` holds for both together
    history: tuple[Turn, ...] = ()  # earlier turns that were part of the prompt
    # What it rests on, strongest first; empty without video and audio, and for a picture.
    evidence: tuple[Evidence, ...] = ()

    @property
    def cut_off(self) -> bool:
        """Whether the length ended the answer, or the reasoning before it."""
        return self.finish_reason == "length"


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What a profile and a comparison say about their subject: one question about one clip."""

    question: str
    media: MediaFacts
    effective_fps: float | None
    model: ModelFacts
    architecture: Architecture
    seed: int
    warnings: tuple[str, ...] = ()
    system: str | None = None  # system turn of the prompt; None for the chat template's own


# Stages of one run in order; none contains another. "rest" is what generate does between them
# up to the first token: positions, embeddings, LM head.
STAGES = ("processor", "vision", "audio", "stage1", "prefill", "stage2", "rest")
# Sums of stages, and what follows the first token; "total" begins with reading the file.
TOTALS = ("prefill_and_selection", "first_token", "decode_per_token", "total")
READING = ("probe", "media_decode")
# Shown in place of a speed-up.
NO_RATIO = "unpruned does not fit: no ratio"
# Parts of Stage I: statistics inside the encoders, and the choice before the LLM.
STAGE1_PARTS = ("stage1_statistics", "stage1_choice")


@dataclass(frozen=True)
class RunSpec:
    """A labelled configuration to measure or compare; None runs the model unpruned.

    With `blind`, nothing is selected: a modality is hidden from a layer on.
    """

    label: str
    config: SeatsConfig | None
    blind: ModalityAblation | None = None

    @property
    def method(self) -> str:
        """Selection method, "full" for the unpruned model.

        "still" with Stage 0 alone, "reuse" with encoder reuse, alone or with it.
        """
        if self.blind is not None:
            return "blind"
        if self.config is None:
            return FULL
        if self.config.method != FULL or self.config.encoder_skips is None:
            return self.config.method
        return "reuse" if self.config.reuses_states else "still"

    @property
    def retain(self) -> float | None:
        """Overall share asked for."""
        return None if self.config is None else self.config.retain


@dataclass(frozen=True)
class LayerSegment:
    """Consecutive decoder layers from one drop to the next."""

    first_layer: int  # 1-based, inclusive
    last_layer: int
    tokens: int  # tokens that the first of them processes
    time: Spread  # seconds of all of them together, without Stage II
    flops: float  # of all of them together


@dataclass(frozen=True)
class Bottleneck:
    """The stage that takes most of the time to the first token."""

    stage: str  # one of `STAGES`
    share_of_first_token: float  # 0..1


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """One configuration, measured several times."""

    label: str  # its name in tables: "full", "seats 10%"
    method: str  # selection method, "full" for the unpruned run
    retain: float | None  # overall share asked for; None for the unpruned run
    times: Mapping[str, Spread]  # of every name in `STAGES`, `TOTALS` and `STAGE1_PARTS`
    # The prefill, split after the drops of the configuration that has the most of them.
    segments: tuple[LayerSegment, ...]
    alive: tuple[tuple[int, int, int], ...]  # video, audio and text tokens in each decoder layer
    average_retention: float | None  # audio-visual, mean over layers; None without such tokens
    cost: Cost  # FLOPs and bytes; its peaks are the largest over the repetitions
    decode_tokens: int  # answer tokens after the first, over which decoding was measured

    def speed_up(self, full: MeasuredRun | None, stage: str) -> float | None:
        """The unpruned run's median over this one's: below 1 where this one is slower.

        None for a stage that only one of them has, and if the unpruned model did not fit.
        """
        if full is None:
            return None
        own, whole = self.times[stage].median_s, full.times[stage].median_s
        return whole / own if own > 0 and whole > 0 else None

    @property
    def flops_ratio(self) -> float:
        """How many times fewer FLOPs prefill and selection take than the unpruned prefill."""
        return self.cost.full_prefill_flops / self.cost.prefill_and_selection_flops

    @property
    def achieved_flops_per_s(self) -> float | None:
        """FLOPs per second of the LLM's layers in the prefill, selection not counted."""
        seconds = self.times["prefill"].median_s
        return self.cost.prefill_flops / seconds if seconds > 0 else None

    @property
    def encoder_share(self) -> float | None:
        """Share of the encoders in the time to the first token."""
        whole = self.times["first_token"].median_s
        encoders = self.times["vision"].median_s + self.times["audio"].median_s
        return encoders / whole if whole > 0 else None

    @property
    def bottleneck(self) -> Bottleneck | None:
        """What to make faster next; None where nothing was timed."""
        whole = self.times["first_token"].median_s
        stage = max(STAGES, key=lambda name: self.times[name].median_s)
        own = self.times[stage].median_s
        return Bottleneck(stage, own / whole) if whole > 0 and own > 0 else None

    @property
    def selection_share(self) -> float | None:
        """Share of Stage I and II in the prefill that contains them."""
        whole = self.times["prefill_and_selection"].median_s
        own = self.times["stage1"].median_s + self.times["stage2"].median_s
        return own / whole if whole > 0 else None


@dataclass(frozen=True, eq=False)
class SessionRun:
    """One configuration, asked different questions about one clip in a `ClipSession`.

    If it could not run, only `error` is set.
    """

    label: str
    method: str
    retain: float | None
    first_tokens: tuple[Spread, ...] = ()  # of each; the first with reading, processor, encoders
    further: Spread | None = None  # over all questions but the first
    session_bytes: int = 0  # held for further questions, without the clip itself
    error: str | None = None

    @property
    def ratio(self) -> float | None:
        """The first question's median over that of further ones."""
        if self.further is None or not self.further.median_s:
            return None
        return self.first_tokens[0].median_s / self.further.median_s


@dataclass(frozen=True)
class FailedRun:
    """A configuration that could not be measured, and why."""

    label: str
    method: str
    retain: float | None
    error: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Profile(Measurement):
    """Everything that `seats profile` measured."""

    offered: tuple[int, int, int]  # video, audio and text tokens of the prompt
    clock: str  # how stages were timed: by CUDA events, or by the host's clock
    warm_ups: int
    repeats: int
    load_s: float
    reading: Mapping[str, Spread]  # of the names in `READING` that apply; the same for all runs
    # The unpruned model; None if memory ran out in it, and then it is in `failed`.
    full: MeasuredRun | None
    pruned: tuple[MeasuredRun, ...]  # the others; not empty if `full` is None
    failed: tuple[FailedRun, ...]  # configurations that could not run
    threads: int  # CPU threads that torch used
    # Asked in sessions, one for each of `runs`; both empty where one question was profiled.
    questions: tuple[str, ...] = ()
    sessions: tuple[SessionRun, ...] = ()

    @property
    def runs(self) -> tuple[MeasuredRun, ...]:
        """All runs that were measured, the unpruned one first."""
        return self.pruned if self.full is None else (self.full, *self.pruned)


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """One method and budget, compared with the unpruned model.

    If it cannot run, only `error` is set. If the unpruned model cannot, what says how far they
    agree is None.
    """

    label: str
    method: str
    retain: float | None
    answer: Answer | None = None
    same_answer: bool | None = None  # whether the text equals that of the unpruned model
    same_first_token: bool | None = None  # whether the likeliest first token is the same
    # Kullback-Leibler divergence of the first token's distribution from the unpruned one's.
    first_token_kl_nats: float | None = None
    token_agreement: float | None = None  # share of equal positions, of the longer answer
    prefill_and_selection_s: float | None = None  # with the selection inside the encoders
    error: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison(Measurement):
    """The runs of `seats compare`; the first is the unpruned model, whether it fits or not."""

    runs: tuple[ComparedRun, ...]

    @property
    def unpruned_fits(self) -> bool:
        """Whether the unpruned model answered."""
        return self.runs[0].error is None


_VERSIONED = "torch torchvision transformers accelerate bitsandbytes peft av librosa"


def versions() -> dict[str, str | None]:
    """Installed versions of the packages behind an answer, without importing them."""
    found: dict[str, str | None] = {"seats-cli": __version__, "python": platform.python_version()}
    for name in _VERSIONED.split():
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def jsonable(value: Any) -> Any:
    """The value as dict, list, str, int, finite float, bool and None alone."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        # A file name that is not UTF-8 carries lone surrogates, which JSON readers refuse.
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value))
    if hasattr(value, "item"):  # numpy and torch scalars
        return jsonable(value.item())
    return str(value)
